"""Which files are images, by the ends of their names, and which of them can be read here."""

import functools
import os
from collections import Counter
from collections.abc import Iterator

from PIL import features

# What every installation reads.
_ALWAYS_READ = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)
_AVIF = (".avif",)
_JPEG_2000 = (".jp2", ".j2k")
_HEIF = (".heic", ".heif")


@functools.cache
def register_heif() -> bool:
    """Teaches Pillow HEIF, where the extra ``heic`` is installed; returns whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Ends of the names of images that can be read here, in lower case."""
    return (*_ALWAYS_READ, *(set(_AVIF + _JPEG_2000 + _HEIF) - missing_decoders().keys()))


@functools.cache
def missing_decoders() -> dict[str, str]:
    """{suffix: what brings it} of the images that cannot be read here."""
    missing = {}
    if not ("avif" in features.modules and features.check("avif")):  # new in Pillow 11.3
        missing |= dict.fromkeys(_AVIF, "pip install 'pillow>=11.3'")
    if not features.check("jpg_2000"):
        missing |= dict.fromkeys(_JPEG_2000, "a Pillow built with OpenJPEG")
    if not register_heif():
        missing |= dict.fromkeys(_HEIF, "pip install 'repre_jax[heic]'")
    return missing


def suffix_of(name: str) -> str:
    """Suffix of a file that is skipped, as it is counted."""
    return os.path.splitext(name)[1].lower() or "without a suffix"


def skipped_in_words(skipped: Counter[str], description: str) -> Iterator[str]:
    """Sentences on the files that are not read: images that want a library, and others.

    Args:
      skipped: number of files by their suffix.
      description: of the source.
    """
    others = Counter(skipped)
    for suffix, remedy in missing_decoders().items():
        if count := others.pop(suffix, 0):
            yield f"{count:,} {suffix} images of {description} are skipped; to read them: {remedy}."
    if others:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(others.items())[:5])
        yield f"{others.total():,} other files of {description} are skipped ({kinds})."
