"""A page about runs, finished or not: report.html, which needs no network and no server.

    python main.py --config=configs/report.py --config.runs=runs/a
    python main.py --config=configs/report.py --config.runs=runs/a,runs/b --workdir=runs/compared

Every pre-training run writes its own at its end; with several runs their curves lie over each
other, and the page goes to the first one's folder or to --workdir. Curves of the project's own runs
(repre_jax/visualize/report/references) are drawn dashed beside runs of the same config file.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.task = "report"
    config.workdir = ""  # where the page goes; empty: the first run's folder
    config.runs = ""  # folders of runs, or patterns of them, separated by commas
    config.reference = ""  # "imagenette_dino", say; "none"; empty: that of the run's config file
    return config
