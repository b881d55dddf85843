"""Label propagation against the authors' code, DAVIS's measures, clips, and the whole task."""

import json
import shutil

import cv2
import numpy as np
import pytest
from compilations import compilations
from dense_sets import camvid_folder, save_with_palette, scene
from golden.cases_dense import PROPAGATION, VIDEO, video
from golden.compare import FOLDER
from PIL import Image
from tiny import saved_run

from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.evaluate import evaluate
from repre_jax.evaluation.correspondence.carrier import enlarged, patch_labels
from repre_jax.evaluation.correspondence.clips import clips_of
from repre_jax.evaluation.correspondence.propagate import (
    Settings,
    as_classes,
    first_context,
    propagate,
)
from repre_jax.evaluation.correspondence.region_and_boundary import (
    boundary,
    boundary_measure,
    region_similarity,
)
from repre_jax.evaluation.segmentation.maps import unit

GOLDEN = dict(np.load(FOLDER / "dense.npz"))


def test_labels_are_those_of_the_official_script():
    features, first = video()
    grid, settings = VIDEO["grid"], Settings(**PROPAGATION)
    flat = np.asarray(unit(features)).reshape(len(features), grid[0] * grid[1], -1)
    labels = patch_labels(first, grid, VIDEO["classes"])
    context = first_context(flat[0], labels, settings)
    size = tuple(side * VIDEO["patch"] for side in grid)
    for t in range(1, len(flat)):
        context, soft = propagate(context, flat[t], grid=grid, settings=settings)
        np.testing.assert_allclose(soft, GOLDEN["propagation/soft"][t - 1], atol=1e-5)
        classes = enlarged(np.asarray(as_classes(soft, grid=grid, size=size)), VIDEO["size"])
        np.testing.assert_array_equal(classes, GOLDEN["propagation/classes"][t - 1])
    assert len(np.unique(GOLDEN["propagation/classes"][-1])) == 4, "else the test sees little"


def test_region_and_boundary_of_masks_by_hand():
    nothing, box = np.zeros((40, 50), bool), np.zeros((40, 50), bool)
    box[10:20, 10:20] = True
    moved = np.roll(box, 1, axis=1)
    assert region_similarity(nothing, nothing) == 1 == boundary_measure(nothing, nothing)
    assert region_similarity(box, moved) == pytest.approx(90 / 110)
    assert boundary_measure(box, moved) == 1, "a pixel aside is inside 0.8 % of the diagonal"
    assert boundary_measure(box, nothing) == 0 == boundary_measure(nothing, box)
    far = np.roll(box, 20, axis=1)
    assert boundary_measure(box, far) == 0 == region_similarity(box, far)
    assert boundary(box).sum() == 40  # 11 + 11 + 9 + 9


