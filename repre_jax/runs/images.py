"""Which images a run is made from: written into its folder, compared when it goes on.

images.json           for each split: where it was found, how many images, fingerprint
images-<split>.gz     its listing, a line an image, to name the first one that is another
"""

import gzip
import itertools
import json
from collections.abc import Mapping
from typing import Any

from repre_jax.data.sources.source import Source
from repre_jax.errors import UserError
from repre_jax.runs.disk_errors import disk_trouble_told
from repre_jax.runs.folder import RunFolder, write_json


def check_same_images(folder: RunFolder, sources: Mapping[str, Source]) -> None:
    """Compares the images with those that the run began with; a moved folder has the same.

    A run that is new, or older than this file, has nothing to compare.

    Args:
      folder: of the run.
      sources: split -> its images.

    Raises:
      UserError: they are others.
    """
    path = folder.path / "images.json"
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text())
        fingerprints = {split: about["fingerprint"] for split, about in before.items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise UserError(
            f"{path} cannot be read, so it is not known whether these are the run's images; bring "
            "it back from a copy, or remove it if you are sure that they are."
        ) from None
    for split in sorted(fingerprints.keys() | sources.keys()):
        source = sources.get(split)
        if fingerprints.get(split) == (source and source.fingerprint):
            continue
        was, now = _told(before.get(split)), _told(source and _about(source))
        raise UserError(
            f"{folder.path} holds a run of other images ({split}: {was} -> {now}"
            f"{_first_difference(folder, split, source)}): choose another --workdir, or bring the "
            "old images back to resume that run."
        )


def write_images(folder: RunFolder, sources: Mapping[str, Source]) -> None:
    """Writes what ``check_same_images`` compares; what is there already is left as it is.

    Raises:
      UserError: disk full or no permission.
    """
    if (folder.path / "images.json").exists():
        return
    with disk_trouble_told(folder.path):
        for split, source in sources.items():
            with gzip.open(folder.path / f"images-{split}.gz", "wb", compresslevel=1) as file:
                file.writelines(line + b"\n" for line in source.listing())
    write_json(folder.path / "images.json", {k: _about(source) for k, source in sources.items()})


def _about(source: Source) -> dict[str, Any]:
    return {
        "where": source.description,
        "images": len(source),
        "fingerprint": source.fingerprint,
    }


def _told(about: dict[str, Any] | None) -> str:
    return f"{about['images']:,} images of {about['where']}" if about else "none"


def _first_difference(folder: RunFolder, split: str, source: Source | None) -> str:
    path = folder.path / f"images-{split}.gz"
    if source is None or not path.exists():
        return ""
    try:
        with gzip.open(path, "rb") as file:
            before = file.read().splitlines()
    except (OSError, EOFError):
        return ""
    for old, new in itertools.zip_longest(before, source.listing()):
        if old != new:
            return f"; first difference: {_shown(old)} -> {_shown(new)}"
    return "; the labels differ"


def _shown(line: bytes | None) -> str:
    return "none" if line is None else line.decode(errors="replace").replace("\t", ", ")
