"""Exports: they come back bit for bit, say what they are, and are whole or not there at all."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_weights import random_params, swin, vit
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from repre_jax.convert import compare as comparison
from repre_jax.convert import export as story
from repre_jax.convert.architecture import Told
from repre_jax.convert.card import card
from repre_jax.convert.export import WRITERS, export
from repre_jax.convert.exportable import Exportable, names_for, why_not
from repre_jax.convert.foreign import imported_config, read_foreign
from repre_jax.convert.writers import their_tensors
from repre_jax.errors import UserError
from repre_jax.models import build_encoder
from repre_jax.models.pixels import Normalisation, encoder_input
from repre_jax.models.swin import Swin
from repre_jax.training import defaults

ENCODERS = {
    "vit": vit(heads=4),
    "swin": swin(),
    "sincos": vit(position="sincos", heads=4),
    "pixels as they are": vit(heads=4, normalisation=None),
}
EXTRAS = {"official": "torch", "stablehlo": "flatbuffers", "onnx": "timm"}


def exportable(encoder, run=Path("runs/a"), method=None) -> Exportable:
    config = imported_config(method or ("moby" if isinstance(encoder, Swin) else "dino"))
    source = {"file": "/data/x.pth", "format": "ViT", "weights": "online"}
    config.source = ConfigDict(source)
    return Exportable(encoder, random_params(encoder), config, run, 0, "online")


@pytest.fixture
def uncompared(monkeypatch):
    """As on a machine without the other libraries."""
    monkeypatch.setattr(story, "compare", lambda *arguments: None)


def told(encoder, folder, format, **options) -> str:
    with pytest.raises(UserError) as error:
        export(exportable(encoder, **options), folder, format)
    return str(error.value)


@pytest.mark.parametrize("format", ["timm", "huggingface", "official"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_what_is_exported_comes_back_bit_for_bit(tmp_path, uncompared, kind, format):
    if format in EXTRAS:
        pytest.importorskip(EXTRAS[format])
    original = exportable(ENCODERS[kind], method="moby" if kind == "swin" else "moco_v3")
    assert "was compared" in export(original, tmp_path / "out", format)
    path = tmp_path / "out" / ("encoder.pth" if format == "official" else "")
    # Files of PyTorch have no config beside them.
    heads = 4 if kind != "swin" else None
    told = Told(heads=heads, pixels="imagenet") if format == "official" else None
    found = read_foreign(path, told=told)
    jax.tree.map(np.testing.assert_array_equal, found.params, original.params)
    assert found.config.model.image_size == ENCODERS[kind].image_size
    if kind == "sincos":
        assert found.config.model.position == "sincos"
    if format != "official":
        assert found.config.model.normalise == bool(ENCODERS[kind].normalisation)
    if format != "official":
        files = {p.name for p in (tmp_path / "out").iterdir()} - {"preprocessor_config.json"}
        assert files == {"README.md", "config.json", "model.safetensors"}


BANDS = vit(
    heads=4,
    channels=2,
    image_size=(16, 48),
    normalisation=Normalisation((0.5, 0.25), (0.125, 0.5)),
)


def test_a_rectangle_of_bands_comes_back_from_timm(tmp_path, uncompared):
    original = exportable(BANDS)
    export(original, tmp_path / "out", "timm")
    found = read_foreign(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, found.params, original.params)
    made = build_encoder(found.config, jnp.float32)
    for key in ("grid", "channels", "normalisation"):
        assert getattr(made, key) == getattr(BANDS, key)
    assert "squares of RGB" in told(BANDS, tmp_path / "a", "huggingface")


def test_a_rectangle_of_bands_is_written_for_jax(tmp_path):
    said = export(exportable(BANDS), tmp_path / "out", "safetensors")
    assert said.startswith("Tokens of random images differ by at most")
    assert "16 x 48 pixels, 2 channel(s)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("weights", ["online", "target"])
@pytest.mark.parametrize("method", ["dino", "mae", "moby", "moco_v3", "byol"])
def test_official_files_are_wrapped_as_their_authors_wrap_them(
    tmp_path, uncompared, method, weights
):
    torch = pytest.importorskip("torch")
    original = exportable(ENCODERS["vit"], method=method)._replace(weights=weights)
    export(original, tmp_path / "out", "official")
    state = torch.load(tmp_path / "out" / "encoder.pth", weights_only=True)
    wrapped = {
        "mae": {"online": "model|", "target": "model|"},
        "moby": {"online": "model|encoder.", "target": "model|encoder_k."},
        "moco_v3": {
            "online": "state_dict|module.base_encoder.",
            "target": "state_dict|module.momentum_encoder.",
        },
    }
    outer, prefix = wrapped.get(method, {weights: "|"})[weights].split("|")
    inner = state[outer] if outer else state
    assert f"{prefix}blocks.0.attn.qkv.weight" in inner


@pytest.mark.parametrize("format", ["safetensors", "stablehlo"])
def test_formats_without_another_library_are_compared_with_the_encoder(tmp_path, format):
    if format in EXTRAS:
        pytest.importorskip(EXTRAS[format])
    said = export(exportable(ENCODERS["vit"]), tmp_path / "out", format)
    assert said.startswith("Tokens of random images differ by at most")
    assert (tmp_path / "out" / "README.md").stat().st_size > 300


@pytest.mark.parametrize(
    "encoder",
    [
        vit(heads=4, channels=1, normalisation=None),
        swin(window=4),
        swin(window=5, channels=2, normalisation=None),
    ],
    ids=["grey vit", "swin of small maps", "swin of small maps and bands"],
)
def test_official_files_are_compared_whatever_their_channels_and_windows(
    tmp_path, monkeypatch, encoder
):
    """Their tensors in another container than PyTorch's, which may not be installed."""
    original = exportable(encoder)
    names = names_for(original, "official")
    save_file(their_tensors(original, names), tmp_path / "encoder.safetensors")
    monkeypatch.setattr(
        comparison,
        "read_foreign",
        lambda path, told: read_foreign(path.with_suffix(".safetensors"), told=told),
    )
    assert comparison.compare(original, tmp_path, "official") == 0


