"""The command that draws what was learnt: which figures, where, and what it says of the others."""

import cv2
import numpy as np
import pytest
from tiny import saved_run
from whole_runs import command, image_folder

from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import open_pretrained
from repre_jax.evaluation.online_network import load_online_network
from repre_jax.look import FIGURES, open_scene


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run of DINO with RePre and random parameters, in two checkpoints, and 12 + 11 images."""
    root = tmp_path_factory.mktemp("look")
    saved_run(root / "dino", "dino", steps=(3, 7))
    image_folder(root / "images", train=12, val=11)
    return root


@pytest.fixture
def look(root, capsys):
    """Function: (exit code, figures by name, what was printed) of a look at runs."""

    def run(runs, *more):
        checkpoint = ",".join(str(root / name) for name in runs.split(","))
        data = ("--config.data.source=folder", f"--config.data.path={root / 'images'}")
        code = command(
            "--config=configs/look.py:smoke", f"--config.checkpoint={checkpoint}", *data, *more
        )
        out, err = capsys.readouterr()
        return code, out, err

    return run


def names(folder):
    return {path.stem for path in folder.glob("*.png")}


def test_every_figure_of_a_run(root, look):
    code, out, err = look("dino", "--config.mass=0.6")
    assert (code, err) == (0, "")
    folder = root / "dino" / "figures" / "target-7"
    heads = {"attention_heads_block_3", "attention_heads_mass_block_3"}
    assert names(folder) == heads | {
        "attention",
        "attention_mass",
        "features",
        "embedding",
        "reconstructions",
        "reconstructions_by_tap",
        "neighbours",
    }
    for path in folder.glob("*.png"):
        assert str(path) in out
        height, width = cv2.imread(str(path)).shape[:2]
        assert 300 <= width <= 1000 and height > 100
    assert "Not drawn" not in out
    assert list((root / "dino" / "eval" / "features").glob("pooled-*"))


@pytest.mark.slow
def test_grey_rectangles_of_sixteen_bits(root, look):
    saved_run(root / "grey", "dino", channels=1, image_size=(16, 32))
    code, out, err = look("grey", "--config.data.range=(0,255)", "--config.count=2")
    assert (code, err) == (0, "") and "Not drawn" not in out
    assert names(root / "grey" / "figures" / "target-1") >= {"attention", "features", "neighbours"}


@pytest.mark.slow
def test_two_side_by_side(root, look, tmp_path):
    """Of given images: one picture of both, and one of each where it is of parts of an encoder."""
    given = sorted((root / "images" / "val").rglob("*.png"))[:2]
    code, out, err = look(
        "dino,dino/checkpoints/3",
        f"--config.images={given[0]},{given[1]}",
        "--config.figures=('attention','reconstructions')",
        f"--workdir={tmp_path}",
    )
    assert (code, err) == (0, "")
    of_each = {"attention_heads_block_3", "reconstructions_by_tap"}
    assert names(tmp_path) == {"attention", "reconstructions"} | {
        f"{name}_dino_{step}" for name in of_each for step in (3, 7)
    }
    assert "Not drawn" not in out


def test_what_a_run_cannot_give_is_told(root, look, tmp_path, monkeypatch):
    flat = tmp_path / "flat"
    flat.mkdir()
    for k in range(3):
        cv2.imwrite(str(flat / f"{k}.png"), np.full((20, 20, 3), 80 * k, np.uint8))
    monkeypatch.setattr("repre_jax.visualize.reconstructions.painters", lambda *_: {})
    more = (f"--config.data.path={flat}", f"--workdir={tmp_path / 'out'}")
    figures = "--config.figures=('embedding','reconstructions','features')"
    code, out, _ = look("dino", figures, *more)
    assert code == 0
    assert names(tmp_path / "out") == {"features"}
    assert "Not drawn: embedding: image folder" in out and "has no labels" in out
    assert "Not drawn: reconstructions: dino (target weights, step 7) reconstructs nothing" in out
    code, _, err = look("dino", "--config.figures=('embedding',)", *more)
    assert code == 2 and "Nothing could be drawn. embedding: image folder" in err


def test_weights_before_training_have_learnt_no_reconstruction(root):
    random = open_pretrained(root / "dino", weights="random")
    with pytest.raises(UserError, match="weights=random"):
        load_online_network(random)


def test_of_lomar(tmp_path, monkeypatch, capsys):
    """Its class token no loss has formed: similarity is shown, and the title says so."""
    saved_run(tmp_path / "lomar", "lomar")
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    titles = []
    monkeypatch.setattr(
        "repre_jax.visualize.attention.save_grid", lambda path, title, *_: titles.append(title)
    )
    given = ("--config=look", f"--config.checkpoint={tmp_path / 'lomar'}", "--config.mass=0.5")
    figures = "--config.figures=('attention','reconstructions')"
    assert command(*given, f"--config.images={image}", figures) == 0
    (title,) = titles
    assert "Cosine similarity of each token to the mean token" in title
    assert "Not drawn: attention: mass is a share of" in capsys.readouterr().out
    assert names(tmp_path / "lomar" / "figures" / "online-1") == {"masked_reconstructions"}


def test_folders_and_names_of_several(root):
    config = read_config("look")
    config.images = str(next((root / "images" / "val").rglob("*.png")))
    config.checkpoint = f"{root / 'dino'}, {root / 'dino' / 'checkpoints' / '3'}"
    scene = open_scene(config, None)
    assert [subject.name for subject in scene.subjects] == ["dino 7", "dino 3"]
    assert scene.folder == root / "dino" / "figures" / "target-7-beside-dino-3"
    assert scene.path("attention", scene.subjects[1]).name == "attention_dino_3.png"
    assert scene.row_name(scene.subjects[1], "block 2") == "dino 3\nblock 2"
    assert [subject.blocks for subject in scene.subjects] == [(3,)] * 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--config.figures=('attentions',)", f"'attentions' must be one of {', '.join(FIGURES)}."),
        ("--config.figures=()", "figures and blocks must name one at least."),
        ("--config.blocks=4", "blocks has block 4: there are blocks 0 to 3."),
        ("--config.mass=1.5", "mass=1.5 must be at least 0 and below 1."),
        ("--config.images=nothing.jpg", "images names nothing.jpg, which cannot be read"),
        ("--config.count=0", "count=0 must be at least 1."),
        ("--config.neighbours=8", "neighbours=8 must be at least 1 and at most 7."),
        ("--config.classes=40", "classes=40 must be at least 1 and at most 32."),
        ("--config.step=5", "has no checkpoint of step 5; there are 3, 7."),
    ],
)
def test_mistakes(look, given, words, tmp_path):
    code, _, err = look("dino", given, f"--workdir={tmp_path / 'out'}")
    assert code == 2 and words in err
    assert not (tmp_path / "out").exists()


def test_runs_that_see_other_values_of_the_same_images(root, look):
    saved_run(root / "grey", "dino", channels=1)
    code, _, err = look("dino,grey")
    assert code == 2 and "dino and grey have other model.channels (3, 1)" in err


def test_the_same_run_twice(look):
    code, _, err = look("dino,dino")
    assert code == 2 and "checkpoint names" in err and "name each once" in err
