"""Whole files of other libraries: architecture, method, pixels, sizes; nothing goes unsaid."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_weights import depths, random_params, swin, vit
from safetensors.numpy import save_file

from repre_jax.convert.architecture import Told
from repre_jax.convert.foreign import read_foreign
from repre_jax.convert.names import to_theirs
from repre_jax.convert.tables import (
    BIG_VISION,
    HUGGING_FACE_DINOV2,
    HUGGING_FACE_SWIN,
    HUGGING_FACE_VIT,
    SWIN,
    TIMM_SWIN,
    VIT,
)
from repre_jax.errors import UserError
from repre_jax.image_size import height_and_width
from repre_jax.models import build_encoder
from repre_jax.models.positions import sincos_2d

TOLD = Told(heads=2, pixels="imagenet")


def params_of(kind) -> dict:
    return random_params(vit() if kind == "vit" else swin())


def theirs(names, **more) -> dict:
    encoder = vit() if names.kind == "vit" else swin()
    return to_theirs(names, params_of(names.kind), depths(encoder), heads=2) | more


def saved(folder, state, name="vit.safetensors"):
    path = folder / name
    if path.suffix == ".npz":
        np.savez(path, **state)
    else:
        save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
    return path


def refused(path, told=TOLD, **options) -> str:
    with pytest.raises(UserError) as error:
        read_foreign(path, told=told, **options)
    return str(error.value)


def encoder_of(found):
    return build_encoder(found.config, jnp.float32)


def assert_same_tree(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("names", [VIT, HUGGING_FACE_VIT], ids=["official", "hugging_face"])
def test_a_vit_is_read_whole(tmp_path, names):
    head = (
        {"head.weight": np.ones((3, 32), np.float32)}
        if names is VIT
        else {"pooler.dense.weight": np.ones((32, 32), np.float32)}
    )
    found = read_foreign(saved(tmp_path, theirs(names, **head)), told=TOLD)
    assert_same_tree(found.params, params_of("vit"))
    made, wanted = encoder_of(found), vit()
    for key in ("patch_size", "width", "depth", "heads", "grid", "position", "normalisation"):
        assert getattr(made, key) == getattr(wanted, key), key
    count = len(theirs(names))
    dropped = next(iter(head))
    assert f"{count} tensors matched, 0 missing, 1 dropped ({dropped}), 0 unexpected." in found.said


SWIN_TOLD = Told(pixels="imagenet")


@pytest.mark.parametrize(
    "names", [SWIN, TIMM_SWIN, HUGGING_FACE_SWIN], ids=["official", "timm", "hugging_face"]
)
def test_a_swin_is_read_whole(tmp_path, names):
    buffer = {"layers.0.blocks.1.attn_mask": np.zeros((64, 4, 4), np.float32)}
    found = read_foreign(
        saved(tmp_path, theirs(names, **(buffer if names is SWIN else {}))), told=SWIN_TOLD
    )
    assert_same_tree(found.params, params_of("swin"))
    made = encoder_of(found)
    for key in ("embed_width", "depths", "heads", "window"):
        assert getattr(made, key) == getattr(swin(), key), key
    assert found.config.model.image_size == 64


def test_swins_of_esvit_have_another_epsilon_than_others(tmp_path):
    """microsoft/esvit, models/swin_transformer.py: get_cls_model."""
    of_esvit = {f"teacher.{name}": value for name, value in theirs(SWIN).items()}
    for state, told, epsilon in (
        (of_esvit, SWIN_TOLD, 1e-6),
        (theirs(SWIN), SWIN_TOLD, 1e-5),
        (of_esvit, SWIN_TOLD._replace(norm_epsilon=1e-5), 1e-5),
    ):
        found = read_foreign(saved(tmp_path, state), told=told)
        assert encoder_of(found).norm_epsilon == epsilon
    folder = tmp_path / "timm"
    folder.mkdir()
    saved(folder, theirs(SWIN), "model.safetensors")
    about = {"architecture": "swin_tiny_patch4_window7_224", "pretrained_cfg": {"tag": "dino"}}
    (folder / "config.json").write_text(json.dumps(about))
    found = read_foreign(folder, told=SWIN_TOLD)
    assert (found.config.method.name, encoder_of(found).norm_epsilon) == ("dino", 1e-5)


def test_the_size_of_a_swin_of_small_maps_is_asked_for(tmp_path):
    small = swin(window=4)  # whose last map is 2 x 2
    params = random_params(small)
    path = saved(tmp_path, to_theirs(SWIN, params, depths(small), heads=1))
    assert "has [49, 4]: set image_size=<pixels>" in refused(path, SWIN_TOLD)
    found = read_foreign(path, told=SWIN_TOLD._replace(image_size=64))
    assert_same_tree(found.params, params)


def test_the_size_a_swin_is_made_for_is_read_off_its_mask(tmp_path):
    mask = np.zeros((256, 4, 4), np.float32)  # 16 windows a side, of 2 patches of 4 pixels
    state = theirs(SWIN, **{"layers.0.blocks.1.attn_mask": mask})
    assert read_foreign(saved(tmp_path, state), told=SWIN_TOLD).config.model.image_size == 128


def test_half_precision_becomes_float32(tmp_path):
    state = {name: value.astype(np.float16) for name, value in theirs(VIT).items()}
    found = read_foreign(saved(tmp_path, state), told=TOLD)
    assert {x.dtype for x in jax.tree.leaves(found.params)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("name", "more", "method"),
    [
        ("dino_deitsmall16_pretrain.safetensors", {}, "dino"),
        ("dinov2_vits14_pretrain.safetensors", {}, "dino"),
        ("linear-vit-s-300ep.safetensors", {}, "moco_v3"),
        ("mocov3.safetensors", {}, "moco_v3"),
        ("mae_finetuned_vit_base.safetensors", {}, "mae"),
        ("lomar.safetensors", {}, "lomar"),
        ("x.safetensors", {"decoder_embed.weight": np.ones((2, 2), np.float32)}, "mae"),
        ("x.safetensors", {}, "imported"),
        ("dinosaurs.safetensors", {}, "imported"),
        ("domino_maestro.safetensors", {}, "imported"),
    ],
)
def test_the_method_is_told_by_names_of_tensors_and_of_files(tmp_path, name, more, method):
    found = read_foreign(saved(tmp_path, theirs(VIT, **more), name), told=TOLD)
    assert found.config.method.name == method
    told = TOLD._replace(method="simclr")
    found = read_foreign(tmp_path / name, told=told)
    assert found.config.method.name == "simclr"


@pytest.mark.parametrize(
    ("position", "method"), [("sincos", "moco_v3"), ("sincos_columns_first", "mae")]
)
def test_fixed_positions_are_known_and_made_anew(tmp_path, position, method):
    columns_first = position == "sincos_columns_first"
    made = sincos_2d((4, 4), 32, columns_first=columns_first)
    noise = np.random.default_rng(0).uniform(-1e-6, 1e-6, made.shape).astype(np.float32)
    found = read_foreign(saved(tmp_path, theirs(VIT, pos_embed=made + noise)), told=TOLD)
    assert (found.config.model.position, found.config.method.name) == (position, method)
    assert "position_embedding" not in found.params
    assert "1 dropped (pos_embed)" in " ".join(found.said)
    off = read_foreign(saved(tmp_path, theirs(VIT, pos_embed=made + 1e-3)), told=TOLD)
    assert off.config.model.position == "learned"


def test_lomar_tells_its_heads_and_has_no_use_for_its_positions(tmp_path):
    params = random_params(vit(position="relative"))
    state = to_theirs(VIT, params, (3,), heads=2)
    state |= {"pos_embed": sincos_2d((4, 4), 32), "mask_token": np.ones((1, 1, 32), np.float32)}
    found = read_foreign(saved(tmp_path, state), told=Told())
    assert_same_tree(found.params, params)
    assert (found.config.method.name, encoder_of(found).heads) == ("lomar", 2)
    assert found.config.model.image_size == 32


def test_heads_of_published_widths_are_known_and_others_asked_for(tmp_path):
    told = Told(pixels="imagenet")
    assert "tells the heads of a ViT of width 32: set heads=" in refused(
        saved(tmp_path, theirs(VIT)), told
    )
    small = vit(width=384, depth=1, heads=6)
    state = to_theirs(VIT, random_params(small), (1,), heads=6)
    path = saved(tmp_path, state)
    assert encoder_of(read_foreign(path, told=told)).heads == 6
    assert encoder_of(read_foreign(path, told=told._replace(method="moco_v3"))).heads == 12
    assert read_foreign(path, told=told).config.model.name == "vit_small"


def test_a_folder_of_transformers_tells_heads_epsilon_and_pixels(tmp_path):
    saved(tmp_path, theirs(HUGGING_FACE_VIT), "model.safetensors")
    config = {"model_type": "vit", "num_attention_heads": 4, "layer_norm_eps": 1e-12}
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    pixels = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    found = read_foreign(tmp_path)
    assert_same_tree(found.params, params_of("vit"))
    assert (encoder_of(found).heads, encoder_of(found).norm_epsilon) == (4, 1e-12)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "quick_gelu"}))
    assert "hidden_act='quick_gelu'" in refused(tmp_path)


def test_a_folder_tells_the_size_a_swin_is_made_for(tmp_path):
    saved(tmp_path, theirs(HUGGING_FACE_SWIN), "model.safetensors")
    for size, made in ((128, 128), ([128, 128], 128), (None, 64), ([128, 64], (128, 64))):
        (tmp_path / "config.json").write_text(json.dumps({"image_size": size}))
        assert read_foreign(tmp_path, told=SWIN_TOLD).config.model.image_size == made


def test_a_folder_of_timm_tells_heads_method_and_pixels(tmp_path):
    saved(tmp_path, theirs(VIT), "model.safetensors")
    cfg = {"tag": "dino", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    config = {"architecture": "vit_x", "model_args": {"num_heads": 4}, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_foreign(tmp_path)
    assert (encoder_of(found).heads, found.config.method.name) == (4, "dino")
    assert_same_tree(found.params, params_of("vit"))


def test_pixels_of_another_kind_are_folded_into_the_patches(tmp_path):
    path = saved(tmp_path, theirs(VIT))
    found = read_foreign(path, told=TOLD._replace(pixels="half"))
    pixels = np.random.default_rng(0).uniform(size=(8, 8, 3))
    ours = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]

    def patch(params, x):
        return (
            np.einsum("yxc,yxcd->d", x, params["patch_embed"]["kernel"])
            + (params["patch_embed"]["bias"])
        )

    expected = patch(params_of("vit"), (pixels - 0.5) / 0.5)
    np.testing.assert_allclose(patch(found.params, ours), expected, atol=1e-5)
    assert "folded into its patches" in " ".join(found.said)
    assert "set pixels=imagenet" in refused(path, Told(heads=2))


@pytest.mark.parametrize(
    ("name", "names"), [("deit_small.safetensors", VIT), ("x.safetensors", SWIN)]
)
def test_deit_and_swin_take_pixels_as_they_were_published(tmp_path, name, names):
    told = Told(heads=2) if names is VIT else Told()
    found = read_foreign(saved(tmp_path, theirs(names), name), told=told)
    assert found.config.method.name == "imported"
    assert_same_tree(found.params, params_of(names.kind))
    assert "as published" in " ".join(found.said)


def test_pixels_that_are_not_normalised_stay_so(tmp_path):
    path = saved(tmp_path, theirs(VIT))
    found = read_foreign(path, told=TOLD._replace(pixels="unit"))
    assert not encoder_of(found).normalisation
    assert_same_tree(found.params, params_of("vit"))
    assert encoder_of(read_foreign(path, told=TOLD)).normalisation


def test_layer_scale_is_folded_into_the_projections(tmp_path):
    rng = np.random.default_rng(0)
    scales = {f"blocks.{k}.ls{i}.gamma": rng.normal(size=32) for k in range(3) for i in (1, 2)}
    scales = {name: value.astype(np.float32) for name, value in scales.items()}
    state = theirs(VIT, **scales, mask_token=np.ones((1, 32), np.float32))
    found = read_foreign(saved(tmp_path, state), told=TOLD)
    x = rng.normal(size=128)
    before, after = (tree["block_1"]["mlp"]["down"] for tree in (params_of("vit"), found.params))
    expected = (x @ before["kernel"] + before["bias"]) * scales["blocks.1.ls2.gamma"]
    np.testing.assert_allclose(x @ after["kernel"] + after["bias"], expected, atol=1e-5)
    of_transformers = theirs(HUGGING_FACE_DINOV2) | {
        f"encoder.layer.{k}.layer_scale{i}.lambda1": scales[f"blocks.{k}.ls{i}.gamma"]
        for k in range(3)
        for i in (1, 2)
    }
    again = read_foreign(saved(tmp_path, of_transformers), told=TOLD)
    assert_same_tree(again.params, found.params)


def test_deit_iii_by_either_of_its_names(tmp_path):
    """facebookresearch/deit, models_v2.py; timm 1.0.29, models/deit.py, no_embed_class."""
    state, rng = theirs(VIT), np.random.default_rng(0)
    state["pos_embed"] = state["pos_embed"][:, 1:]
    gamma = {(k, i): rng.normal(size=32).astype(np.float32) for k in range(3) for i in (1, 2)}
    official = state | {f"blocks.{k}.gamma_{i}": x for (k, i), x in gamma.items()}
    of_timm = state | {f"blocks.{k}.ls{i}.gamma": x for (k, i), x in gamma.items()}
    left, right = (
        read_foreign(saved(tmp_path, tensors, "deit_3.safetensors"), told=TOLD)
        for tensors in (official, of_timm)
    )
    assert_same_tree(left.params, right.params)
    positions = left.params["position_embedding"]
    assert not positions[:, 0].any()
    np.testing.assert_array_equal(positions[:, 1:], state["pos_embed"])
    before = params_of("vit")["block_1"]["mlp"]["down"]["kernel"]
    after = left.params["block_1"]["mlp"]["down"]["kernel"]
    np.testing.assert_allclose(after, before * gamma[1, 2], rtol=1e-6)
    assert left.config.model.image_size == 32


def test_a_class_token_and_a_rectangle_may_be_a_square_of_positions(tmp_path):
    rectangle = vit(image_size=(40, 56))  # 5 x 7 patches and a class token
    params = random_params(rectangle)
    saved(tmp_path, to_theirs(VIT, params, (3,), heads=2), "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"image_size": [40, 56]}))
    assert_same_tree(read_foreign(tmp_path, told=TOLD).params, params)


def test_blocks_in_chunks_are_counted_through(tmp_path):
    state = {n.replace("blocks.", "blocks.0."): x for n, x in theirs(VIT).items()}
    assert_same_tree(read_foreign(saved(tmp_path, state), told=TOLD).params, params_of("vit"))


def test_three_generations_of_big_vision(tmp_path):
    """Names of Flax before linen and after, stacked blocks, positions with a class token or not."""
    told = Told(pixels="imagenet")
    state = theirs(BIG_VISION)
    found = read_foreign(saved(tmp_path, state, "x.npz"), told=told)
    assert_same_tree(found.params, params_of("vit"))
    assert encoder_of(found).heads == 2
    assert "GELU is the one of tanh" in " ".join(found.said)
    older = {
        name.replace("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1")
        .replace("LayerNorm_1", "LayerNorm_2")
        .replace("MlpBlock_0", "MlpBlock_3")
        .replace("pos_embedding", "Transformer/posembed_input/pos_embedding"): value
        for name, value in state.items()
    }
    found = read_foreign(saved(tmp_path, older, "x.npz"), told=told)
    assert_same_tree(found.params, params_of("vit"))
    stem = "Transformer/encoderblock_"
    newer = {name: value for name, value in state.items() if not name.startswith(stem)}
    for name in (n.removeprefix(f"{stem}0/") for n in state if n.startswith(f"{stem}0/")):
        newer[f"Transformer/encoderblock/{name}"] = np.stack(
            [state[f"{stem}{k}/{name}"] for k in range(3)]
        )
    newer["pos_embedding"] = newer["pos_embedding"][:, 1:]
    newer["MAPHead_0/probe"] = np.ones(2)
    found = read_foreign(saved(tmp_path, newer, "x.npz"), told=told)
    positions = found.params.pop("position_embedding")
    assert_same_tree(
        found.params, {n: x for n, x in params_of("vit").items() if "position" not in n}
    )
    assert not positions[:, 0].any()
    np.testing.assert_array_equal(positions[:, 1:], newer["pos_embedding"])
    del newer["cls"]
    assert "has no class token" in refused(saved(tmp_path, newer, "x.npz"), told)


def test_resized_positions_are_those_that_the_encoder_uses_at_that_size(tmp_path):
    params = random_params(vit(depth=1))
    path = saved(tmp_path, to_theirs(VIT, params, (1,), heads=2))
    as_is, resized = (
        read_foreign(path, told=TOLD._replace(image_size=size)) for size in (None, 48)
    )
    assert resized.params["position_embedding"].shape == (1, 37, 32)
    assert resized.config.model.image_size == 48
    image = np.random.default_rng(0).normal(size=(1, 48, 48, 3)).astype(np.float32)
    left, right = (
        jax.jit(encoder_of(found).apply)({"params": found.params}, image).pooled
        for found in (as_is, resized)
    )
    np.testing.assert_allclose(left, right, atol=1e-5)
    assert "no multiple of its patch 8" in refused(path, TOLD._replace(image_size=30))


@pytest.mark.parametrize(
    ("names", "before", "told"),
    [(VIT, 32, (32, 48)), (SWIN, 64, (64, 128)), (VIT, (16, 64), 32)],
    ids=["vit", "swin", "rectangular vit"],
)
def test_squares_are_made_rectangles_and_rectangles_squares(tmp_path, names, before, told):
    saved(tmp_path, theirs(names), "model.safetensors")  # (16, 64) has as many patches as 32
    (tmp_path / "config.json").write_text(json.dumps({"image_size": before}))
    heads = 2 if names is VIT else None
    usual = Told(heads=heads, pixels="imagenet")
    assert read_foreign(tmp_path, told=usual).config.model.image_size == before
    found = read_foreign(tmp_path, told=usual._replace(image_size=told))
    assert found.config.model.image_size == told
    image = np.zeros((1, *height_and_width(told), 3), np.float32)
    jax.eval_shape(encoder_of(found).apply, {"params": found.params}, image)


def test_tables_of_a_swin_are_resized_for_other_windows_when_asked(tmp_path):
    path = saved(tmp_path, theirs(SWIN))
    found = read_foreign(path, told=SWIN_TOLD._replace(window=4, image_size=128))
    table = found.params["block_0"]["attention"]["relative_position_bias"]
    assert table.shape == (49, 1)
    assert "7 tables of relative positions are resized." in found.said
    assert encoder_of(found).window == 4
    old = params_of("swin")["block_0"]["attention"]["relative_position_bias"]
    np.testing.assert_allclose(table[24], old[4], rtol=0.02)  # no offset stays no offset
    assert "has no windows" in refused(saved(tmp_path, theirs(VIT)), TOLD._replace(window=4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dist_token": (1, 1, 32)}, "dist_token: this encoder has a distillation token"),
        ({"reg_token": (1, 4, 32)}, "has registers"),
        ({"blocks.0.mlp.w12.weight": (8, 32)}, r"has gated MLPs"),
        ({"blocks.0.gamma_1": (32,), "blocks.0.attn.q_bias": (32,)}, "is a BEiT or CaiT"),
        ({"blocks.0.attn.extra": (8,)}, "blocks.0.attn.extra belong to no encoder"),
        ({"blocks.1.mlp.fc1.weight": (64, 32)}, "blocks.1.mlp.fc1.weight is [64, 32]"),
        ({"pos_embed": (1, 18, 32)}, "its positions are [1, 18, 32]"),
        ({"patch_embed.proj.weight": (32, 3, 8, 4)}, "its patches are 8 x 4"),
        (
            {"patch_embed.proj.weight": (32, 1, 8, 8)},
            "it takes images of 1 channel(s)",
        ),
        ({"norm.weight": None}, "norm.weight is missing"),
        ({"pos_embed": None}, "pos_embed is missing"),
        (
            {"norm.bias": np.full(32, np.nan, np.float32)},
            "norm.bias holds numbers that are not finite",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_another_architecture_is_refused_and_the_tensor_named(tmp_path, change, words):
    state = theirs(VIT)
    for name, value in change.items():
        state.pop(name, None)
        if value is not None:
            state[name] = value if isinstance(value, np.ndarray) else np.ones(value, np.float32)
    told = refused(saved(tmp_path, state))
    assert told.startswith(f"{tmp_path / 'vit.safetensors'} cannot be imported: ")
    assert words in told


def test_a_distilled_deit_of_transformers_is_refused(tmp_path):
    state = {f"deit.{n}": x for n, x in theirs(HUGGING_FACE_VIT).items()}
    state["deit.embeddings.distillation_token"] = np.ones((1, 1, 32), np.float32)
    assert "has a distillation token" in refused(saved(tmp_path, state))


def test_what_the_user_says_wrongly(tmp_path):
    path = saved(tmp_path, theirs(VIT))
    assert "method='byoll' must be one of" in refused(path, TOLD._replace(method="byoll"))
    assert "pixels='raw' must be one of" in refused(path, TOLD._replace(pixels="raw"))
    assert "does not divide the width" in refused(path, TOLD._replace(heads=5))
    assert "set weights=online" in refused(path, weights="target")
    assert "weights='both' must be one of auto, online, target" in refused(path, weights="both")
    path = saved(tmp_path, theirs(SWIN))
    assert "heads=2 was given, and a Swin's tables tell" in refused(path)
