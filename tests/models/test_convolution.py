"""Convolutions beside flax's, and the gradient of a kernel that accelerators sum in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from repre_jax.models.convolution import Conv, kernel_gradient

FORMS = [
    ((3, 3), (1, 1), "SAME"),
    ((1, 1), (1, 1), "SAME"),
    ((4, 4), (4, 4), "VALID"),
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
]


def outputs(kind, size, strides, padding):
    """(output, (gradients of the parameters, of the input)) on the same numbers."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 5))
    module = kind(7, size, strides=strides, padding=padding)
    params = {"params": random_params(module, x)}

    def total(params, x):
        output = module.apply(params, x)
        return jnp.sum(jnp.sin(output.astype(jnp.float32))), output

    gradients, output = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, x)
    return output, gradients


@pytest.mark.parametrize("form", FORMS)
def test_in_float32_it_is_flaxs(form):
    ours, theirs = (outputs(kind, *form) for kind in (Conv, nn.Conv))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), ours, theirs)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_a_kernel(form):
    size, strides, padding = form
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 5))
    pads = padding
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads(x.shape[1:3], size, strides, padding)

    def convolve(kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    y, transposed = jax.vjp(convolve, jnp.zeros((*size, 5, 7)))
    g = jax.random.normal(jax.random.key(2), y.shape)
    found = kernel_gradient(x, g, size, strides, pads)
    np.testing.assert_allclose(found, transposed(g)[0], rtol=1e-5, atol=1e-5)


def test_output_is_in_the_compute_dtype_and_a_tpu_sums_in_float32():
    module = Conv(7, (3, 3), dtype=jnp.bfloat16)
    x = jnp.zeros((2, 8, 8, 5))
    params = module.init(jax.random.key(0), x)
    assert module.apply(params, x).dtype == jnp.bfloat16

    def gradients(params):
        return jax.grad(lambda p: jnp.sum(module.apply(p, x).astype(jnp.float32)))(params)

    # The gradient is the one convolution there is, of bfloat16 arrays into float32.
    (line,) = [
        line
        for line in jax.export.export(jax.jit(gradients), platforms=["tpu"])(params)
        .mlir_module()
        .splitlines()
        if "stablehlo.convolution" in line
    ]
    assert line.count("xbf16>") == 2 and "-> tensor<3x3x5x7xf32>" in line
