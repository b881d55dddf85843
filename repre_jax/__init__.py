"""Self-supervised pre-training of vision transformers in JAX: RePre on any contrastive framework.

``load`` opens the encoder of a run or of another library; ``METHODS`` and ``BACKBONES`` list what
there is, by name.
Importing this package imports nothing else: what is named here is fetched when it is asked for.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["BACKBONES", "METHODS", "__version__", "load"]

_HOMES = {
    "BACKBONES": "repre_jax.models",
    "METHODS": "repre_jax.methods",
    "load": "repre_jax.evaluation.encoder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
