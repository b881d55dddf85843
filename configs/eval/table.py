"""Many checkpoints by the same protocols: table.md and table.csv.

    python main.py --config=configs/eval/table.py --config.runs='runs/*'
    python main.py --config=configs/eval/table.py --config.runs='runs/a,runs/b' \\
        --config.cells="('knn','linear')" --config.linear.seeds=3 --workdir=runs/table

Cells that are finished, by this table or by hand, are reused. Every key of the other evaluations
can be set under their name. With weights "random" beside "auto", every run is compared with its
own encoder before training.
"""

from ml_collections import ConfigDict

from configs.eval import default, few_label, finetune, health, knn, linear


def get_config():
    config = ConfigDict()
    config.task = "table"
    config.workdir = "runs/table"  # where the two files go
    config.runs = "runs/*"  # patterns of run folders, separated by commas
    config.cells = ("knn", "few_label", "linear")  # columns
    config.weights = ("auto",)  # rows of each run: "auto", "random", "online", "target"
    config.data = default.data_of_the_run()  # for all cells
    config.knn = knn.get_config()
    config.few_label = few_label.get_config()
    config.linear = linear.get_config("sweep")
    config.finetune = finetune.get_config()
    config.health = health.get_config()
    return config
