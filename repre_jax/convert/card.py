"""The model card of an exported encoder: a README.md of what the run knows about it."""

import json
from pathlib import Path
from typing import Any

from repre_jax.convert.exportable import Exportable
from repre_jax.data.sources import short_name
from repre_jax.image_size import height_and_width

_OPENED = {
    "timm": """import timm
model = timm.create_model("local-dir:{folder}", pretrained=True)
features = model(images)  # [B, {features}]""",
    "huggingface": """from transformers import AutoImageProcessor, {kind}
processor = AutoImageProcessor.from_pretrained("{folder}")
model = {kind}.from_pretrained("{folder}", add_pooling_layer=False)
features = model(**processor(images, return_tensors="pt")).last_hidden_state{pooled}""",
    "official": """import torch
state = torch.load("{folder}/encoder.pth", weights_only=True)""",
    "safetensors": """from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file
params = unflatten_dict(load_file("{folder}/model.safetensors"), sep="/")""",
    "stablehlo": """import jax
encode = jax.export.deserialize(bytearray(open("{folder}/encoder.stablehlo", "rb").read())).call
# float32 [B, {height}, {width}, {channels}] in [0, 1] -> [B, {features}]
features = encode(images)["pooled"]""",
    "onnx": """import onnxruntime
session = onnxruntime.InferenceSession("{folder}/encoder.onnx")
# float32 [B, {channels}, {height}, {width}] in [0, 1] -> [B, {features}]
(features,) = session.run(["pooled"], {{"images": images}})""",
}
_LIBRARIES = {"timm": "timm", "huggingface": "transformers"}


def card(exportable: Exportable, folder: Path, format: str) -> str:
    """The text of ``README.md``; the licence is left to whoever shares the weights."""
    config, encoder = exportable.config, exportable.encoder
    kind = "SwinModel" if exportable.kind == "swin" else "ViTModel"
    pooled = ".mean(1)" if exportable.kind == "swin" else "[:, 0]"
    height, width = height_and_width(encoder.image_size)
    opened = _OPENED[format].format(
        folder=folder.name,
        kind=kind,
        pooled=pooled,
        height=height,
        width=width,
        channels=encoder.channels,
        features=encoder.width,
    )
    head = ["---", f"library_name: {_LIBRARIES.get(format, 'repre_jax')}"]
    head += ["tags: [image-feature-extraction]", "---", ""]
    pixels = "values in [0, 1] as they are"
    if encoder.normalisation:
        mean, std = (", ".join(f"{x:g}" for x in part) for part in encoder.normalisation)
        pixels = f"less a mean of {mean}, over a deviation of {std}"
    if config.data.range:
        low, high = config.data.range
        pixels = f"stored values {low:g} to {high:g} as 0 to 1, {pixels}"
    facts = [
        (
            "Encoder",
            f"{config.model.name}, patch {encoder.patch_size}, features of {encoder.width}",
        ),
        ("Method", config.method.name + _with_repre(config)),
        ("Weights", f"{exportable.weights}, step {exportable.step:,}"),
        *_training(config),
        ("Images", f"{height} x {width} pixels, {encoder.channels} channel(s), {pixels}"),
        ("Licence", "to be stated by whoever shares these weights; that of the images may bind it"),
    ]
    lines = [f"# {exportable.run.name}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in facts]
    lines += ["", "```python", opened, "```"]
    measured = metrics(exportable)
    if measured:
        lines += ["", "Measured:", ""]
        lines += [f"- {line}" for line in measured]
    return "\n".join([*head, *lines]) + "\n"


def metrics(exportable: Exportable) -> list[str]:
    """What the run's evaluations of these weights at this step have found, a line each."""
    lines = []
    for path in sorted(exportable.run.glob("eval/*/results.json")):
        results = _json(path)
        same = (results.get("weights"), results.get("step")) == (
            exportable.weights,
            exportable.step,
        )
        if same and "line" in results:
            data = results.get("data", {}).get("val", {}).get("description", "")
            lines.append(results["line"] + (f", {data}" if data else ""))
    summary = _json(exportable.run / "summary.json")
    if summary.get("steps") == exportable.step:
        names = [name for name in ("knn/top1", "loss") if name in summary]
        lines += [f"{name} at the end of the run: {summary[name]:.4g}" for name in names]
    return lines


def _training(config: Any) -> list[tuple[str, str]]:
    if config.task == "import":
        return [("Origin", f"{Path(config.source.file).name} ({config.source.format})")]
    length = (
        f"{config.train.steps} steps" if config.train.steps else f"{config.train.epochs} epochs"
    )
    return [
        ("Images of the training", short_name(config.data)),
        ("Training", f"{length} in batches of {config.train.batch_size}"),
    ]


def _with_repre(config: Any) -> str:
    repre = config.get("repre")
    if not repre or not repre.enabled:
        return ""
    return " with RePre" if repre.branch == "decoder" else f" with RePre's branch {repre.branch}"


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}  # a card does without what cannot be read
