"""The numbers of detection: published ones, changed ones, schedules, what decays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repre_jax.errors import UserError
from repre_jax.evaluation.detection.recipes import (
    RECIPES,
    described,
    form_of,
    protocol_of_backbone,
    published_recipe,
    with_changes,
)
from repre_jax.evaluation.detection.step import build_detector, build_trainer, initial_state
from repre_jax.models.detection.vitdet import detection_vit
from repre_jax.models.positions import sincos_2d
from repre_jax.models.swin import Swin
from repre_jax.models.vit import ViT
from repre_jax.schedules import Clock
from repre_jax.sharding import make_mesh
from repre_jax.training.optimizers import decayed_parameters, map_with_path


def test_encoders_get_the_numbers_of_their_size():
    assert published_recipe("vitdet", "vit_base") == RECIPES["vitdet"]
    large, huge = (published_recipe("vitdet", name) for name in ("vit_large", "vit_huge"))
    assert (large.drop_path, large.layer_decay) == (0.4, 0.8)
    assert (huge.drop_path, huge.layer_decay, huge.epochs) == (0.5, 0.9, 75.0)
    assert protocol_of_backbone("swin_tiny") == "swin_1x"
    assert protocol_of_backbone("vit_small") == "vitdet"


def test_changes_are_told():
    recipe = with_changes(RECIPES["vitdet"], {"epochs": 2.0, "batch_size": None})
    told = described(recipe, RECIPES["vitdet"], 512)
    assert "512 pixels, 2 epochs of AdamW at batch 64" in told
    assert told.endswith("changed from the published recipe: epochs=2.0 for 100.0")
    frozen = with_changes(recipe, {"train_encoder": False})
    assert "encoder frozen" in described(frozen, recipe, 512)
    form = form_of(recipe, 7)
    assert (form.classes, form.proposals, form.before_suppression) == (7, 1000, (2000, 1000))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 0.0}, r"recipe\.epochs=0\.0 must be above 0"),
        ({"scales": (2.0, 1.0)}, r"recipe\.scales=\(2\.0, 1\.0\) must be two numbers that rise"),
        ({"drops": (0.9, 0.5)}, r"recipe\.drops=\(0\.9, 0\.5\) must rise"),
        ({"before_suppression": (9,)}, "must be two numbers, of training and of test"),
        ({"window": 0}, r"recipe\.window=0 must be at least 1"),
    ],
)
def test_values_that_are_refused(changes, told):
    with pytest.raises(UserError, match=told):
        with_changes(RECIPES["vitdet"], changes)


def test_what_nothing_reads_is_refused_or_not_told():
    vitdet, swin = RECIPES["vitdet"], RECIPES["swin_1x"]
    for recipe, changes, told in (
        (vitdet, {"longest": 600}, r"longest=600 is given, and with recipe\.short_edges=\(\)"),
        (vitdet, {"crop": True}, r"crop=True is given, and with recipe\.short_edges=\(\)"),
        (swin, {"short_edges": (), "longest": 600}, "longest=600 is given"),
        (vitdet, {"train_encoder": False, "drop_path": 0.2}, "drop_path=0.2 is given, and with"),
        (vitdet, {"train_encoder": False, "layer_decay": 0.5}, "train_encoder=False nothing reads"),
    ):
        with pytest.raises(UserError, match=told):
            with_changes(recipe, changes)
    with_changes(swin, {"longest": 600, "crop": True, "drop_path": 0.2})
    with_changes(vitdet, {"crop": False, "train_encoder": False, "drop_path": 0.0})
    edges = with_changes(vitdet, {"short_edges": (320,), "scales": (0.5, 1.5)})
    told = described(edges, vitdet, 512)
    assert "short edges 320 to 320" in told and "scales" not in told


def tiny_trainer(encoder, protocol, side):
    """(trainer, shapes of all parameters); nothing is computed."""
    changes = {"pyramid_width": 8, "box_units": 8, "window": 2, "warmup_steps": 4}
    recipe = with_changes(published_recipe(protocol, ""), changes)
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    detector, params = build_detector(
        encoder, params, recipe, side=side, classes=2, mesh=make_mesh(1)
    )
    clock = Clock(10, 100)
    trainer = build_trainer(detector, params, recipe, side=side, clock=clock, seed=0)
    state = jax.eval_shape(lambda p: initial_state(trainer, p), params)
    return trainer, state.params


def undecayed(params):
    decays = decayed_parameters("all_but_norms", params)
    names = map_with_path(lambda path, _: path, params)
    pairs = zip(jax.tree.leaves(names), jax.tree.leaves(decays), strict=True)
    return [name for name, decayed in pairs if not decayed]


@pytest.mark.parametrize("position", ["learned", pytest.param("relative", marks=pytest.mark.slow)])
def test_a_vit_of_any_positions_becomes_a_detector(position):
    vit = ViT(16, 16, 5, 2, 32, position=position)
    trainer, params = tiny_trainer(vit, "vitdet", 64)
    assert trainer.detector.strides == (4, 8, 16, 32, 64)
    names = jax.tree.leaves(map_with_path(lambda path, _: path, params))
    assert ("encoder/position_embedding" in names) == (position != "relative")
    assert ("encoder/block_3/attention/relative_position/kernel" in names) == (
        position == "relative"
    )
    assert params["encoder"]["block_3"]["attention"]["row_offset"].shape == (3, 8)
    assert params["encoder"]["block_4"]["attention"]["row_offset"].shape == (7, 8)
    left = undecayed(params)
    assert all("norm" in name or name == "encoder/position_embedding" for name in left)
    assert sum("norm" in name for name in names) == sum("norm" in name for name in left)
    assert "encoder/block_3/attention/row_offset" not in left
    assert "box_head/classes/bias" not in left
    # detectron2's WarmupParamScheduler, at five steps.
    rate = RECIPES["vitdet"].learning_rate
    wanted = {0: 0.001, 2: 0.5005, 4: 1.0, 89: 0.1, 96: 0.01}
    for step, share in wanted.items():
        np.testing.assert_allclose(trainer.learning_rate(step), rate * share, rtol=1e-5)


def test_a_swin_becomes_a_detector_whose_windows_all_shift():
    swin = Swin(8, (2, 2, 2, 2), (1, 2, 2, 2), window=7, image_size=32)
    assert [swin.stage_window(k) for k in range(4)] == [7, 4, 2, 1]
    trainer, params = tiny_trainer(swin, "swin_1x", 64)
    encoder = trainer.detector.encoder
    assert [encoder.stage_window(k) for k in range(4)] == [7] * 4
    tables = [params["encoder"][f"block_{k}"]["attention"] for k in range(8)]
    assert all(t["relative_position_bias"].shape[0] == 13**2 for t in tables)
    assert trainer.detector.strides == (4, 8, 16, 32, 64)
    assert {f"norm_{k}" for k in range(4)} <= set(params["neck"])
    names = jax.tree.leaves(map_with_path(lambda path, _: path, params))
    left = [n for n in names if "norm" in n or n.endswith("relative_position_bias")]
    # 8 blocks with two norms and a table, patches, 3 mergings, the encoder's own norm, FPN's 4.
    assert len(left) == 8 * (2 * 2 + 1) + 2 * (1 + 3 + 1 + 4)
    assert undecayed(params) == left
    # mmdetection's step policy after a linear warm-up, at five steps.
    rate = RECIPES["swin_1x"].learning_rate
    for step, share in {0: 0.001, 2: 0.5005, 4: 1.0, 67: 0.1, 92: 0.01}.items():
        np.testing.assert_allclose(trainer.learning_rate(step), rate * share, rtol=1e-5)


@pytest.mark.slow
def test_as_many_parameters_as_detectron2_has_on_a_vit_of_base_size():
    """Its model of mask_rcnn_vitdet_b_100ep.py, without the class token's position, counted."""
    vit, recipe = ViT(16, 768, 12, 12, 224), RECIPES["vitdet"]
    images = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(vit.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    options = {"side": 1024, "classes": 80, "mesh": make_mesh(1)}
    detector, params = build_detector(vit, params, recipe, **options)
    trainer = build_trainer(detector, params, recipe, side=1024, clock=Clock(1000, 100_000), seed=0)
    state = jax.eval_shape(lambda p: initial_state(trainer, p), params)
    counts = {
        part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in state.params.items()
    }
    assert counts == {
        "encoder": 85_889_024 - 768,
        "neck": 5_560_000,
        "proposal_head": 1_184_015,
        "box_head": 15_618_449,
        "mask_head": 2_644_304,
    }


def test_patches_that_no_pyramid_can_be_built_on():
    vit, recipe = ViT(14, 16, 5, 2, 28), RECIPES["vitdet"]
    with pytest.raises(UserError, match="a quarter of the patch as its stride, and 14 pixels"):
        build_detector(vit, {}, recipe, side=56, classes=2, mesh=make_mesh(1))


def test_fixed_positions_become_parameters_of_their_grid():
    vit = ViT(16, 16, 1, 2, (32, 64), position="sincos_columns_first")
    backbone, params = detection_vit(vit, {}, window=2, drop_path=0.0, remat="none")
    wanted = sincos_2d((2, 4), 16, columns_first=True)[:, 1:]
    np.testing.assert_array_equal(params["position_embedding"], wanted)
    assert backbone.position_grid == (2, 4)
