"""Pictures inside the page: made small enough, and what cannot be shown is said."""

import base64
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from repre_jax.visualize.report.elements import Element, element

_SIDE = 1400  # pixels, the longer side at most
_BYTES = 300_000  # of a file that goes in as it is
_MOST = 24  # pictures of a run
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def figures(paths: list[Path]) -> list[Element]:
    """The pictures of a run, each with its name; nothing for a run without any."""
    pictures = [path for path in paths if path.suffix.lower() in _TYPES]
    found = [_figure(path) for path in pictures[:_MOST]]
    if len(pictures) > _MOST:
        found.append(element("p", f"{len(pictures) - _MOST} more are in {pictures[0].parent}."))
    return found


def _figure(path: Path) -> Element:
    try:
        kind, data, (width, height) = _small(path)
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        return element("p", f"{path.name} cannot be shown ({type(error).__name__}).")
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    name = path.stem.replace("_", " ")
    image = element(
        "img", src=source, alt=f"Picture: {name}", width=width, height=height, loading="lazy"
    )
    return element("figure", image, element("figcaption", path.name), class_="picture")


def _small(path: Path) -> tuple[str, bytes, tuple[int, int]]:
    """(its type, the bytes, width and height in pixels)."""
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if max(image.size) <= _SIDE and len(data) <= _BYTES:
            return _TYPES[path.suffix.lower()], data, image.size
        image = image.convert("RGBA" if "A" in image.getbands() else "RGB")
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "webp", quality=85)
        return "image/webp", buffer.getvalue(), image.size
