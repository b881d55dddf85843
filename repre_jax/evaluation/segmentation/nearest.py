"""Dense nearest neighbours: classes of patches from a memory of training patches; no training.

Source: Hummingbird (arXiv 2306.01667) as vpariza/open-hummingbird-eval evaluates
(hbird/hbird_eval.py). Departures: images of the memory are whole, not random crops with jitter, so
that a checkpoint has one value; pixels without a class vote for none (``memory.patch_shares``);
predicted classes are what they are, not matched to true ones by the Hungarian method; and the mean
IoU leaves out classes that no pixel has.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.data.segmentation.source import SegmentationSource
from repre_jax.errors import UserError
from repre_jax.evaluation.knn import nearest
from repre_jax.evaluation.segmentation.confusion import confusion_matrix, scores
from repre_jax.evaluation.segmentation.maps import (
    block_maps,
    chosen_blocks,
    names_of,
    reported_of,
    with_fused,
)
from repre_jax.evaluation.segmentation.memory import (
    classes_of_pixels,
    patch_shares,
    sampled_patches,
)
from repre_jax.evaluation.segmentation.pictures import save_comparisons
from repre_jax.evaluation.segmentation.views import (
    check_one_process,
    note_unread,
    open_colour_pairs,
    whole_batches,
)
from repre_jax.evaluation.task import (
    ENCODER_FREE_TO_CHANGE,
    ENCODER_RANGES,
    LABEL_RANGES,
    Evaluation,
    Task,
)
from repre_jax.image_size import height_and_width
from repre_jax.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE
from repre_jax.runs.progress import counted_on_screen
from repre_jax.sharding import by_row, jitted


class Memory(NamedTuple):
    """Sampled patches of the training images, by the features of one block.

    Attributes:
      grid: (gh, gw) of an image.
      features: float32 [n, D].
      shares: float32 [n, C], of the classes.
    """

    grid: tuple[int, int]
    features: np.ndarray
    shares: np.ndarray


Encode = Callable[[jax.Array], list[jax.Array]]


def measure_dense_knn(evaluation: Evaluation) -> dict[str, Any]:
    """Mean IoU of the validation images, for the features of every block and of all fused.

    Raises:
      UserError: a memory smaller than the training set, no image that can be read, or a block that
        there is not.
    """
    check_one_process()
    config, encoder = evaluation.config, evaluation.pretrained.encoder
    blocks = chosen_blocks(encoder, config.blocks)
    fused = config.fuse and len(blocks) > 1
    names = names_of(blocks, fused)
    if config.memory < len(evaluation.train):
        raise UserError(
            f"memory={config.memory} patches are fewer than the {len(evaluation.train)} training "
            "images: raise it."
        )

    def maps_of(params, images):
        return with_fused(block_maps(encoder, params, images, blocks), fused)

    shared_maps_of = jitted(maps_of, evaluation.mesh)

    def encode(images):
        return shared_maps_of(evaluation.params, jax.device_put(images, by_row(evaluation.mesh)))

    batches = sum(-(-len(x) // evaluation.batch_size) for x in (evaluation.train, evaluation.val))
    with counted_on_screen(batches, "batches of images") as advance:
        memories = remember(evaluation, encode, advance)
        drawn = names.index(reported_of(names))
        confusions = predict(evaluation, encode, memories, advance, drawn)
    class_names = evaluation.val.class_names
    found = {
        name: scores(matrix, class_names) for name, matrix in zip(names, confusions, strict=True)
    }
    reported = reported_of(names)
    value, rows = found[reported]["mean_iou"], len(memories[0].shares)
    height, width = height_and_width(config.image_size)
    return {
        "metric": "mean_iou",
        "value": value,
        "protocol": "dense_knn",
        "formula": (
            "mean over classes of TP / (TP + FP + FN) over the pixels of the validation images at "
            f"{height} x {width}; votes of a patch: softmax(cosine / {config.temperature:g}) times "
            f"class shares of the {config.neighbours} nearest of {rows} training patches by the "
            f"features of block {reported}, resized bilinearly; source: Hummingbird (arXiv "
            "2306.01667), vpariza/open-hummingbird-eval"
        ),
        "metrics": {"blocks": found, "patches": rows},
        "line": evaluation.line(f"dense k-NN mean IoU {value:.2%} (block {reported})"),
    }


TASK = Task(
    measure=measure_dense_knn,
    ranges={
        **ENCODER_RANGES,
        **LABEL_RANGES,
        "memory": AT_LEAST_ONE,
        "neighbours": AT_LEAST_ONE,
        "temperature": POSITIVE,
        "pictures": NOT_NEGATIVE,
        "workers": NOT_NEGATIVE,
    },
    free_to_change=(*ENCODER_FREE_TO_CHANGE, "data.path", "workers", "pictures"),
    open=open_colour_pairs,
    own_data=True,
)


def remember(evaluation: Evaluation, encode: Encode, advance: Callable[[], None]) -> list[Memory]:
    """The memory of every block: as many patches of each training image, rare classes first.

    Args:
      evaluation: config, images, devices.
      encode: images of levels [B, H, W, C] -> unit features [B, gh, gw, D] of every block.
      advance: called for every batch.
    """
    config, source = evaluation.config, evaluation.train
    classes, each = len(source.class_names), config.memory // len(source)
    features: list[list[np.ndarray]] = []
    shares: list[list[np.ndarray]] = []
    grids: list[tuple[int, int]] = []
    for batch in _read(evaluation, source):
        maps = encode(batch["image"])
        grids = [x.shape[1:3] for x in maps]
        features = features or [[] for _ in maps]
        shares = shares or [[] for _ in maps]
        of_grid = {
            grid: np.asarray(patch_shares(batch["label"], grid=grid, classes=classes))
            for grid in set(grids)
        }
        for k, (grid, of_block) in enumerate(zip(grids, maps, strict=True)):
            flat = np.asarray(of_block).reshape(len(of_block), grid[0] * grid[1], -1)
            for row in np.flatnonzero(batch["mask"]):
                rng = np.random.default_rng((config.seed, int(batch["index"][row])))
                chosen = sampled_patches(of_grid[grid][row], rng.random(flat.shape[1]), each)
                features[k].append(flat[row][chosen])
                shares[k].append(of_grid[grid][row][chosen])
        advance()
    return [
        Memory(grid, np.concatenate(x), np.concatenate(y))
        for grid, x, y in zip(grids, features, shares, strict=True)
    ]


def predict(
    evaluation: Evaluation,
    encode: Encode,
    memories: list[Memory],
    advance: Callable[[], None],
    drawn: int,
) -> list[np.ndarray]:
    """The confusion matrix of the validation images by every memory.

    Args:
      evaluation, encode, advance: as in ``remember``.
      memories: of the blocks.
      drawn: number of the one whose predictions are drawn.
    """
    config, source = evaluation.config, evaluation.val
    classes, size = len(source.class_names), height_and_width(config.image_size)
    totals = [np.zeros((classes, classes + 1), np.int64) for _ in memories]
    numbered = [np.arange(len(memory.shares), dtype=np.int32) for memory in memories]
    pictures = 0
    for batch in _read(evaluation, source):
        maps = encode(batch["image"])
        for k, (total, memory, numbers, of_block) in enumerate(
            zip(totals, memories, numbered, maps, strict=True)
        ):
            queries = np.asarray(of_block).reshape(-1, of_block.shape[-1])
            cosines, places = nearest(
                memory.features, numbers, queries, config.neighbours, mesh=evaluation.mesh
            )
            votes = neighbours_votes(cosines, places, memory.shares, config.temperature)
            votes = votes.reshape(len(of_block), -1, classes)
            given = classes_of_pixels(votes, grid=memory.grid, size=size)
            total += np.asarray(_confusion(batch["label"], given, classes))
            if k == drawn and pictures < config.pictures:
                rows = batch["mask"]
                pictures = save_comparisons(
                    evaluation.folder.path,
                    batch["image"][rows],
                    batch["label"][rows],
                    np.asarray(given)[rows],
                    source.colours,
                    first=pictures,
                    most=config.pictures,
                )
        advance()
    return totals


@jax.jit
def neighbours_votes(
    cosines: jax.Array, places: jax.Array, shares: jax.Array, temperature: float
) -> jax.Array:
    """softmax(cosine / temperature) over the neighbours, times their shares: [m, C].

    Args:
      cosines: [m, k], -inf where there was no neighbour.
      places: int [m, k], rows of ``shares``.
      shares: [n, C].
      temperature: of the softmax.
    """
    weights = jax.nn.softmax(cosines / temperature, axis=1)
    return jnp.einsum("mk,mkc->mc", weights, shares[places], precision=jax.lax.Precision.HIGHEST)


_confusion = jax.jit(confusion_matrix, static_argnums=2)


def _read(evaluation: Evaluation, source: SegmentationSource) -> Iterator[dict[str, np.ndarray]]:
    """Batches of all images, and a word on those that could not be read."""
    config, read = evaluation.config, []
    options = {"batch_size": evaluation.batch_size, "workers": config.workers}
    with whole_batches(source, image_size=config.image_size, **options) as batches:
        for batch in batches:
            read.append(batch["index"][batch["mask"]])
            yield batch
    note_unread(evaluation, source, np.concatenate(read))
