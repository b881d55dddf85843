"""Keys that every evaluation shares; what is None is taken from the run."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(task: str) -> ConfigDict:
    """The shared keys of an evaluation of the run's images."""
    config = of_an_encoder(task)
    config.data = data_of_the_run()
    config.cache_path = ""  # folder for features; empty: features/ beside the workdir
    return config


def of_an_encoder(task: str) -> ConfigDict:
    """The shared keys of every evaluation; ``data`` is the task's matter."""
    config = ConfigDict()
    config.task = task
    config.seed = 0
    config.workdir = ""  # empty: <run>/eval/<task>-<weights>-<step>-<hash of the settings>
    config.stopped_is_success = False  # exit with 0, not 143, when SIGTERM has stopped and saved

    # Folder of a run, one of those in its checkpoints/, or weights of another library.
    config.checkpoint = ""
    config.step = placeholder(int)  # None: the newest checkpoint
    # "auto": what the method's paper evaluates. Or "online", "target", "random" (step 0).
    config.weights = "auto"
    config.image_size = placeholder(object)  # pixels: 224, or (height, width)
    config.compute_dtype = "auto"  # bfloat16 on accelerators, float32 on a CPU

    config.batch_size = 256  # images that are encoded at a time, over all devices
    config.devices = 0  # 0: all
    return config


def data_of_the_run() -> ConfigDict:
    """``config.data``: every key None, that is, the run's."""
    kinds = {"source": str, "path": str, "name": str, "labels": str, "workers": int}
    kinds |= {"cache_size": int, "cache_path": str, "range": tuple}
    return ConfigDict({key: placeholder(kind) for key, kind in kinds.items()})


def segmentation_data() -> ConfigDict:
    """``config.data`` of images with a class for every pixel; data/segmentation/layouts.py."""
    data = ConfigDict()
    data.layout = "camvid"  # or "voc", "ade20k", "cityscapes", "folder", "tfds"
    data.path = ""  # folder of the set
    data.name = ""  # of data.layout=tfds: the data set, as in "cityscapes"
    # Of data.layout=folder and tfds: its two folders, with train/ and val/ in each, or features;
    # the number of classes, and the ids of pixels that have none.
    data.images = "images"
    data.labels = "labels"
    data.classes = 0
    data.ignore = ()
    return data