def test_exports_are_compared_where_jax_has_no_cpu(tmp_path, monkeypatch):
    """As with JAX_PLATFORMS=cuda."""

    def none(backend=None):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", none)
    said = export(exportable(ENCODERS["vit"]), tmp_path / "out", "safetensors")
    assert said.startswith("Tokens of random images differ by at most")


@pytest.mark.slow
@pytest.mark.parametrize("position", ["learned", "relative"])
def test_stablehlo_of_many_tokens_takes_batches_of_any_size(tmp_path, position):
    """On a CPU 256 tokens and more are attended to head by head, in a loop over batch and heads."""
    pytest.importorskip("flatbuffers")
    encoder = vit(image_size=128, depth=1, position=position)
    original = exportable(encoder)
    export(original, tmp_path / "out", "stablehlo")
    written = (tmp_path / "out" / "encoder.stablehlo").read_bytes()
    encode = jax.export.deserialize(bytearray(written)).call
    for count in (1, 3):
        pixels = np.random.default_rng(0).uniform(size=(count, 128, 128, 3)).astype(np.float32)
        images = encoder_input(encoder, pixels)
        expected = encoder.apply({"params": original.params}, images).pooled
        np.testing.assert_allclose(encode(pixels)["pooled"], expected, atol=1e-4)


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_an_export_that_computes_something_else_is_removed(tmp_path, monkeypatch, difference):
    monkeypatch.setattr(story, "compare", lambda *arguments: difference)
    assert "tokens differ by" in told(ENCODERS["vit"], tmp_path / "out", "timm")
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_cannot_open_it_is_told_and_nothing_left(tmp_path, monkeypatch):
    def broken(exportable, folder):
        (folder / "model.safetensors").write_bytes(b"")

    monkeypatch.setitem(WRITERS, "safetensors", broken)
    words = told(ENCODERS["vit"], tmp_path / "out", "safetensors")
    assert words.startswith("The library cannot open what was written for it (SafetensorError")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("encoder", "format", "words"),
    [
        (vit(position="relative"), "timm", "timm has no ViT with LoMaR's relative positions"),
        (vit(position="relative"), "huggingface", "choose format=official, safetensors or"),
        (vit(norm_epsilon=1e-5), "timm", "norm epsilon of 1e-06, and this one has 1e-05"),
        (swin(window=4), "huggingface", "windows of 4 in every stage"),
        (swin(window=4), "huggingface", "smaller: choose format=timm, official, safetensors or"),
        (swin(window=3), "huggingface", "smaller: choose format=official, safetensors or"),
        (swin(window=3), "timm", "images of 64: choose format=official, safetensors or"),
        (
            swin(image_size=112, window=3),
            "timm",
            "images of 112: choose format=huggingface, official,",
        ),
        (swin(image_size=(64, 96), depths=(2, 2, 2, 2)), "timm", "choose format=safetensors or"),
        (vit(stem="folded"), "timm", "patch_embed/conv_0/bias of vit_small has no place"),
        (vit(), "pickle", "format='pickle' must be one of timm, huggingface"),
    ],
)
def test_what_a_format_has_no_place_for(tmp_path, encoder, format, words):
    assert words in told(encoder, tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("encoder", "method", "epsilon"),
    [(vit(norm_epsilon=1e-5), "dino", "1e-06"), (swin(), "dino", "1e-06"), (swin(), "moby", "")],
)
def test_official_files_have_the_epsilon_of_their_code(encoder, method, epsilon):
    reason = why_not(exportable(encoder, method=method), "official")
    assert (
        (f"norm epsilon of {epsilon}, and this one has 1e-05" in reason) if epsilon else not reason
    )


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, True),  # maps of 16, 8, 4 and 2, windows of 2
        ({"window": 4}, True),  # the last map is one smaller window
        ({"window": 3}, False),  # 16 x 16 is padded and shifted
        ({"window": 3, "depths": (1, 1, 1, 1)}, True),  # 16 x 16 is padded
        ({"window": 4, "image_size": 96}, True),  # 6 x 6 is padded by half a window and shifted
        ({"image_size": (64, 96)}, True),  # 2 x 3 at last, in one block, which never shifts
        ({"image_size": (64, 96), "depths": (2, 1, 3, 2)}, False),  # 2 x 3 shifts there in a row
        ({"image_size": (64, 96), "window": 4}, False),  # 2 x 3 is one window there, here two
        ({"image_size": 80, "depths": (1, 1, 1, 1), "window": 4}, False),  # 3 x 3 is 2 x 2 there
        ({"image_size": 66}, False),  # half a patch: padded here, dropped there
    ],
)
def test_swins_of_other_windows_than_timms_are_known(options, same):
    """timm 1.0.29, models/swin_transformer.py: _calc_window_shift, _attn."""
    assert (why_not(exportable(swin(**options)), "timm") is None) == same


