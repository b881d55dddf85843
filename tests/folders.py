"""Small image folders for tests, and the config that names them."""

import io
import tarfile

import cv2
import numpy as np
from ml_collections import ConfigDict


def folder_config(path, **fields) -> ConfigDict:
    values = {"source": "folder", "path": str(path), "name": "", "cache_size": 0}
    return ConfigDict(values | {"cache_path": ""} | fields)


def write_image(path, value=100, height=20, width=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(path.suffix.lower(), np.full((height, width, 3), value, np.uint8))
    path.write_bytes(data.tobytes())


def labelled_folder(root):
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                write_image(root / split / name / f"{number}.png", 50 * label + number)
    return root


def add_to_tar(archive, files):
    """Writes {name: bytes} behind what the archive holds."""
    with tarfile.open(archive, "a") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
