"""What a checkpoint is worth: one kind of evaluation a file; ``TASKS`` lists them by name."""

from repre_jax.evaluation import extract, few_label, health, knn
from repre_jax.evaluation.detection import measure as detection
from repre_jax.evaluation.finetune import measure as finetune
from repre_jax.evaluation.linear import measure as linear
from repre_jax.evaluation.task import Task

TASKS: dict[str, Task] = {
    "knn": knn.TASK,
    "few_label": few_label.TASK,
    "linear": linear.TASK,
    "finetune": finetune.TASK,
    "health": health.TASK,
    "features": extract.TASK,
    "detection": detection.TASK,
}
