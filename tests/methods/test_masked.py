"""MAE, LoMaR and token targets beyond parity: equivalences, what has no gradient, first losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import (
    BATCH,
    equations,
    random_keys,
    random_state,
    random_views,
    tiny_config,
    tiny_learner,
)

from repre_jax.config_files import read_config
from repre_jax.errors import UserError
from repre_jax.losses.masked import masked_cross_entropy, masked_squared_error, patch_targets
from repre_jax.methods import windows
from repre_jax.models.pixels import (
    IMAGENET,
    denormalise,
    encoder_input,
    normalise,
    patchify,
    unpatchify,
)
from repre_jax.models.tokenizers import tokenize
from repre_jax.training.learner import build_learner
from repre_jax.training.operations import forward_multiply_adds
from repre_jax.training.resolution import resolve
from repre_jax.training.step import train_step

METHOD = tiny_config("lomar").method


@functools.cache
def lomar():
    return tiny_learner(tiny_config("lomar"))


def params_and_images(seed=0):
    images = random_views(lomar(), seed)["global"][:, 0]
    return random_state(lomar()).params, encoder_input(lomar().encoder, jnp.asarray(images))


def whole_then_gathered(params, images, drawn):
    """LoMaR as it is written down: embed the whole image, then gather the windows' tokens."""
    encoder, side = lomar().encoder, METHOD.side
    embedding = params["encoder"]["patch_embed"]
    patches = patchify(images, encoder.patch_size)
    kernel = embedding["kernel"].reshape(-1, encoder.width)
    tokens = patches @ kernel + embedding["bias"]
    places = windows.places(drawn, images.shape[1] // encoder.patch_size, side)
    gathered = jax.vmap(lambda row, place: row[place])(tokens, places)
    gathered = gathered.reshape(-1, *gathered.shape[2:])
    masked = drawn.masked.reshape(*gathered.shape[:2], 1)
    gathered = jnp.where(masked, params["tokens"]["mask"], gathered)
    pixels = jnp.zeros((len(gathered), side * encoder.patch_size, side * encoder.patch_size, 3))
    encoded = encoder.apply(
        {"params": params["encoder"]}, pixels, change_tokens=lambda _: gathered
    ).tokens
    return encoded.reshape(*drawn.masked.shape, -1)


@pytest.mark.slow
def test_cutting_first_is_embedding_first_in_values_and_gradients():
    params, images = params_and_images()
    drawn = windows.draw(random_keys(lomar()), (4, 4), METHOD)
    weights = np.random.default_rng(0).normal(size=(*drawn.masked.shape, lomar().encoder.width))

    def cut_first(params):
        return windows.encode_windows(
            lomar().encoder, params["encoder"], params["tokens"]["mask"], images, drawn, METHOD.side
        ).tokens

    def embedded_first(params):
        return whole_then_gathered(params, images, drawn)

    found = []
    for function in (cut_first, embedded_first):
        loss = lambda params, f=function: jnp.sum(weights * f(params))  # noqa: E731
        found.append((function(params), jax.jit(jax.grad(loss))(params)))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3),
        *(gradients for _, gradients in found),
    )


def test_a_window_does_not_know_where_it_lies():
    """The same pixels under another corner give the same tokens: there is no absolute position."""
    params, images = params_and_images()
    moved = jnp.roll(images, lomar().encoder.patch_size, axis=1)
    drawn = windows.draw(random_keys(lomar()), (4, 4), METHOD)
    at_0 = drawn._replace(rows=jnp.zeros_like(drawn.rows))
    at_1 = drawn._replace(rows=jnp.ones_like(drawn.rows))

    @jax.jit
    def encode(images, drawn):
        encoder, mask = params["encoder"], params["tokens"]["mask"]
        return windows.encode_windows(lomar().encoder, encoder, mask, images, drawn, METHOD.side)

    first, second = encode(images, at_0), encode(moved, at_1)
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_array_equal(first.patches, second.patches)


def test_visible_patches_have_no_loss():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(2, 3, 9, 12)).astype(np.float32)
    prediction = rng.normal(size=target.shape).astype(np.float32)
    masked = rng.random((2, 3, 9)) < 0.5
    loss = masked_squared_error(prediction, target, masked)
    expected = [np.square(prediction - target)[i][masked[i]].mean() for i in range(2)]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    changed = np.where(masked[..., None], target, target + 1)
    np.testing.assert_array_equal(masked_squared_error(prediction, changed, masked), loss)
    ids = rng.integers(0, 12, masked.shape)
    entropy = masked_cross_entropy(prediction, ids, masked)
    np.testing.assert_array_equal(
        masked_cross_entropy(prediction, np.where(masked, ids, 0), masked), entropy
    )
    assert (np.asarray(entropy) > 0).all()


