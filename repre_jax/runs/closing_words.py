"""What a pre-training run ends with on the screen."""

from typing import Any

from ml_collections import ConfigDict

from repre_jax.runs.folder import RunFolder
from repre_jax.runs.starts import typed


def closing_words(config: ConfigDict, folder: RunFolder, summary: dict[str, Any]) -> str:
    """Results, where things are, what to do next."""
    lines = [f"Done: {summary['steps']:,} steps in {summary['wall_seconds']:,.0f} s."]
    if summary["bad_files"]:
        lines.append(
            f"{summary['bad_files']:,} images could not be read; {folder.bad_files_path} says why."
        )
    if "few_label/trained" in summary:
        lines.append(f"Few-label accuracy ({summary['few_label/protocol']}):")
        for name in ("pixels", "random", "trained"):
            accuracy, spread = summary[f"few_label/{name}"], summary[f"few_label/{name}_std"]
            label = {"pixels": "raw pixels", "random": "random encoder"}.get(name, "after training")
            lines.append(f"  {label:<16}{accuracy:7.1%}  +- {spread:.1%}")
    if "knn/top1" in summary:
        lines.append(
            f"k-NN top-1 ({config.evaluation.neighbours} neighbours): {summary['knn/top1']:.1%}"
        )
    lines.append(f"Run folder       {folder.path}")
    if (folder.path / "report.html").exists():
        lines.append(f"Report           {folder.path / 'report.html'}")
    for picture in sorted(folder.figures.glob("*reconstructions.png")):
        lines.append(f"Reconstructions  {picture} (input | reconstruction | error)")
    if "knn/top1" in summary:
        lines.append("Next")
        lines += [
            "  " + typed(f"--config={name}", f"--config.checkpoint={folder.path}")
            for name in ("eval/linear:sweep", "eval/finetune", "eval/health", "look")
        ]
    return "\n".join(lines)
