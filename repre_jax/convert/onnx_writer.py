"""ONNX by way of timm: what ``write_timm`` makes is opened by timm and exported by PyTorch."""

import tempfile
import warnings
from pathlib import Path

from repre_jax.convert.exportable import Exportable
from repre_jax.convert.writers import imported, write_timm
from repre_jax.image_size import height_and_width

LARGEST_FILE = 2**30  # bytes of weights; a file of protocol buffers holds twice as many at most
_WHAT, _EXTRA = "format=onnx is written by PyTorch and timm, one of", "onnx"


def write_onnx(exportable: Exportable, folder: Path) -> None:
    """``encoder.onnx``: images [batch, C, H, W] in [0, 1] -> pooled [batch, D] and tokens.

    Pixels are normalised in there. Tokens are [batch, N, D] after the last norm, a ViT's class
    token first. The weights of large encoders lie beside the file.
    """
    torch, timm, _ = (imported(x, _WHAT, _EXTRA) for x in ("torch", "timm", "onnxscript"))
    with tempfile.TemporaryDirectory() as of_timm:
        write_timm(exportable, Path(of_timm))
        model = timm.create_model(f"local-dir:{of_timm}", pretrained=True)

    class Features(torch.nn.Module):
        """The encoder with its pixels' normalisation."""

        def __init__(self):
            super().__init__()
            self.model = model
            for name in ("mean", "std"):
                colours = torch.tensor(model.pretrained_cfg[name]).reshape(1, -1, 1, 1)
                self.register_buffer(name, colours)

        def forward(self, images):
            tokens = self.model.forward_features((images - self.mean) / self.std)
            return self.model.forward_head(tokens), tokens.flatten(1, -2)

    encoder = exportable.encoder
    shape = (2, encoder.channels, *height_and_width(encoder.image_size))
    size = sum(parameter.nbytes for parameter in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about its own
        torch.onnx.export(
            Features().eval(),
            (torch.zeros(shape),),
            folder / "encoder.onnx",
            dynamo=True,
            external_data=size > LARGEST_FILE,
            input_names=["images"],
            output_names=["pooled", "tokens"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
