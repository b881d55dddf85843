"""Which version of the code made a number."""

import subprocess
from pathlib import Path


def code_commit() -> str | None:
    """Commit of the checkout, with "+changes" when tracked files differ; None outside of one.

    An installed package may lie inside somebody's repository, whose commit says nothing of it.
    Results of benchmarks are no code: one that is being rewritten row by row changes nothing.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        code = [":(top)", ":(top,exclude)benchmarks/results"]
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
