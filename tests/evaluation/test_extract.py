"""Features in files, whole or gone on with, and the nearest images of given ones."""

import csv

import cv2
import numpy as np
import pytest
from folders import folder_config
from tiny import saved_run
from whole_runs import command, image_folder

import repre_jax
from repre_jax.config_files import read_config
from repre_jax.data.host.crops import centre_view
from repre_jax.data.sources import open_source
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation import extract
from repre_jax.evaluation.features import extract_features, unit_rows


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A DINO run with random parameters, and 20 + 11 images of two classes."""
    root = tmp_path_factory.mktemp("extract")
    saved_run(root / "run", "dino", steps=(3,))
    image_folder(root / "images", train=20, val=11)
    return root


def config_of(root, **changes):
    config = read_config("eval/features")
    config.update({"checkpoint": str(root / "run"), "devices": 1, "batch_size": 8})
    config.data.update({"source": "folder", "path": str(root / "images")})
    config.update_from_flattened_dict(changes)
    return config


def read(folder, results):
    """Columns of all files, one after the other."""
    files = [np.load(folder / name) for name in results["metrics"]["files"]]
    return {key: np.concatenate([file[key] for file in files]) for key in files[0].files}


@pytest.fixture(scope="module")
def written(root, tmp_path_factory):
    """(results, folder) of an extraction in three files with the maps of two blocks."""
    folder = tmp_path_factory.mktemp("written") / "features"
    changes = {"images_per_file": 8, "tokens": (-1, 1)}
    return evaluate(config_of(root, **changes), folder), folder


def test_a_row_an_image(root, written):
    results, folder = written
    rows = read(folder, results)
    source = open_source(folder_config(root / "images"), "train")
    assert results["value"] == 20 and len(results["metrics"]["files"]) == 3
    assert rows["name"].tolist() == [source.name_of(k) for k in range(20)]
    np.testing.assert_array_equal(rows["index"], np.arange(20))
    np.testing.assert_array_equal(rows["label"], source.labels)
    encoder = repre_jax.load(root / "run")
    some = [0, 9, 19]
    pixels = np.stack([centre_view(source.read(k), 16) for k in some])
    np.testing.assert_allclose(rows["feature"][some], encoder.features(pixels), atol=1e-4)
    for block, expected in zip((3, 1), encoder.maps(pixels, (3, 1)), strict=True):
        np.testing.assert_allclose(rows[f"block_{block}"][some], expected, atol=1e-4)


def test_an_interrupted_extraction_goes_on(root, written, tmp_path, monkeypatch):
    """One whole file is kept as it is, the torn one is made anew."""
    results, whole = written
    changes = {"images_per_file": 8, "tokens": (-1, 1)}
    folder = tmp_path / "features"

    def stop_after(count):
        files = iter(range(count))

        def limited(*arguments):
            if next(files, None) is None:
                raise KeyboardInterrupt
            return extract_features(*arguments)

        return limited

    with monkeypatch.context() as patch:
        patch.setattr(extract, "extract_features", stop_after(2))
        with pytest.raises(KeyboardInterrupt):
            evaluate(config_of(root, **changes), folder)
    first, second, _ = (folder / name for name in results["metrics"]["files"])
    kept = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:100])
    with pytest.raises(UserError, match=r"tokens: \[-1, 1\] -> \[\]"):
        evaluate(config_of(root, **changes | {"tokens": ()}), folder)
    with monkeypatch.context() as patch:
        patch.setattr(extract, "extract_features", stop_after(2))
        resumed = evaluate(config_of(root, **changes), folder)
    assert first.stat().st_mtime_ns == kept
    for key, expected in read(whole, results).items():
        np.testing.assert_array_equal(read(folder, resumed)[key], expected)


def test_unlabelled_images_and_unreadable_ones(root, tmp_path):
    images = image_folder(tmp_path / "images", train=6, val=2) / "train" / "dark"
    broken = sorted(images.iterdir())[1]
    broken.write_bytes(b"no image")
    folder = tmp_path / "features"
    results = evaluate(config_of(root, **{"data.path": str(images)}), folder)
    rows = read(folder, results)
    assert "label" not in rows
    assert rows["index"].tolist() == [0, 2]
    assert [broken.name in name for name in rows["name"]] == [False, False]
    ((unreadable, _),) = next(iter(results["unreadable"].values())).items()
    assert unreadable.endswith(broken.name)
    with pytest.raises(UserError, match="has no validation split: set split=train"):
        evaluate(config_of(root, **{"data.path": str(images), "split": "val"}), None)


def test_of_no_image_that_can_be_read_nothing_is_left(root, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for k in range(2):
        (flat / f"{k}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="None of the images of"):
        evaluate(config_of(root, **{"data.path": str(flat)}), tmp_path / "features")
    assert not (tmp_path / "features").exists()


def test_parquet_holds_the_same(root, written, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    results, folder = written
    changes = {"format": "parquet", "images_per_file": 16, "tokens": (1,)}
    evaluate(config_of(root, **changes), tmp_path / "features")
    table = parquet.read_table(sorted((tmp_path / "features").glob("*.parquet")))
    expected = read(folder, results)
    assert table["name"].to_pylist() == expected["name"].tolist()
    for name in ("index", "label"):
        np.testing.assert_array_equal(table[name], expected[name])
    for name in ("feature", "block_1"):
        rows = [chunk.to_numpy_ndarray() for chunk in table[name].chunks]
        np.testing.assert_allclose(np.concatenate(rows), expected[name], atol=1e-5)


def test_neighbours_are_those_of_the_cosine(root, written, capsys, tmp_path):
    """Of a training image, which is not its own neighbour, and of another one."""
    results, folder = written
    rows = read(folder, results)
    other = tmp_path / "other.png"
    cv2.imwrite(str(other), np.full((20, 20, 3), 200, np.uint8))
    asked = f"{rows['name'][4]},{other}"
    found = evaluate(config_of(root, neighbours_of=asked, neighbours=3), tmp_path / "near")
    with open(tmp_path / "near" / "neighbours.csv") as file:
        table = list(csv.DictReader(file))
    unit = unit_rows(rows["feature"])
    cosines = unit @ unit[4]
    cosines[4] = -2
    nearest = np.argsort(-cosines, kind="stable")[:3]
    assert [int(row["index"]) for row in table[:3]] == nearest.tolist()
    assert [float(row["similarity"]) for row in table[:3]] == pytest.approx(cosines[nearest], 1e-4)
    assert [row["name"] for row in table[:3]] == rows["name"][nearest].tolist()
    assert {row["query"] for row in table[3:]} == {str(other)} and len(table) == 6
    assert {row["class"] for row in table} <= {"bright", "dark"}
    assert table[0]["name"] in capsys.readouterr().out
    # Another picture in its place is another question.
    cv2.imwrite(str(other), np.full((20, 20, 3), 10, np.uint8))
    with pytest.raises(UserError, match="files"):
        evaluate(config_of(root, neighbours_of=asked, neighbours=3), tmp_path / "near")
    assert found["value"] == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "test"}, "split='test' must be one of train, val."),
        ({"format": "csv"}, "format='csv' must be one of npz, parquet."),
        ({"tokens": (4,)}, "tokens has block 4: there are blocks 0 to 3."),
        ({"neighbours_of": "nothing.jpg"}, "neighbours_of names nothing.jpg, which cannot be read"),
        ({"neighbours": 0}, "neighbours=0 must be at least 1."),
    ],
)
def test_mistakes(root, changes, words, tmp_path):
    with pytest.raises(UserError) as error:
        evaluate(config_of(root, **changes), tmp_path / "features")
    assert words in str(error.value)
    assert not (tmp_path / "features").exists()


def test_by_the_command_line(root, tmp_path, capsys):
    given = ("--config=configs/eval/features.py", f"--config.checkpoint={root / 'run'}")
    data = ("--config.data.source=folder", f"--config.data.path={root / 'images'}")
    more = ("--config.tokens=2,-1", "--config.split=val", f"--workdir={tmp_path / 'features'}")
    more += ("--config.devices=1", "--config.batch_size=8")
    assert command(*given, *data, *more) == 0
    assert "features of 11 images in 1 file(s), of run" in capsys.readouterr().out
    with np.load(tmp_path / "features" / "features-00000-of-00001.npz") as file:
        assert {"block_2", "block_3", "feature"} <= set(file.files)
