"""BatchNorm of the global batch, whose devices exchange their sums once each way."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """BatchNorm over all axes but the last, in float32, as torch's but for one thing.

    Statistics are of the global batch, since the step is one jitted program over it. Running
    statistics average the biased variance (torch: the unbiased).

    flax's exchanges the mean first, and then the variance about it. Here devices that share a step
    (``compiled.jitted_step`` says so) exchange once, sums of the distance to the running mean and
    of its square: these lose no digits where the running mean is near, and few while it is zero.

    Attributes:
      train: whether it takes the statistics of what it is given, and not the running ones.
      use_scale, use_bias: whether there is one.
      momentum: of the running statistics, what they keep of themselves.
    """

    train: bool
    use_scale: bool = True
    use_bias: bool = True
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> float32 [..., C]."""
        x, width = x.astype(jnp.float32), x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        running_variance = self.variable("batch_stats", "var", jnp.ones, width)
        if self.train:
            near = jax.lax.stop_gradient(running_mean.value)
            x, mean, variance = _standardise(x, near, self.epsilon)
            if not self.is_initializing():
                for running, new in (running_mean, mean), (running_variance, variance):
                    new = jax.lax.stop_gradient(new)
                    running.value = self.momentum * running.value + (1 - self.momentum) * new
        else:
            per_deviation = jax.lax.rsqrt(running_variance.value + self.epsilon)
            x = (x - running_mean.value) * per_deviation
        if self.use_scale:
            x = x * self.param("scale", nn.initializers.ones, width)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, width)
        return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _standardise(x, near, epsilon):
    """([..., C] of mean 0 and variance 1, mean [C], biased variance [C])."""
    return _standardised_and_kept(x, near, epsilon)[0]


def _standardised_and_kept(x, near, epsilon):
    away = x - near
    if _is_shared():
        first, second = _means(away, jnp.square(away))
        variance = jnp.maximum(second - jnp.square(first), 0)
    else:  # the second pass costs no exchange
        (first,) = _means(away)
        (variance,) = _means(jnp.square(away - first))
    per_deviation = jax.lax.rsqrt(variance + epsilon)
    standard = (away - first) * per_deviation
    return (standard, near + first, variance), (standard, per_deviation)


def _is_shared() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1


def _standardise_backward(epsilon, kept, gradients):
    del epsilon
    standard, per_deviation = kept
    gradient, *_ = gradients  # the module lets none through the statistics
    mean, along = _means(gradient, gradient * standard)
    of_x = per_deviation * (gradient - mean - standard * along)
    return of_x, jnp.zeros_like(per_deviation)


_standardise.defvjp(_standardised_and_kept, _standardise_backward)


def _means(*arrays):
    """Of each [..., C] its mean [C], all in one reduction."""
    rows = jnp.stack([x.reshape(-1, x.shape[-1]) for x in arrays])
    return jnp.mean(rows, axis=1)
