"""Features and labels on which dense evaluations are compared with the authors' code."""

import numpy as np

VIDEO = {"frames": 12, "grid": (10, 14), "width": 16, "patch": 8, "classes": 4, "size": (90, 121)}
# The official script's own numbers but for the radius, for the sake of a small frame.
PROPAGATION = {"radius": 4, "neighbours": 5, "temperature": 0.1, "frames": 7}
DENSE = {"train": 6, "val": 3, "side": 8, "patch": 4, "width": 12, "classes": 5, "memory": 180}
DENSE_NEIGHBOURS, DENSE_TEMPERATURE = 30, 0.02


def video() -> tuple[np.ndarray, np.ndarray]:
    """(features float32 [T, gh, gw, D] that drift, classes uint8 [gh, gw] of the first frame)."""
    rng = np.random.default_rng(0)
    rows, columns = VIDEO["grid"]
    centres = rng.normal(size=(VIDEO["classes"], VIDEO["width"]))
    classes = np.zeros((rows, columns), np.uint8)
    classes[2:6, 2:7], classes[5:9, 8:13], classes[0:3, 9:12] = 1, 2, 3
    frames = []
    for t in range(VIDEO["frames"]):
        moved = np.roll(classes, (t // 4, t // 3), axis=(0, 1))
        frames.append(centres[moved] + 0.8 * rng.normal(size=(rows, columns, VIDEO["width"])))
    return np.asarray(frames, np.float32), classes


def pairs(split: str) -> tuple[np.ndarray, np.ndarray]:
    """(features float32 [n, N, D], classes uint8 [n, H, W]) of images without void."""
    count, side, patch = DENSE[split], DENSE["side"], DENSE["patch"]
    rng = np.random.default_rng({"train": 1, "val": 2}[split])
    centres = np.random.default_rng(3).normal(size=(DENSE["classes"], DENSE["width"]))
    blocks = rng.integers(DENSE["classes"], size=(count, 4, 4))
    labels = blocks.repeat(side * patch // 4, axis=1).repeat(side * patch // 4, axis=2)
    labels = np.roll(labels, 3, axis=(1, 2)).astype(np.uint8)  # patches of several classes
    middle = labels[:, patch // 2 :: patch, patch // 2 :: patch].reshape(count, -1)
    noise = rng.normal(size=(count, side**2, DENSE["width"]))
    return (centres[middle] + 1.2 * noise).astype(np.float32), labels


def draws() -> np.ndarray:
    """float32 [n, N], uniform, one for every patch of the training images."""
    return np.random.default_rng(4).random((DENSE["train"], DENSE["side"] ** 2), np.float32)


SETR = {"batch": 2, "grid": 4, "width": 12, "classes": 5, "size": 64, "shown": 4}
SETR_BLOCKS = {"naive": ((3,), (0, 1)), "pup": ((3,), (1, 3)), "mla": ((0, 1, 2, 3),) * 2}


def setr_maps(variant: str) -> list[np.ndarray]:
    """float32 [B, g, g, D] of the blocks that the heads of a variant read."""
    rng = np.random.default_rng(5)
    count = len({*SETR_BLOCKS[variant][0], *SETR_BLOCKS[variant][1]})
    shape = (SETR["batch"], SETR["grid"], SETR["grid"], SETR["width"])
    return [rng.normal(size=shape).astype(np.float32) for _ in range(count)]


def setr_labels() -> np.ndarray:
    """uint8 [B, H, W], some of them void."""
    rng = np.random.default_rng(6)
    return rng.choice([0, 1, 2, 3, 4, 255], size=(2, SETR["size"], SETR["size"])).astype(np.uint8)


def setr_values(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers for a parameter, or statistic, of this path, kernels scaled by their fan."""
    rng = np.random.default_rng([ord(letter) for letter in path])
    if path.endswith(("scale", "var")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    fan = np.prod(shape[:-1]) if len(shape) > 1 else 25
    return (rng.normal(size=shape) * fan**-0.5).astype(np.float32)
