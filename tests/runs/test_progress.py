"""How far a measurement is, told of what takes longer than seconds."""

import pytest

from repre_jax.runs import progress


@pytest.mark.parametrize("untold", [-1.0, 1000.0])
def test_counted_on_screen(untold, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_UNTOLD", untold)
    with progress.counted_on_screen(4, "clips") as advance:
        for _ in range(4):
            advance()
    out = capsys.readouterr().out
    if untold > 0:
        assert out == ""
    else:
        assert out.startswith("4 clips\n") and "step 4/4 (100 %)" in out