def test_clips():
    names = [f"a/x_{n:03d}.png" for n in (1, 3, 5, 7, 20, 22)] + ["b/0.png", "b/9.png"]
    frames = [clip.frames for clip in clips_of(names, 0)]
    assert frames == [(0, 1, 2, 3), (4, 5), (6, 7)]
    assert [clip.frames for clip in clips_of(names, 3)] == [(0, 1, 2), (4, 5), (6, 7)]
    assert clips_of(names[::-1], 0)[-1].name == "a/x_020"
    with pytest.raises(UserError, match="ends in no number"):
        clips_of(["a/x.png"], 0)
    with pytest.raises(UserError, match="there is no clip"):
        clips_of(["a/1.png"], 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("propagation")
    camvid_folder(root / "set")
    return saved_run(root / "dino", "dino", steps=(3,)).folder


def config_of(run, **changes):
    config = read_config("eval/propagation:smoke")
    config.checkpoint, config.data.path = str(run), str(run.parent / "set")
    config.update({"image_size": (24, 32), "blocks": (0, -1), "clip_frames": 0})
    config.update_from_flattened_dict(changes)
    return config


def test_whole_task(run, tmp_path):
    with compilations() as programs:
        results = evaluate(config_of(run, batch_size=3, devices=1), tmp_path / "one")
    assert programs["encode"] == 1
    # Features of one block, and of two side by side.
    assert max(programs[name] for name in ("first_context", "propagate")) <= 2
    metrics = results["metrics"]
    assert set(metrics["blocks"]) == set(metrics["random"]) == {"0", "3", "fused"}
    assert results["value"] == metrics["blocks"]["3"]["mean_iou"]
    assert 0 < metrics["first_frame"]["mean_iou"] < 1
    assert metrics["first_frame"]["iou"]["car"] < 0.9, "it moves"
    assert metrics["blocks"] != metrics["random"]
    picture = cv2.imread(str(tmp_path / "one" / "figures" / "prediction-00.png"))
    assert picture.shape == (24, 4 * 32 + 3 * 4, 3)
    assert "eval_video_segmentation" in results["formula"]


def test_a_run_that_began_with_other_weights_has_no_encoder_before_it(run, tmp_path):
    began = shutil.copytree(run, tmp_path / "run")
    config = json.loads((began / "config.json").read_text())
    config["model"]["init_from"] = "runs/b"
    (began / "config.json").write_text(json.dumps(config))
    changes = {"data.path": str(run.parent / "set"), "blocks": (-1,), "pictures": 0}
    results = evaluate(config_of(began, **changes), tmp_path / "results")
    assert set(results["metrics"]) == {"blocks", "first_frame"}
    assert "before training" not in results["line"]


@pytest.mark.slow
def test_one_device_is_eight(run, tmp_path):
    one, eight = (
        evaluate(config_of(run, batch_size=batch, devices=n), tmp_path / str(n))["metrics"]
        for n, batch in ((1, 3), (8, 8))
    )
    for name, found in one["blocks"].items():
        assert eight["blocks"][name]["mean_iou"] == pytest.approx(found["mean_iou"], abs=2e-3)


def test_davis(run, tmp_path):
    root = tmp_path / "davis"
    for number in range(4):
        image, label = scene(number)
        name = f"480p/drive/{number:05d}"
        save_with_palette(root / "Annotations" / f"{name}.png", (label == 8).astype(np.uint8))
        frame = root / "JPEGImages" / f"{name}.jpg"
        frame.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(frame)
    listed = root / "ImageSets" / "2017" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("drive\n")
    changes = {"data.layout": "davis", "data.path": str(root), "image_size": 64}
    changes |= {"beside_random": False, "blocks": (-1,), "devices": 1, "batch_size": 4}
    results = evaluate(config_of(run, **changes), tmp_path / "results")
    found = results["metrics"]["blocks"]["3"]
    assert results["metric"] == "j_and_f" and found["objects"] == 1
    assert results["value"] == pytest.approx((found["j"] + found["f"]) / 2)
    assert json.loads((tmp_path / "results" / "results.json").read_text()) == results


def test_mistakes(run):
    def told(**changes):
        with pytest.raises(UserError) as error:
            evaluate(config_of(run, **changes), None)
        return str(error.value)

    assert "clip_frames=1 leaves no frame" in told(clip_frames=1)
    assert "blocks has block 7: there are blocks 0 to 3" in told(blocks=(7,))
    assert "data.split='test' must be train or val" in told(**{"data.split": "test"})
    assert "must be one of davis, camvid" in told(**{"data.layout": "x"})
    davis = {"data.layout": "davis", "data.labels": "mine"}
    assert "data.labels is given, and data.layout=davis knows its folders" in told(**davis)
    assert "temperature=0.0 must be above 0" in told(temperature=0.0)


def test_a_clip_with_a_damaged_frame_is_left_out(run, tmp_path, capsys):
    root = camvid_folder(tmp_path / "set", val=6)
    (root / "images" / "val" / "0016E5_07002.png").write_bytes(b"no image")
    changes = {"data.path": str(root), "clip_frames": 3, "blocks": (-1,), "beside_random": False}
    results = evaluate(config_of(run, devices=1, batch_size=3, **changes), tmp_path / "results")
    assert "1 clips" in results["formula"]
    (reasons,) = results["unreadable"].values()
    ((name, reason),) = reasons.items()
    assert name.endswith("07002.png") and reason.endswith("is left out")
    told = capsys.readouterr().out
    assert f"1 of the 2 clips of CamVid, val of {root} cannot be read ({name}" in told
    (root / "images" / "val" / "0016E5_07008.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="None of the clips of CamVid, val of"):
        evaluate(config_of(run, **changes), tmp_path / "nothing")
