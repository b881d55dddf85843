"""What a checkpoint is worth: one kind of evaluation a file; ``TASKS`` lists them by name."""

from repre_jax.evaluation import extract, few_label, health, knn
from repre_jax.evaluation.correspondence import measure as propagation
from repre_jax.evaluation.detection import measure as detection
from repre_jax.evaluation.finetune import measure as finetune
from repre_jax.evaluation.linear import measure as linear
from repre_jax.evaluation.segmentation import linear as linear_segmentation
from repre_jax.evaluation.segmentation import nearest as dense_knn
from repre_jax.evaluation.segmentation.setr import measure as setr
from repre_jax.evaluation.task import Task

TASKS: dict[str, Task] = {
    "knn": knn.TASK,
    "few_label": few_label.TASK,
    "linear": linear.TASK,
    "finetune": finetune.TASK,
    "health": health.TASK,
    "features": extract.TASK,
    "propagation": propagation.TASK,
    "dense_knn": dense_knn.TASK,
    "linear_segmentation": linear_segmentation.TASK,
    "setr": setr.TASK,
    "detection": detection.TASK,
}