def test_targets_are_of_unbiased_variance_and_flat_patches_are_zero():
    patches = np.asarray([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]], np.float32)
    target = patch_targets(jnp.asarray(patches), per_patch=True)
    deviation = np.sqrt((4 + 1 + 0 + 9) / 3 + 1e-6)
    np.testing.assert_allclose(target[0], (patches[0] - 3) / deviation, rtol=1e-6)
    np.testing.assert_array_equal(target[1], 0)


def test_patches_and_back():
    images = np.random.default_rng(0).random((2, 8, 12, 3)).astype(np.float32)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    np.testing.assert_array_equal(patches[1, 4], images[1, 4:8, 4:8].ravel())
    np.testing.assert_array_equal(unpatchify(patches, (2, 3), 4), images)
    there_and_back = denormalise(normalise(images, IMAGENET), IMAGENET)
    np.testing.assert_allclose(there_and_back, images, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lomar_vitb", 2.0), pytest.param("mae_vitb", 1.8, marks=pytest.mark.slow)],
)
def test_first_loss(name, expected):
    """Targets have variance 1, outputs of a last layer from D to 768 numbers 2 D / (D + 768)."""
    config = read_config(name)
    config.model.update({"image_size": 160, "depth": 1})
    config.train.batch_size = 4
    learner = build_learner(config, resolve(config, images=64, devices=1))
    params = jax.jit(learner.init)().params
    pixels = np.random.default_rng(0).random((4, 1, 160, 160, 3)).astype(np.float32)
    rows = {"index": jnp.arange(4), "epoch": jnp.zeros(4, jnp.int32)}

    @jax.jit
    def loss(params):
        views = {"global": pixels, "index": rows["index"]}
        keys = learner.keys(rows, jnp.int32(0))
        encoded = learner.method.encode(learner.encoder, params, views, keys, ())
        painted = learner.method.heads.apply(
            {"params": params["heads"]}, encoded.inputs, train=True
        )
        return jnp.mean(learner.method.loss(painted, None, {}, 0)[0])

    assert float(loss(params)) == pytest.approx(expected, abs=0.1)


# Multiply-adds of the forward pass of an image in units of 1e9, worked out by hand from the sizes.
TABLE = {
    ("mae_vitb", 224): 9.78,
    ("mae_vitb", 384): 30.57,
    ("mae_vitb", 448): 43.10,
    ("lomar_vitb", 224): 17.50,
    ("lomar_vitb", 384): 17.50,
    ("lomar_vitb", 448): 17.50,
}


@functools.cache
def published(name):
    config = read_config(name)
    return build_learner(config, resolve(config, images=8192, devices=1))


@pytest.mark.parametrize(
    ("name", "size"),
    [pytest.param(*row, marks=pytest.mark.slow if row[1] > 224 else ()) for row in TABLE],
)
def test_multiply_adds(name, size):
    learner = published(f"{name}:size={size}" if size != 224 else name)
    assert forward_multiply_adds(learner, 1) / 1e9 == pytest.approx(TABLE[name, size], rel=0.01)


@pytest.mark.parametrize(("name", "count"), [("mae", 111_655_680), ("lomar", 86_277_120)])
def test_parameter_counts(name, count):
    params = published(f"{name}_vitb").shapes.params
    assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mae", "lomar"])
def test_thirty_two_images_are_learnt_by_heart(method):
    """A rough check that gradients point downhill: far below 1, the loss of predicting nothing."""
    config = tiny_config(method)
    config.model.update({"width": 64, "depth": 4, "heads": 4, "patch_size": 4})
    config.method.mask_ratio = 0.5
    config.train.update({"batch_size": 32, "steps": 600})
    config.optimizer.update({"learning_rate": 0.016, "warmup_epochs": 20.0})
    config.views.update({"flip_probability": 0.0})
    learner = build_learner(config, resolve(config, images=32, devices=1))
    pixels = smooth_images(32, 32)
    batch = {
        "global": pixels[:, None],
        "index": np.arange(32, dtype=np.int32),
        "epoch": np.zeros(32, np.int32),  # the same masks every time
    }
    step = jax.jit(functools.partial(train_step, learner), donate_argnums=0)
    state = jax.jit(learner.init)()
    for _ in range(600):
        state, metrics = step(state, batch)
    assert float(metrics["loss"]) < 0.3


def smooth_images(count, side):
    """uint8 images with structure, so that a patch tells of its neighbours."""
    rng = np.random.default_rng(0)
    coarse = rng.random((count, 4, 4, 3)).astype(np.float32)
    images = jax.image.resize(coarse, (count, side, side, 3), "cubic")
    return np.asarray(jnp.clip(images * 255, 0, 255)).astype(np.uint8)


