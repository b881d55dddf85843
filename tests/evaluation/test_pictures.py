"""Pictures of evaluations: written whole, and a full disk is told."""

import errno
from pathlib import Path

import cv2
import numpy as np
import pytest

from repre_jax.errors import UserError
from repre_jax.evaluation.pictures import save_picture


def test_a_picture_is_the_one_that_was_given(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    save_picture(tmp_path / "figures" / "a.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "figures/a.png"))[..., ::-1], picture)
    assert [x.name for x in (tmp_path / "figures").iterdir()] == ["a.png"]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="no space is left there"):
        save_picture(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
