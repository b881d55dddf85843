"""timm's and transformers' own encoders against ours: every block's output, at three sizes.

Their weights are random; their numbers of blocks and channels small. Other sizes than the one that
an encoder is made for: a ViT's positions are resized by our function first, since each library has
another one; Swins run through the windows that they are made for, but of a last stage that has
become larger than a window both fit them anew: it has one block here, which never shifts.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_weights import random_params, swin, vit
from ml_collections import ConfigDict

from repre_jax.convert.architecture import Told
from repre_jax.convert.export import export
from repre_jax.convert.exportable import Exportable
from repre_jax.convert.files import read_tensors
from repre_jax.convert.foreign import imported_config, read_foreign
from repre_jax.convert.tables import HUGGING_FACE_SWIN, HUGGING_FACE_VIT, SWIN, VIT
from repre_jax.convert.writers import their_tensors
from repre_jax.data.host.crops import centre_view
from repre_jax.models import build_encoder
from repre_jax.models.pixels import IMAGENET, encoder_input
from repre_jax.models.positions import bicubic_resize_matrix
from repre_jax.models.taps import read_block

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")

TOLERANCE = 1e-4
SIZES = [(224, 224), (160, 160), (160, 256)]
BLOCKS = ("Block", "LayerScaleBlock", "SwinTransformerBlock", "ViTLayer", "SwinLayer")


def timm_vit(size, **options):
    timm = pytest.importorskip("timm")
    usual = {"depth": 3, "embed_dim": 96, "num_heads": 3, "num_classes": 5}
    return timm.create_model("deit_small_patch16_224", img_size=size, **usual | options)


def timm_swin(size, **options):
    timm = pytest.importorskip("timm")
    usual = {"depths": (2, 2, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 6), "num_classes": 5}
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=size, **usual | options)


def transformers_vit(size, **options):
    transformers = pytest.importorskip("transformers")
    usual = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3}
    usual |= {"intermediate_size": 384, "image_size": size}
    return transformers.ViTModel(transformers.ViTConfig(**usual | options))


def transformers_swin(size, **options):
    transformers = pytest.importorskip("transformers")
    usual = {"embed_dim": 24, "depths": [2, 2, 2, 1], "num_heads": [1, 2, 3, 6]}
    return transformers.SwinModel(transformers.SwinConfig(**usual | {"image_size": size} | options))


MODELS = {
    "timm vit": timm_vit,
    "timm vit with layer scale": lambda size: timm_vit(size, init_values=0.5),
    "timm swin": timm_swin,
    "transformers vit": transformers_vit,
    "transformers swin": transformers_swin,
}


def randomised(model):
    """Numbers in every parameter, in biases and tables, too, that keep activations near one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and "table" not in name and "pos" not in name:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(0.2 * noise)
    return model.eval()