def test_a_swin_has_the_names_that_timm_renames(tmp_path, uncompared):
    """timm 1.0.29, models/swin_transformer.py: checkpoint_filter_fn, of files without a head."""
    export(exportable(swin()), tmp_path / "out", "timm")
    written = load_file(tmp_path / "out" / "model.safetensors")
    merging = {int(name.split(".")[1]) for name in written if "downsample" in name}
    assert merging == {0, 1, 2}, "and not 1, 2, 3, as its modules are called"


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    assert "is there already" in told(ENCODERS["vit"], tmp_path, "timm")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("format", "extra"), EXTRAS.items())
def test_the_extra_that_is_missing_is_named(tmp_path, monkeypatch, format, extra):
    monkeypatch.setitem(__import__("sys").modules, extra, None)
    assert "pip install 'repre_jax[" in told(ENCODERS["vit"], tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


def test_the_card_tells_method_data_steps_and_what_was_measured(tmp_path):
    run = tmp_path / "dino"
    config = defaults.get_config("dino")
    config.data.update({"source": "folder", "path": "/data/birds"})
    of_run = exportable(ENCODERS["vit"], run)._replace(config=config, step=1200, weights="target")
    for k, (weights, step) in enumerate([("target", 1200), ("online", 1200), ("target", 600)]):
        folder = run / "eval" / f"knn-{k}"
        folder.mkdir(parents=True)
        results = {"weights": weights, "step": step, "line": f"76.{k} %"}
        results["data"] = {"val": {"description": "birds, 90 images"}}
        (folder / "results.json").write_text(json.dumps(results))
    (run / "summary.json").write_text(json.dumps({"steps": 1200, "loss": 2.5, "knn/top1": 0.5}))
    text = card(of_run, tmp_path / "out", "huggingface")
    for words in (
        "dino with RePre",
        "target, step 1,200",
        "| birds |",
        "300 epochs in batches of 1024",
        "76.0 %, birds, 90 images",
        "knn/top1 at the end of the run: 0.5",
        "to be stated by whoever shares these weights",
        'ViTModel.from_pretrained("out", add_pooling_layer=False)',
    ):
        assert words in text
    assert "76.1" not in text and "76.2" not in text
