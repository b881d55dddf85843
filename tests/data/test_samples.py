"""A few images: of a source, or by their paths."""

import cv2
import numpy as np
import pytest

from repre_jax.data.samples import centre_views, read_samples, sample_images
from repre_jax.data.sources.decode import BadImage
from repre_jax.data.sources.digits import DigitsSource
from repre_jax.errors import UserError


class Broken:
    """A source of which only one image can be read."""

    description = "a broken source"

    def __len__(self):
        return 30

    def read_with_label(self, index):
        if index != 17:
            raise BadImage(str(index), "broken")
        return np.full((20, 20, 3), 17, np.uint8), -1

    def name_of(self, index):
        return f"image {index}"


def test_samples_are_of_images_that_can_be_read():
    samples = sample_images(Broken(), 6)
    assert {sample.name for sample in samples} == {"image 17"}
    views = centre_views(samples, 16)
    assert views.shape == (6, 16, 16, 3)
    assert np.unique(views) == 17


def test_samples_are_spread_over_the_source():
    digits = DigitsSource("val")
    samples = sample_images(digits, 3)
    places = (0, (len(digits) - 1) // 2, len(digits) - 1)
    assert [sample.name for sample in samples] == [digits.name_of(k) for k in places]
    assert [sample.label for sample in samples] == digits.labels[list(places)].tolist()


def test_samples_by_their_paths(tmp_path):
    for name, level in (("a", 10), ("b", 200)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 9, 3), level, np.uint8))
    paths = f"{tmp_path}/b.png, {tmp_path}/a.png"
    samples = read_samples(paths, "images")
    assert [int(sample.pixels.mean()) for sample in samples] == [200, 10]
    assert [sample.label for sample in samples] == [-1, -1]
    assert samples[0].pixels.shape == (8, 9, 3)
    (tmp_path / "c.png").write_bytes(b"no image")
    for wrong, reason in (("c.png", "cannot identify"), ("d.png", "No such file")):
        with pytest.raises(UserError, match=rf"^images names {tmp_path}/{wrong}, .*{reason}"):
            read_samples(f"{tmp_path}/a.png,{tmp_path}/{wrong}", "images")