def folder_of(model, folder):
    """The model as its library saves it."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
        pixels = {"image_mean": IMAGENET.mean, "image_std": IMAGENET.std}
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    else:
        from timm.models._hub import save_for_hf

        save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def run(model, images) -> tuple[np.ndarray, list[np.ndarray]]:
    """(tokens after the last norm [B, N, D], the output of every block [B, N, D])."""
    blocks = []

    def note(module, arguments, output):
        output = output[0] if isinstance(output, tuple) else output
        blocks.append(output.numpy().reshape(len(images), -1, output.shape[-1]))

    for module in model.modules():
        if type(module).__name__ in BLOCKS:
            module.register_forward_hook(note)
    with torch.inference_mode():
        x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        out = (
            model.forward_features(x)
            if hasattr(model, "forward_features")
            else (model(x).last_hidden_state)
        )
    return out.numpy().reshape(len(images), -1, out.shape[-1]), blocks


def run_ours(found, images) -> tuple[np.ndarray, list[np.ndarray]]:
    encoder = build_encoder(found.config, jnp.float32)
    encoded, sown = jax.jit(
        lambda params, x: encoder.apply({"params": params}, x, mutable=["intermediates"])
    )(found.params, images)
    taps = [read_block(sown["intermediates"], k) for k in range(encoder.depth)]
    blocks = [
        np.asarray(t.feature_map).reshape(len(images), -1, t.feature_map.shape[-1]) for t in taps
    ]
    tokens = np.asarray(encoded.tokens)
    if taps[0].class_token is not None:
        tokens = np.concatenate([encoded.pooled[:, None], tokens], axis=1)
        blocks = [
            np.concatenate([np.asarray(t.class_token)[:, None], block], axis=1)
            for t, block in zip(taps, blocks, strict=True)
        ]
    return tokens, blocks


def at_another_size(kind: str, model, size):
    """The same weights in a model of another size."""
    if size == (224, 224):
        return model
    other, state = MODELS[kind](size), dict(model.state_dict())
    for name in ("pos_embed", "embeddings.position_embeddings"):
        if name in state:
            rows, columns = (bicubic_resize_matrix(14, side // 16) for side in size)
            grid = state[name][:, 1:].numpy().reshape(14, 14, -1)
            patches = np.einsum("yr,xc,rcd->yxd", rows, columns, grid)
            patches = torch.from_numpy(patches.reshape(1, -1, grid.shape[-1]))
            state[name] = torch.cat([state[name][:, :1], patches], dim=1)
    missing, unexpected = other.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("relative_position_index" in name or "attn_mask" in name for name in missing)
    return other.eval()


@pytest.mark.parametrize("kind", MODELS)
def test_every_block_of_an_imported_encoder_agrees(tmp_path, kind):
    model = randomised(MODELS[kind]((224, 224) if "vit" in kind else 224))
    found = read_foreign(folder_of(model, tmp_path))
    sizes = SIZES if "vit" in kind else [(224, 224), (448, 448), (448, 224)]
    for size in sizes:
        images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
        tokens, blocks = run(at_another_size(kind, model, size), images)
        our_tokens, our_blocks = run_ours(found, images)
        np.testing.assert_allclose(our_tokens, tokens, atol=TOLERANCE)
        for ours, theirs in zip(our_blocks, blocks, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("format", ["timm", "huggingface"])
@pytest.mark.parametrize("name", ["vit_tiny", "vit_small", "vit_base", "swin_tiny", "swin_small"])
def test_published_sizes_go_out_are_opened_and_come_back_bit_for_bit(tmp_path, name, format):
    pytest.importorskip("timm" if format == "timm" else "transformers")
    config = imported_config("dino")
    config.model.name = name
    if name.startswith("swin"):
        config.model.patch_size = 4
    config.source = ConfigDict({"file": "x.pth", "format": "ViT", "weights": "online"})
    encoder = build_encoder(config, jnp.float32)
    params = random_params(encoder, deviation=0.03)
    original = Exportable(encoder, params, config, tmp_path / "run", 0, "online")
    assert "differ by at most" in export(original, tmp_path / "out", format)
    found = read_foreign(tmp_path / "out", told=Told(method="dino"))
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert found.config.model.name == name
    names = {
        ("timm", "vit"): VIT,
        ("timm", "swin"): SWIN,
        ("huggingface", "vit"): HUGGING_FACE_VIT,
        ("huggingface", "swin"): HUGGING_FACE_SWIN,
    }[format, name.split("_")[0]]
    written, _, _ = read_tensors(tmp_path / "out")
    back = their_tensors(original._replace(params=found.params), names)
    jax.tree.map(np.testing.assert_array_equal, back, written)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_onnx_takes_batches_of_any_size(tmp_path, kind):
    for needed in ("timm", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    import onnxruntime

    config = imported_config("dino")
    config.source = ConfigDict({"file": "x.pth", "format": "ViT", "weights": "online"})
    encoder = vit() if kind == "vit" else swin()
    original = Exportable(encoder, random_params(encoder), config, tmp_path / "run", 0, "online")
    assert "differ by at most" in export(original, tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "encoder.onnx")
    side = encoder.image_size
    pixels = np.random.default_rng(1).uniform(size=(3, side, side, 3)).astype(np.float32)
    (pooled,) = session.run(["pooled"], {"images": pixels.transpose(0, 3, 1, 2)})
    images = encoder_input(encoder, pixels)
    expected = encoder.apply({"params": original.params}, images).pooled
    np.testing.assert_allclose(pooled, expected, atol=TOLERANCE)


def test_the_image_processor_prepares_images_as_evaluations_do(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = imported_config("dino")
    config.source = ConfigDict({"file": "x.pth", "format": "ViT", "weights": "online"})
    encoder = vit(image_size=56)
    original = Exportable(encoder, random_params(encoder), config, tmp_path / "run", 0, "online")
    export(original, tmp_path / "out", "huggingface")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    rows, columns = np.mgrid[:128, :160]
    image = np.stack([rows, columns, (rows + columns) // 2], axis=-1).astype(np.uint8)  # smooth
    theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    ours = centre_view(image, 56)
    assert np.abs(theirs - (ours / 255 - IMAGENET.mean) / IMAGENET.std).max() < 0.03