# ---------------------------------------------------------------------------------- token targets


def test_tokens_tell_patches_apart_and_do_not_hang_on_brightness():
    learner = tiny_learner(tiny_config("lomar_tokens"))
    tokenizer = jax.jit(learner.init)().memory
    patches = np.random.default_rng(0).normal(size=(64, 192)).astype(np.float32)
    ids = np.asarray(tokenize(tokenizer, patches))
    assert len(set(ids.tolist())) > 16
    np.testing.assert_array_equal(tokenize(tokenizer, 3 * patches + 5), ids)
    centroids = {"centroids": patch_targets(jnp.asarray(patches), per_patch=True)}
    np.testing.assert_array_equal(tokenize(centroids, 0.5 * patches - 1), np.arange(64))


def test_tokens_are_chosen_in_float32_on_accelerators_too():
    patches, narrow = np.zeros((2, 12), np.float32), np.zeros((12, 16), np.float32)
    for knowledge in ({"projection": narrow, "codes": narrow}, {"centroids": narrow.T}):
        found = equations(jax.make_jaxpr(tokenize)(knowledge, patches).jaxpr)
        products = [x.params["precision"] for x in found if x.primitive.name == "dot_general"]
        assert products and all(set(x) == {jax.lax.Precision.HIGHEST} for x in products)


def test_given_ids_are_those_of_the_images_and_places(tmp_path):
    ids = np.arange(64 * 16).reshape(64, 4, 4) % 32
    np.savez(tmp_path / "ids.npz", ids=ids)
    config = tiny_config("lomar_tokens")
    config.method.update({"tokenizer": "ids", "tokens_path": str(tmp_path / "ids.npz")})
    with pytest.raises(UserError, match="needs the same view of an image every time"):
        tiny_learner(config)
    config.views.update({"crop_scale": (1.0, 1.0), "flip_probability": 0.0})
    learner = tiny_learner(config)
    state = random_state(learner).replace(memory={"ids": ids.astype(np.int32)})
    index = jnp.asarray([5, 63, 0, 7] * (BATCH // 4))
    views = random_views(learner) | {"index": index}
    keys = random_keys(learner)
    encoded = learner.method.encode(learner.encoder, state.params, views, keys, ())
    drawn = windows.draw(keys, (4, 4), config.method)
    for b, m, k in ((0, 0, 0), (1, 1, 8), (7, 0, 4)):
        row, column = int(drawn.rows[b, m]) + k // 3, int(drawn.columns[b, m]) + k % 3
        assert int(encoded.inputs.places[b, m, k]) == 4 * row + column
        wanted = ids[int(index[b]), row, column]
        logits = jnp.where(jnp.arange(32) == wanted, 50.0, 0.0) * jnp.ones((BATCH, 2, 9, 1))
        predicted = learner.method.heads.apply(
            {"params": state.params["heads"]}, encoded.inputs, train=True
        )._replace(logits=logits)
        only = jnp.zeros((BATCH, 2, 9), bool).at[b, m, k].set(True)
        seen = predicted.seen._replace(windows=predicted.seen.windows._replace(masked=only))
        loss, _ = learner.method.loss(predicted._replace(seen=seen), None, state.memory, 0)
        assert float(loss[b]) < 1e-6

    np.savez(tmp_path / "ids.npz", ids=ids[:10])
    with pytest.raises(UserError, match="ids of 10 images, and the training set has 64"):
        tiny_learner(config)


def test_files_of_tokens_that_do_not_fit(tmp_path):
    config = tiny_config("lomar_tokens")
    config.method.update({"tokenizer": "k_means", "tokens_path": str(tmp_path / "none.npz")})
    with pytest.raises(UserError, match=r"cannot be read as an \.npz file with 'centroids'"):
        jax.eval_shape(tiny_learner(config).init)
    np.savez(tmp_path / "none.npz", centroids=np.zeros((32, 48)))
    with pytest.raises(UserError, match=r"centroids \[32, 48\], and this run needs \[32, 192\]"):
        jax.eval_shape(tiny_learner(config).init)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"windows": 3}, "draws 3 windows .* has only 2 of them in an image"),
        ({"side": 5}, "a window of 5 x 5 patches has only 0 of them in an image of 32"),
        ({"pairing": "published"}, "has pairing='published': use independent or released"),
    ],
)
def test_windows_that_cannot_be(changes, sentence):
    config = tiny_config("lomar")
    config.method.update(changes)
    with pytest.raises(UserError, match=sentence):
        tiny_learner(config)
