"""Plain sentences about a run: what was measured, and nothing else."""

import json

import numpy as np
import pytest
from recorded_runs import recorded_run, row

from repre_jax.visualize.report.recorded import open_run
from repre_jax.visualize.report.verdict import verdict


@pytest.fixture
def said(tmp_path):
    """Function: (all sentences, the worrying ones) about a run of these rows."""

    def judge(rows, **options):
        findings = verdict(open_run(recorded_run(tmp_path / "run", rows, **options)))
        everything = " ".join(finding.sentence for finding in findings)
        return everything, " ".join(f.sentence for f in findings if f.worrying)

    return judge


def test_a_finished_healthy_run(said):
    everything, worrying = said([row(step) for step in range(1, 5)], finished=True)
    assert "Finished: 4 steps in 0:01:01." in everything
    assert "The contrast loss fell (6 to 3.75) and the reconstruct loss fell" in everything
    assert (
        "The features have not collapsed (effective rank 20.0, std 0.08 at the end)" in everything
    )
    assert "No k-NN was measured." in everything
    assert "waited for images 2% of the time: not input-bound." in everything
    assert worrying == ""


def test_a_run_that_was_killed_half_way(said):
    _, worrying = said([row(1), row(2)], overrides={"train.steps": 4})
    assert worrying == "Not finished: 2 of 4 steps (50%) are logged."


def test_a_run_in_epochs_has_its_steps_from_its_images(tmp_path):
    path = recorded_run(tmp_path / "run", [row(20)], overrides={"train.steps": None})
    run = open_run(path)
    assert run.total_steps is None
    assert verdict(run)[0].sentence == "Not finished: 20 steps are logged."
    (path / "images.json").write_text(json.dumps({"train": {"images": 1442, "where": "digits"}}))
    assert open_run(path).total_steps == 1442 // 16 * run.config.train.epochs


def test_a_run_without_a_row(said):
    everything, worrying = said([])
    assert everything == "Not finished: no step is logged yet. No k-NN was measured."
    assert worrying.startswith("Not finished")


def test_losses_that_rise_or_only_shake(said):
    noise = np.random.default_rng(0).normal(size=100)
    rows = [
        row(k + 1, loss__contrast=5 + 0.1 * noise[k], loss__reconstruct=0.1 + k / 100)
        for k in range(100)
    ]
    everything, _ = said(rows)
    assert "The contrast loss did not leave its noise" in everything
    assert "the reconstruct loss rose (0.145 to 1.04)" in everything


def test_a_steep_fall_is_no_noise(said):
    everything, _ = said([row(k) for k in range(1, 101)])
    assert "The contrast loss fell" in everything and "reconstruct loss fell" in everything


def test_a_single_row_says_nothing_of_the_loss(said):
    assert "loss" not in said([row(1)])[0]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"feature_std": 1e-4}, "collapsed to one point"),
        ({"effective_rank": 1.01}, "collapsed to one line"),
    ],
)
def test_a_collapse_is_worrying(said, metrics, words):
    _, worrying = said([row(1), row(2, **metrics)])
    assert words in worrying


def test_the_teacher_of_dino_is_judged_too(said):
    worrying = said([row(1, teacher_entropy=1e-6, teacher_divergence=1e-6)])[1]
    assert "collapsed onto one prototype" in worrying


def test_masked_methods_are_not_judged_by_features_that_may_be_alike(said):
    everything, _ = said([row(1, effective_rank=1.01)], config="mae_vitb:smoke")
    assert "collapsed" not in everything


def test_what_was_not_measured_is_not_claimed(said):
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    everything, _ = said(rows, finished=False, overrides={"train.steps": 2})
    assert "The loss fell (2 to 1)." in everything
    assert "collapsed" not in everything and "waited" not in everything


def test_knn_from_first_to_last_with_its_error(tmp_path):
    path = recorded_run(tmp_path / "run", [row(1, knn__top1=0.3), row(2), row(3, knn__top1=0.5)])
    (path / "images.json").write_text(json.dumps({"val": {"images": 2500, "where": "a folder"}}))
    told = " ".join(finding.sentence for finding in verdict(open_run(path)))
    assert (
        "k-NN top-1 went from 30.0% (step 1) to 50.0% (step 3; one standard error is 1.0 points)."
        in told
    )


def test_accuracy_from_few_labels(tmp_path):
    path = recorded_run(tmp_path / "run")
    summary = {"finished": True, "steps": 4, "wall_seconds": 1.0}
    summary |= {"few_label/trained": 0.8, "few_label/random": 0.7, "few_label/pixels": 0.65}
    (path / "summary.json").write_text(json.dumps(summary))
    (told,) = (f for f in verdict(open_run(path)) if "few labels" in f.sentence)
    assert "reaches 80.0%, before training 70.0%, raw pixels 65.0%." in told.sentence
    assert not told.worrying


def test_a_model_that_this_version_does_not_know_is_not_judged(said):
    everything, _ = said([row(1), row(2)], overrides={"model.name": "vit_of_tomorrow"})
    assert "collapsed" not in everything and "loss fell" in everything


def test_worries(said):
    rows = [row(k, input_bound=0.4, nonfinite_steps=3.0) for k in range(1, 4)]
    rows += [row(4, input_bound=0.4, knn__top1=0.5), row(5, input_bound=0.4, knn__top1=0.4)]
    rows[-1] |= {"nonfinite_steps": 3.0, "loss/contrast": None}
    _, worrying = said(rows, bad_files="a.jpg\ttruncated\nb.jpg\tempty\n")
    assert "40% of the time: the input is too slow." in worrying
    assert "3 steps skipped: loss or gradient was not finite." in worrying
    assert "went from 50.0%" in worrying
    assert "2 files could not be read." in worrying
