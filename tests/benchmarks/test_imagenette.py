import json

import pytest

from benchmarks import imagenette, plot_weights, provenance
from repre_jax.errors import UserError


@pytest.fixture(autouse=True)
def parsed_flags():
    imagenette.OPTIONS.mark_as_parsed()


def write_run(folder, *, finished=True, rows=20):
    folder.mkdir(parents=True)
    logged = [
        {"step": k, "loss/contrast": 2.0 + (k < 10), "loss/reconstruct": 0.1 + (k < 10)}
        for k in range(rows)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    (folder / "summary.json").write_text(json.dumps({"finished": finished}))


def test_converged_weights_are_the_optimum_at_the_last_losses(tmp_path):
    write_run(tmp_path / "dino-learned")
    assert imagenette.converged_weights(tmp_path / "dino-learned") == pytest.approx((0.25, 10.0))


def test_converged_row_needs_the_learned_one(tmp_path):
    write_run(tmp_path / "dino-learned", finished=False)
    with pytest.raises(UserError, match="dino-learned is not finished"):
        imagenette.row_arguments("dino", "converged", tmp_path)


def test_rows_differ_in_what_they_are_named_after(tmp_path):
    write_run(tmp_path / "dino-learned")
    rows = {row: imagenette.row_arguments("dino", row, tmp_path) for row in imagenette.ROWS}
    assert rows["baseline"] == ["--config=configs/imagenette_dino.py:baseline"]
    assert "--config.repre.weighting=learned" in rows["learned"]
    assert "--config.repre.fixed_weights=(1,1)" in rows["fixed"]
    assert "--config.repre.fixed_weights=(0.25,10)" in rows["converged"]


def test_curves_keep_what_is_worth_one():
    rows = [
        {"step": 1, "weight/contrast": 0.123456789, "images_per_second": 9.0},
        {"step": 2, "weight/contrast": 1.0, "knn/top1": 0.5, "wall_seconds": 3.0},
    ]
    assert imagenette.curves(rows) == {
        "step": [1, 2],
        "weight/contrast": [0.12346, 1.0],
        "knn/top1": [None, 0.5],
    }


UNTRAINED = {"random": {"knn/top1": 0.35}, "pixels": {"knn/top1": 0.363}, "val_images": 2500}


def written(folder, tops):
    """Results of dino's rows with these accuracies, baseline first, as ``main`` writes them."""
    provenance.write_result(folder / "dino-untrained.json", UNTRAINED)
    for row, top1 in tops.items():
        run = {
            "method": "dino",
            "row": row,
            "knn_top1": top1,
            "images_per_second": 100.0,
            "wall_seconds": 120.0,
            "health": {"val/feature_std": 0.05, "val/effective_rank": 33.0},
            "curves": {"step": [1, 2]},
        }
        if row in ("learned", "converged"):
            for loss in plot_weights.LOSSES:
                run["curves"] |= {
                    f"weight/{loss}": [1.0, 0.9],
                    f"encoder_grad_norm/{loss}": [None, 0.01],
                }
        run = imagenette.with_gains(run, imagenette.read_results(folder)["dino"])
        provenance.write_result(folder / f"dino-{row}.json", run)
    return imagenette.read_results(folder)


def test_gains_have_their_sign(tmp_path):
    found = written(tmp_path, {"baseline": 0.5, "learned": 0.48})["dino"]
    assert found["baseline"]["gain_points"] == {"random": 15.0, "pixels": 13.7}
    assert found["learned"]["gain_points"] == {"random": 13.0, "pixels": 11.7, "baseline": -2.0}
    assert found["baseline"]["standard_error_points"] == 1.0


def test_table_and_figure(tmp_path):
    folder = tmp_path / "numbers"
    results = written(folder, {"baseline": 0.5, "learned": 0.52, "converged": 0.53})
    shown = imagenette.table(results)
    assert "+2.0" in shown and "0.9 : 0.9" in shown and "0.050     33" in shown
    figure = plot_weights.draw_weights(folder, "dino")
    assert figure == tmp_path / "numbers_weights_dino.png"
    assert 1_000 < figure.stat().st_size < 200_000


def test_recorded_runs_say_where_they_come_from():
    for name in ("imagenette_cpu", "imagenette_cpu_swin"):
        results = imagenette.read_results(provenance.RESULTS / name)
        runs = [method[row] for method in results.values() for row in method if row != "untrained"]
        assert runs
        for run in runs:
            assert run["command"].startswith("python main.py --config=")
            assert run["seed"] == 0 and run["params_sha256"]


def test_results_are_whole_and_short(tmp_path):
    result = {"list": [1, 2.5, None], "rows": [{"text": "a [b] c", "empty": []}]}
    path = tmp_path / "new" / "result.json"
    provenance.write_result(path, result)
    assert json.loads(path.read_text()) == result
    assert '"list": [ 1, 2.5, null ]' in path.read_text()
    with pytest.raises(ValueError):
        provenance.write_result(path, {"nan": float("nan")})
    assert json.loads(path.read_text()) == result
