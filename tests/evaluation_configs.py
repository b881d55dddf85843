"""Which config is that of a kind of evaluation."""

# Not of the same name: those that train something large have a folder of their own.
_ELSEWHERE = {"setr": "segment/folder", "detection": "detect/folder"}


def config_name(task: str) -> str:
    """Of ``config_files.carried``."""
    return _ELSEWHERE.get(task, f"eval/{task}")
