"""Pictures that evaluations leave behind."""

from pathlib import Path

import cv2
import numpy as np

from repre_jax.runs.folder import written_whole


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Writes uint8 [H, W, 3], RGB, as a PNG, whole or not at all; makes its folder.

    Raises:
      UserError: disk full or no permission.
    """
    _, encoded = cv2.imencode(".png", picture[..., ::-1])
    with written_whole(path) as unfinished:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(encoded.tobytes())
