"""Relative positions of LoMaR (arXiv 2206.00790): iRPE on the keys, without absolute positions.

The offset from key to query is put into one of 7 x 7 buckets, finer near by; whatever involves the
class token has a bucket of its own. A query's logits get its product with the bucket's vector. The
buckets know no size of the map, so pre-trained tables serve windows and whole images alike.

Sources: junchen14/LoMaR, irpe.py ("product" method, "ctx" mode, ratio 1.9, shared by the heads) and
vision_transformer_irpe.py. The queries are not scaled here, where iRPE's authors (microsoft/Cream)
scale them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from repre_jax.models.cudnn_attention import BiasOf
from repre_jax.models.dense import LinearParameters, linear
from repre_jax.models.layers import Attention

# Offsets up to ALPHA are exact, farther ones logarithmic up to BETA at GAMMA.
ALPHA, BETA, GAMMA = 1.9, 2 * 1.9, 8 * 1.9
SIDE = 2 * int(BETA) + 1  # buckets of an axis
BUCKETS = SIDE**2 + 1  # the class token's is the last


class RelativeAttention(Attention):
    """``Attention`` of a class token and a map, whose logits see relative positions.

    Attributes:
      grid: (rows, columns) of the map.
    """

    grid: tuple[int, int] = (14, 14)

    def bias_of_queries(self, head_width: int) -> BiasOf:
        """Queries [B, N, H, D / H] -> [B, H, N, N], in their dtype."""
        # A linear map of each query to its product with every bucket's vector; one for all heads.
        zeros = nn.initializers.zeros
        vectors = LinearParameters(
            BUCKETS, use_bias=False, kernel_init=zeros, name="relative_position"
        )(head_width)
        return lambda query: relative_logits(linear(query, *vectors), self.grid)


def relative_logits(products: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Chooses for every pair of tokens the query's product with the pair's bucket.

    Rows and columns are chosen one after the other, by products with constants of ones and zeros:
    an entry costs 7 multiply-adds, not 50, and the gradient scatters nothing.

    Args:
      products: [B, N, H, BUCKETS], the class token first.
      grid: (gh, gw) with N = 1 + gh * gw.

    Returns:
      [B, H, N, N], queries before keys: choosing rounds nothing in any dtype.
    """
    batch, _, heads, _ = products.shape
    chosen = relative_logits_of_map(products[:, 1:], grid)
    with_class = products[..., -1].transpose(0, 2, 1)  # [B, H, N]
    bias = jnp.concatenate([with_class[:, :, 1:, None], chosen], axis=-1)
    first = jnp.broadcast_to(with_class[:, :, :1, None], (batch, heads, 1, bias.shape[-1]))
    return jnp.concatenate([first, bias], axis=2)


def relative_logits_of_map(products: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """``relative_logits`` between the vectors of a map alone.

    Args:
      products: [B, gh * gw, H, BUCKETS].
      grid: (gh, gw).

    Returns:
      [B, H, gh * gw, gh * gw].
    """
    batch, tokens, heads, _ = products.shape
    rows, columns = grid
    ordinary = products[..., :-1].reshape(batch, rows, columns, heads, SIDE, SIDE)
    exact = {"precision": jax.lax.Precision.HIGHEST}
    of_rows, of_columns = (_one_hot(side).astype(products.dtype) for side in grid)
    chosen = jnp.einsum("bxyhrc,xir->bxyhic", ordinary, of_rows, **exact)
    chosen = jnp.einsum("bxyhic,yjc->bhxyij", chosen, of_columns, **exact)
    return chosen.reshape(batch, heads, tokens, tokens)


def bucket_of_offset(offset: np.ndarray) -> np.ndarray:
    """Buckets int [...] in -3..3 of offsets int [...] along one axis (iRPE, equation 18)."""
    distance = np.maximum(np.abs(offset), 1)  # 0 is exact; its logarithm is not asked for
    far = ALPHA + np.log(distance / ALPHA) / np.log(GAMMA / ALPHA) * (BETA - ALPHA)
    far = np.sign(offset) * np.minimum(np.round(far), BETA)
    # Towards zero, after the limit: 3.8 becomes 3.
    return np.where(np.abs(offset) <= ALPHA, offset, far).astype(int)


def _one_hot(side: int) -> np.ndarray:
    """float32 [side, side, SIDE]: (query, key) -> its bucket along one axis."""
    place = np.arange(side)
    buckets = bucket_of_offset(place[:, None] - place) + int(BETA)
    return np.eye(SIDE, dtype=np.float32)[buckets]
