"""``--explain`` of a fine-tuning; the absent devices are those of this CPU, in disguise."""

import jax
import jax.numpy as jnp
import pytest
from tiny import saved_run
from whole_runs import command

from repre_jax import command_line
from repre_jax.sharding import make_mesh
from repre_jax.training import ahead_of_time
from repre_jax.training.accelerators import Accelerator, Topology
from repre_jax.training.ahead_of_time import Program

RECIPE = ["--config.recipe.batch_size=16", "--config.recipe.rand_augment=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("explained") / "run", "moco_v3")


@pytest.fixture
def explained(run, capsys, monkeypatch):
    """Function of further arguments -> (exit code, what was printed, and the error)."""
    absent = Topology("v5e:1x2", make_mesh(2), Accelerator(1e12, 1e9, 1e9), 2**30, {})
    monkeypatch.setattr(command_line, "open_topology", lambda name: absent)

    def explain(*arguments):
        checkpoint = f"--config.checkpoint={run.folder}"
        code = command("--config=eval/finetune", checkpoint, "--explain", *RECIPE, *arguments)
        return code, *capsys.readouterr()

    return explain


def test_without_a_target(explained, run):
    code, out, _ = explained()
    assert code == 0
    assert "  batch           16 = 8 device(s) x 2\n" in out
    assert "digits" in out and "compiled" not in out
    assert not (run.folder / "eval").exists(), "nothing is written"


def test_the_account_of_a_step(explained, run, monkeypatch):
    """Of another program in place of the step, which takes long to compile."""
    lowered = []

    class Jitted:
        def lower(self, state, batch):
            lowered.append((state, batch))
            return jax.jit(lambda x: jnp.sin(x @ x)).lower(jnp.ones((64, 64)))

    monkeypatch.setattr("repre_jax.explain_finetuning.jitted_finetune_step", lambda *_: Jitted())
    code, out, _ = explained("--target=v5e:1x2")
    assert code == 0
    assert "compiled for v5e:1x2, one of 2 devices" in out
    assert "bfloat16" in out, "the targets' own"
    ((state, batch),) = lowered
    assert batch["global"].shape == (16, 1, 16, 16, 3) and batch["label"].shape == (16,)
    assert batch["global"].sharding.shard_shape(batch["global"].shape)[0] == 8
    sizes = [sum(x.size for x in jax.tree.leaves(part)) for part in (state.params, state.average)]
    assert sizes[0] == sizes[1] > 0, "the recipe has a moving average"


def test_what_makes_it_fit_is_tried(explained, monkeypatch):
    """Of programs that are made up, and as large as the least that the blocks keep."""
    tried = []

    def compiled(evaluation, finetuner, params, absent):
        tried.append((finetuner.encoder.remat, absent.mesh.size))
        taken = 2**30 if finetuner.encoder.remat == "block" else 2**32
        return Program(absent.mesh.size, 16, {"all": taken}, 2**31, 9.0, 3e12, 0.5, 4, 0.25, ())

    monkeypatch.setattr("repre_jax.explain_finetuning.compile_finetuning", compiled)
    larger = [
        ("--target=v5e:2x2", Topology("v5e:2x2", make_mesh(4), Accelerator(1e12, 1e9, 1e9), 0, {}))
    ]
    monkeypatch.setattr(ahead_of_time, "larger_topologies", lambda *_: larger)
    code, out, _ = explained("--target=v5e:1x2")
    assert code == 0
    assert "does not fit, by 2.00 GiB" in out
    assert "  with remat=block: 1.00 of 2.00 GiB: fits" in out
    assert "remat=attention:" not in out and "v5e:2x2" not in out, "neither is enough"
    assert tried == [("none", 2), ("attention", 2), ("block", 2), ("none", 4)]


@pytest.mark.slow
def test_the_step_is_compiled_for_the_target(explained):
    code, out, _ = explained("--target=v5e:1x2", "--config.compute_dtype=float32")
    assert code == 0
    assert "what its operations take is not known" in out, "the data sheet speaks of bfloat16"
    assert "all-reduce" in out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--config.recipe.batch_size=15", "recipe.batch_size=15 cannot be split over 2 devices"),
        ("--config.devices=3", "devices=3, but --target=v5e:1x2 has 2"),
        ("--config.recipe.drop_path=2.0", "recipe.drop_path"),
        ("--config.protocol=mea", "protocol='mea' must be one of mae, moco_v3, simmim"),
        ("--config.remat=blocks", "remat='blocks' must be one of none, attention, block"),
    ],
)
def test_what_the_fine_tuning_would_refuse(explained, given, told):
    code, _, err = explained("--target=v5e:1x2", given)
    assert code == 2 and told in err
