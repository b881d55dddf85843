"""SETR's heads against the authors' modules, and the blocks that they read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.cases_dense import SETR, SETR_BLOCKS, setr_labels, setr_maps, setr_values
from golden.compare import FOLDER

from repre_jax.evaluation.segmentation.setr.step import pixel_cross_entropy
from repre_jax.models.setr import SETRHead, corners_matrix, setr_blocks
from repre_jax.training.optimizers import map_with_path

GOLDEN = dict(np.load(FOLDER / "setr.npz"))
SIZE = (SETR["size"],) * 2


@pytest.mark.parametrize(
    "variant", ["naive", *(pytest.param(x, marks=pytest.mark.slow) for x in ("pup", "mla"))]
)
def test_heads_are_those_of_the_authors(variant):
    """Logits in both modes, the loss and its gradient, and what BatchNorm has learnt of a step."""
    head = SETRHead(variant, *SETR_BLOCKS[variant], SETR["classes"])
    maps = setr_maps(variant)
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), maps, SIZE))
    variables = map_with_path(lambda path, x: jnp.asarray(setr_values(path, x.shape)), shapes)

    def losses(maps):
        (main, others), changed = head.apply(
            variables, maps, SIZE, train=True, mutable=["batch_stats"]
        )
        parts = [pixel_cross_entropy(x, setr_labels(), "all") for x in (main, *others)]
        return parts[0] + 0.4 * sum(parts[1:]), (main, others, changed)

    (loss, (main, others, changed)), gradients = jax.jit(jax.value_and_grad(losses, has_aux=True))(
        maps
    )
    evaluated, none = jax.jit(lambda maps: head.apply(variables, maps, SIZE))(maps)
    assert none == []
    found = {"eval/main": evaluated, "train/main": main}
    found |= {f"train/auxiliary_{k}": x for k, x in enumerate(others)}
    assert len(others) == len(SETR_BLOCKS[variant][1])
    shown = SETR["shown"]
    for name, logits in found.items():
        expected = GOLDEN[f"{variant}/{name}"]
        scale = np.abs(expected).max()
        sampled = np.asarray(logits)[:, ::shown, ::shown]
        np.testing.assert_allclose(sampled, expected, atol=1e-4 * scale, err_msg=name)
    assert float(loss) == pytest.approx(float(GOLDEN[f"{variant}/loss"]), rel=1e-5)
    for k, gradient in enumerate(gradients):
        expected = GOLDEN[f"{variant}/gradient/{k}"]
        np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())
    stats = jax.tree_util.tree_leaves_with_path(changed["batch_stats"])
    means = [np.abs(x).sum() for path, x in stats if path[-1].key == "mean"]
    assert np.sum(means) == pytest.approx(float(GOLDEN[f"{variant}/mean"]), rel=1e-4)


@pytest.mark.parametrize("variant", ["naive", "pup", "mla"])
def test_no_auxiliary_head(variant):
    blocks, _ = SETR_BLOCKS[variant]
    head, maps = SETRHead(variant, blocks, (), 3), [jnp.zeros((1, 2, 2, 8))] * len(blocks)
    assert head.taps == blocks
    (_, others), variables = jax.eval_shape(
        lambda: head.init_with_output(jax.random.key(0), maps, (16, 16))
    )
    assert others == [] and not [name for name in variables["params"] if "auxiliary" in name]


def test_blocks_are_those_of_the_repository():
    assert setr_blocks("naive", 12) == ((11,), (2, 5, 8))
    assert setr_blocks("pup", 12) == ((11,), (4, 7, 9, 11))
    assert setr_blocks("mla", 12) == ((2, 5, 8, 11),) * 2
    assert setr_blocks("pup", 24) == ((23,), (9, 14, 19, 23))
    assert setr_blocks("naive", 24) == ((23,), (9, 14, 19))
    assert setr_blocks("mla", 24)[0] == (5, 11, 17, 23)
    assert setr_blocks("pup", 4) == ((3,), (0, 1, 2, 3))
    assert setr_blocks("naive", 2) == ((1,), (0,))


def test_corners_stay_where_they_are():
    matrix = corners_matrix(3, 5)
    np.testing.assert_allclose(matrix @ [0, 1, 2], [0, 0.5, 1, 1.5, 2])
    np.testing.assert_allclose(corners_matrix(1, 4), np.ones((4, 1)))
