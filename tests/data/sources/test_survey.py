"""What is said of the images before a run, and that an ordinary set is passed over in silence."""

import io

import numpy as np
import pytest
from folders import folder_config, write_image
from ml_collections import ConfigDict
from numbered_images import Numbers
from PIL import Image

from repre_jax.data.sources import open_source
from repre_jax.data.sources import survey as survey_module
from repre_jax.data.sources.survey import survey


def write(path, mode, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options)


def source_of(folder, **fields):
    return open_source(folder_config(folder, **fields), "train")


def test_ordinary_images_are_no_news(tmp_path):
    for number in range(30):
        write(tmp_path / f"{number}.jpg", "L" if number == 0 else "RGB")
    assert survey(source_of(tmp_path)) == []


@pytest.mark.parametrize("cache_size", [0, 16])
def test_what_is_systematic_is_told_with_its_number(tmp_path, cache_size):
    for number in range(4):
        write(tmp_path / f"alpha{number}.png", "RGBA")
    frames = [Image.new("RGB", (50, 40), colour) for colour in ("red", "blue")]
    for number in range(3):
        frames[0].save(tmp_path / f"moving{number}.gif", save_all=True, append_images=frames[1:])
    for number in range(2):
        deep = Image.fromarray(np.full((40, 50), 4095, np.uint16))
        deep.save(tmp_path / f"deep{number}.png")
    write_image(tmp_path / "small.png", height=20)
    said = survey(source_of(tmp_path, cache_size=cache_size, cache_path=str(tmp_path / "cache")))
    assert said == [
        "4 of the 10 images looked at: an alpha channel, which is dropped.",
        "3 of the 10 images looked at: several frames or pages, of which the first is read.",
        "2 of the 10 images looked at: 12 bits in samples of 16, scaled to 8.",
        "2 of the 10 images looked at: grey, read as three equal channels.",
        "1 of the 10 images looked at: a side of less than 32 pixels.",
    ]


def test_unreadable_images_are_counted(tmp_path):
    write(tmp_path / "good.png", "RGB")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    (sentence,) = survey(source_of(tmp_path))
    assert sentence.startswith("1 of the 2 images looked at: cannot be read")


def test_looks_at_few_images_from_beginning_to_end(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")

    seen = []

    class Files(Numbers):
        def encoded(self, index):
            seen.append(index)
            return buffer.getvalue()

    survey(Files(1000), count=5)
    assert sorted(seen) == [0, 250, 500, 749, 999]
    seen.clear()
    monkeypatch.setattr(survey_module, "_SECONDS", 0)
    survey(Files(1000))
    assert len(seen) == 1


def test_images_that_never_were_files_have_nothing_to_tell():
    assert survey(open_source(ConfigDict({"source": "digits"}), "train")) == []
