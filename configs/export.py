"""The encoder of a run, for other libraries: a folder with its weights and a model card.

    python main.py --config=configs/export.py --config.checkpoint=runs/a --config.format=timm

timm           timm.create_model("local-dir:<folder>", pretrained=True)
huggingface    ViTModel or SwinModel.from_pretrained(<folder>), image processor included
official       encoder.pth by the names of DINO, MoCo v3, MAE, LoMaR, MoBY and Microsoft's Swin
safetensors    the parameters by our names, for JAX
stablehlo      the function itself, for CPU, GPU and TPU (jax.export)
onnx           the same for onnxruntime, by way of timm and PyTorch

Seconds. What was written is opened again, by the library it is for where that is installed, and
compared on random images: a difference above 1e-4 is an error, and nothing is left.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config():
    config = ConfigDict()
    config.task = "export"
    config.workdir = ""  # the folder; empty: <run>/export/<format>-<weights>-<step>
    config.checkpoint = ""  # folder of a run, or weights of another library
    config.step = placeholder(int)  # None: the newest checkpoint
    config.weights = "auto"  # what the method's paper evaluates; or "online", "target"
    config.format = "timm"
    return config
