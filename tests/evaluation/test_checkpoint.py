"""Opening a run to evaluate it: the right weights, nothing touched, and a clear word otherwise."""

import json

import jax
import numpy as np
import pytest
from tiny import saved_run

from repre_jax.errors import UserError
from repre_jax.evaluation.checkpoint import open_pretrained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A DINO run of two checkpoints with random numbers in all its parameters."""
    return saved_run(tmp_path_factory.mktemp("runs") / "dino", "dino", steps=(3, 7))


def assert_same_tree(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(("weights", "part"), [("online", "params"), ("target", "target_params")])
def test_weights_are_those_that_were_saved_and_the_run_is_left_alone(run, weights, part):
    before = files(run.folder)
    pretrained = open_pretrained(run.folder, weights=weights)
    params = pretrained.load_params()
    assert (pretrained.step, pretrained.weights, pretrained.method) == (7, weights, "dino")
    assert_same_tree(params, getattr(run.states[7], part)["encoder"])
    assert files(run.folder) == before


def test_auto_is_what_the_paper_evaluates(run):
    assert open_pretrained(run.folder).weights == "target"


def test_the_method_says_how_it_is_evaluated(run):
    for weights in ("target", "random"):
        opened = open_pretrained(run.folder, weights=weights)
        assert opened.defaults == run.learner.method.evaluation
        assert opened.defaults.linear == "dino"


def test_the_run_says_how_its_encoder_takes_pixels(run, edited_config):
    assert open_pretrained(run.folder).encoder.normalisation
    edited_config(lambda config: config["model"].update(normalise=False))
    assert not open_pretrained(run.folder).encoder.normalisation


def test_a_step_can_be_named_in_two_ways(run):
    for pretrained in (
        open_pretrained(run.folder, step=3),
        open_pretrained(run.folder / "checkpoints" / "3"),
    ):
        assert pretrained.step == 3
        assert_same_tree(pretrained.load_params(), run.states[3].target_params["encoder"])


def test_random_weights_are_those_of_step_0(run):
    expected = jax.jit(lambda: run.learner.init().params["encoder"])()
    random = open_pretrained(run.folder, weights="random")
    assert random.step == 0
    assert_same_tree(random.load_params(), expected)


def test_a_run_that_began_with_other_weights_has_no_random_ones(run, edited_config):
    edited_config(lambda config: config["model"].update(init_from="runs/b"))
    assert open_pretrained(run.folder).weights == "target"
    with pytest.raises(UserError, match=r"began as runs/b \(model.init_from\)"):
        open_pretrained(run.folder, weights="random")


@pytest.mark.slow
def test_batch_norm_of_a_stem_is_read_with_its_running_statistics(tmp_path):
    run = saved_run(tmp_path / "conv", "dino", name="vit_conv_nano")
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    state, seen = run.states[1], []
    for weights, part in (("online", ""), ("target", "target_")):
        pretrained = open_pretrained(run.folder, weights=weights)
        params = pretrained.load_params()
        assert "norm_0" not in params["patch_embed"]
        seen.append(pretrained.encoder.apply({"params": params}, images).pooled)
        variables = {
            "params": getattr(state, f"{part}params")["encoder"],
            "batch_stats": getattr(state, f"{part}batch_stats")["encoder"],
        }
        expected = run.learner.encoder.apply(variables, images).pooled
        np.testing.assert_allclose(seen[-1], expected, atol=1e-4)
    assert np.abs(seen[0] - seen[1]).max() > 0.1
    random = open_pretrained(run.folder, weights="random")
    expected = random.encoder.init(jax.random.key(0), images)["params"]
    assert jax.tree.map(np.shape, random.load_params()) == jax.tree.map(np.shape, expected)


def test_fingerprints_tell_parameters_apart(run):
    opened = [
        open_pretrained(run.folder, weights=weights, step=step)
        for weights in ("online", "target")
        for step in (3, 7)
    ]
    opened.append(open_pretrained(run.folder, weights="random"))
    assert len({pretrained.fingerprint for pretrained in opened}) == 5
    assert (
        opened[0].fingerprint == open_pretrained(run.folder, weights="online", step=3).fingerprint
    )


@pytest.mark.parametrize("weights", ["online", "random"])
@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("model", {"normalise": False}),
        ("data", {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
        ("model", {"heads": 2}),
        ("model", {"norm_epsilon": 1e-5}),
        ("model", {"name": "swin_nano", "patch_size": 4, "image_size": 32}),
    ],
)
def test_the_same_parameters_in_another_encoder_are_told_apart(
    run, edited_config, weights, section, changes
):
    edited_config(lambda config: config["model"].update(position=None))
    first = open_pretrained(run.folder, weights=weights).fingerprint
    edited_config(
        lambda config: (config["model"].update(position=None), config[section].update(changes))
    )
    assert open_pretrained(run.folder, weights=weights).fingerprint != first


def test_a_swin_made_for_another_image_size_is_another(run, edited_config):
    """Its windows and shifts are fitted to it."""
    swin = {"name": "swin_nano", "patch_size": 4, "image_size": 32, "position": None}

    def fingerprint(**changes):
        edited_config(lambda config: config["model"].update(swin | changes))
        return open_pretrained(run.folder).fingerprint

    assert fingerprint() != fingerprint(image_size=224)
    assert fingerprint() == fingerprint(remat="block") == fingerprint(drop_path=0.1)


def test_a_run_older_than_a_key_has_its_default(run, edited_config):
    edited_config(lambda config: [config["model"].pop("window"), config["repre"].pop("decoder")])
    pretrained = open_pretrained(run.folder)
    assert pretrained.config.model.window is None
    assert pretrained.config.repre.decoder.layers == 2
    assert pretrained.config.model.image_size == 16  # the run's own


@pytest.fixture
def edited_config(run):
    path = run.folder / "config.json"
    before = path.read_text()

    def edit(change):
        config = json.loads(before)
        change(config)
        path.write_text(json.dumps(config))

    yield edit
    path.write_text(before)


def test_mistakes_are_told(run, tmp_path):
    def told(*arguments, **options):
        with pytest.raises(UserError) as error:
            open_pretrained(*arguments, **options)
        return str(error.value)

    assert "set --config.checkpoint" in told("")
    assert "does not exist" in told(tmp_path / "nowhere")
    assert "has no config.json" in told(tmp_path)
    assert "must be one of auto, online" in told(run.folder, weights="teacher")
    assert "no checkpoint of step 5; there are 3, 7." in told(run.folder, step=5)
    (tmp_path / "config.json").write_text((run.folder / "config.json").read_text())
    assert "has no checkpoint yet" in told(tmp_path)
    (tmp_path / "config.json").write_text('{"task": "knn"}')
    assert "is a run of task knn" in told(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read as the config of a run" in told(tmp_path)


def test_methods_without_a_target_say_so(run, edited_config):
    edited_config(lambda config: config.update(method={"name": "simclr"}))
    assert open_pretrained(run.folder).weights == "online"
    with pytest.raises(UserError, match="has no target network"):
        open_pretrained(run.folder, weights="target")


def test_a_checkpoint_of_another_patch_size(run, edited_config):
    edited_config(lambda config: config["model"].update(patch_size=4))
    with pytest.raises(UserError, match=r"patch_embed/kernel is \(8, 8, 3, 128\) there"):
        open_pretrained(run.folder).load_params()


def test_a_damaged_checkpoint(run):
    data = run.folder / "checkpoints" / "3" / "state" / "manifest.ocdbt"
    before = data.read_bytes()
    data.write_bytes(before[:10])
    try:
        with pytest.raises(UserError, match="is damaged"):
            open_pretrained(run.folder, step=3).load_params()
    finally:
        data.write_bytes(before)


def test_bytes_that_are_not_those_saved(run):
    """What is read is a part of the state, and verified as such."""
    path = run.folder / "checkpoints" / "3" / "about" / "metadata"
    before = path.read_text()
    about = json.loads(before)
    (name,) = (name for name in about["arrays"] if "target_params/encoder/norm/scale" in name)
    about["arrays"][name] = "0" * 64
    path.write_text(json.dumps(about))
    try:
        open_pretrained(run.folder, step=3, weights="online").load_params()  # not read
        with pytest.raises(UserError, match="not those that were saved"):
            open_pretrained(run.folder, step=3).load_params()
    finally:
        path.write_text(before)
