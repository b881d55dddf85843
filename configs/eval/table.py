"""Many checkpoints by the same protocols: table.md and table.csv.

    python main.py --config=configs/eval/table.py --config.runs='runs/*'
    python main.py --config=configs/eval/table.py --config.runs='runs/a,runs/b' \\
        --config.cells="('knn','linear')" --config.linear.seeds=3 --workdir=runs/table

Dense cells have images of their own, each under its name:

    python main.py --config=configs/eval/table.py --config.runs='runs/*' \\
        --config.cells="('knn','dense_knn','propagation')" \\
        --config.dense_knn.data.path=/data/camvid --config.propagation.data.path=/data/camvid

Cells that are finished, by this table or by hand, are reused; one that cannot be made is left
empty, and said in the end. Every other key of the evaluations can be set under their name. With
weights "random" beside "auto", every run is compared with its own encoder before training.
"""

from ml_collections import ConfigDict

from repre_jax.config_files import apply_variants, beside, read_config
from repre_jax.evaluation import defaults
from repre_jax.evaluation.detection import defaults as detection
from repre_jax.evaluation.segmentation.setr import defaults as setr

dense_knn = beside(__file__, "dense_knn")
few_label = beside(__file__, "few_label")
finetune = beside(__file__, "finetune")
health = beside(__file__, "health")
knn = beside(__file__, "knn")
linear = beside(__file__, "linear")
linear_segmentation = beside(__file__, "linear_segmentation")
propagation = beside(__file__, "propagation")

DENSE = (dense_knn, linear_segmentation, propagation)


def get_config(variants: str = ""):
    config = ConfigDict()
    config.task = "table"
    config.workdir = "runs/table"  # where the two files go
    config.runs = "runs/*"  # patterns of checkpoints, separated by commas
    config.cells = ("knn", "few_label", "linear")  # columns
    config.weights = ("auto",)  # rows of each run: "auto", "random", "online", "target"
    config.data = defaults.data_of_the_run()  # for all cells but the dense ones
    config.knn = of_a_cell(knn.get_config())
    config.few_label = of_a_cell(few_label.get_config())
    config.linear = of_a_cell(linear.get_config("sweep"))
    config.finetune = of_a_cell(finetune.get_config())
    config.health = of_a_cell(health.get_config())
    for cell in DENSE:
        config[cell.__name__] = of_a_cell(cell.get_config())
    config.setr = of_a_cell(read_config("segment/camvid_setr_vits"))
    config.detection = of_a_cell(read_config("detect/folder"))
    return apply_variants(config, variants.split(","), {"smoke": smoke})


def of_a_cell(config):
    """Without the keys that the table sets itself."""
    for key in ("task", "workdir", "checkpoint", "weights"):
        del config[key]
    return config


def smoke(config):
    """Every cell as its own ``:smoke``."""
    for cell in (few_label, finetune, health, knn, linear, *DENSE):
        cell.smoke(config[cell.__name__])
    setr.smoke(config.setr)
    detection.smoke(config.detection)
