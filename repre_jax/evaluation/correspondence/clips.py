"""Videos whose frames have maps: which frames follow which, and where their labels lie."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from repre_jax.data.segmentation.label_maps import MOST_CLASSES, Classes
from repre_jax.data.segmentation.layouts import LAYOUTS, check_keys, open_segmentation
from repre_jax.data.segmentation.source import FilePairs, Pair
from repre_jax.errors import UserError

DAVIS = "davis"
_TRAILING_NUMBER = re.compile(r"(\d+)$")
# Objects by their numbers, as many as a frame may have.
_OBJECTS = Classes(tuple(map(str, range(MOST_CLASSES))), tuple(range(MOST_CLASSES)), (255,))


class Clip(NamedTuple):
    """Consecutive frames, the first of which is the one whose labels are given.

    Attributes:
      name: of the video, and of the first frame's number.
      frames: numbers of the images in their source.
    """

    name: str
    frames: tuple[int, ...]


def open_videos(data: ConfigDict, channels: int) -> tuple[FilePairs, FilePairs]:
    """The frames of ``data.split``, twice: labels come from the clips themselves, none is trained.

    Raises:
      UserError: no such layout, split or folder, or maps that are missing.
    """
    if data.split not in ("train", "val"):
        raise UserError(f"data.split={data.split!r} must be train or val.")
    if data.layout == DAVIS:
        frames = _open_davis(data, channels)
    else:
        if data.layout not in LAYOUTS:
            raise UserError(
                f"data.layout={data.layout!r} must be one of {DAVIS}, {', '.join(LAYOUTS)}."
            )
        frames = open_segmentation(data, channels)[data.split == "val"]
        if not isinstance(frames, FilePairs):
            raise UserError(
                f"data.layout={data.layout} has no names of files, by which frames follow each "
                "other: take a folder."
            )
    return frames, frames


def _open_davis(data: ConfigDict, channels: int) -> FilePairs:
    """DAVIS 2017: the videos of ImageSets/2017/<split>.txt, 480p."""
    check_keys(data)
    root = Path(data.path).expanduser()
    listed = root / "ImageSets" / "2017" / f"{data.split}.txt"
    if not listed.is_file():
        raise UserError(f"{listed} is missing: data.path must be the folder DAVIS itself.")
    pairs = []
    for video in listed.read_text().split():
        frames = sorted((root / "JPEGImages" / "480p" / video).glob("*.jpg"))
        if not frames:
            raise UserError(f"{listed} names {video}, which has no frame in JPEGImages/480p.")
        for frame in frames:
            below = f"480p/{video}/{frame.stem}"
            pairs.append(Pair(f"JPEGImages/{below}.jpg", f"Annotations/{below}.png"))
    return FilePairs(root, pairs, _OBJECTS, f"DAVIS 2017, {data.split},", channels)


def clips_of(names: Sequence[str], length: int) -> list[Clip]:
    """Cuts frames into clips by their names.

    A video is a folder and what stands before the number that ends a name; its frames follow by
    that number. Where a gap is larger than the video's median gap, another clip begins; a video in
    steps of 30 frames is one clip all the same.

    Args:
      names: of the frames, in any order.
      length: frames of a clip, at least 2; 0 for whole videos. What remains of a video at its end
        is a shorter clip, and no clip where it is a single frame.

    Raises:
      UserError: names without numbers, or no clip at all.
    """
    videos: dict[str, list[tuple[int, int]]] = {}
    for index, name in enumerate(names):
        path = PurePosixPath(name)
        number = _TRAILING_NUMBER.search(path.stem)
        if number is None:
            raise UserError(
                f"{name} ends in no number: frames of a video are told by the numbers of their "
                "names."
            )
        prefix = f"{path.parent}/{path.stem[: number.start()]}"
        videos.setdefault(prefix, []).append((int(number[1]), index))
    clips = []
    for frames in videos.values():
        frames.sort()
        gaps = np.diff([number for number, _ in frames])
        cuts = np.flatnonzero(gaps > np.median(gaps)) + 1 if len(gaps) else []
        for part in np.split(np.arange(len(frames)), cuts):
            step = length or max(len(part), 1)
            for start in range(0, len(part), step):
                chosen = [frames[k] for k in part[start : start + step]]
                if len(chosen) > 1:
                    first = PurePosixPath(names[chosen[0][1]])
                    name = f"{first.parent.name}/{first.stem}"
                    clips.append(Clip(name, tuple(index for _, index in chosen)))
    if not clips:
        raise UserError("No two frames follow each other by their names: there is no clip.")
    return clips
