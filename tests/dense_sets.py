"""Small sets of images whose pixels have classes, or with objects, as files."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.shapes import write_shapes


def scene(number: int, size: tuple[int, int] = (24, 32)) -> tuple[np.ndarray, np.ndarray]:
    """(RGB uint8 [H, W, 3], classes uint8 [H, W]): a sky, a road, a car that moves, a void edge."""
    rng = np.random.default_rng(number)
    label = np.zeros(size, np.uint8)
    label[size[0] // 2 :] = 3
    left = 2 + number % (size[1] // 2)
    label[size[0] // 2 - 4 : size[0] // 2 + 4, left : left + 10] = 8
    label[:, -1] = 11
    colours = np.zeros((256, 3), np.int64)
    colours[[0, 3, 8, 11]] = (90, 140, 220), (110, 110, 110), (180, 40, 30), (0, 0, 0)
    image = colours[label] + rng.integers(-20, 21, (*size, 3))
    return np.clip(image, 0, 255).astype(np.uint8), label


def camvid_folder(root: Path, *, train: int = 6, val: int = 5) -> Path:
    """A set in CamVid's layout whose frames are two numbers apart."""
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, label = scene(number + 100 * (split == "val"))
            name = f"0016E5_{7000 + 2 * number:05d}.png"
            cv2.imwrite(str(root / "images" / split / name), image[..., ::-1])
            cv2.imwrite(str(root / "labels" / split / name), label)
    return root


def save_with_palette(path: Path, label: np.ndarray) -> None:
    """Writes ids as a PNG with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label, mode="P")
    picture.putpalette(np.random.default_rng(0).integers(256, size=768).tolist())
    picture.save(path)


def upright_and_flat_shapes(root: Path, *, train: int, val: int, side: int) -> Path:
    """Generated shapes in images that are, by turns, twice as high as wide and twice as wide."""
    write_shapes(root, train=train, val=val, side=side)
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        limits = {}
        for number, image in enumerate(content["images"]):
            cut = "width" if number % 2 else "height"
            image[cut] = side // 2
            limits[image["id"]] = (image["width"], image["height"])
            file = root / split / image["file_name"]
            pixels = cv2.imread(str(file))[: image["height"], : image["width"]]
            cv2.imwrite(str(file), pixels)
        content["annotations"] = [
            thing
            for thing in content["annotations"]
            if all(
                low + extent <= limit
                for low, extent, limit in zip(
                    thing["bbox"][:2], thing["bbox"][2:], limits[thing["image_id"]], strict=True
                )
            )
        ]
        path.write_text(json.dumps(content))
    return root
