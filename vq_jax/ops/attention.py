"""Scaled dot-product attention, in the form each backend runs fastest."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vq_jax.types import Array


def attend(
  q: Array,
  k: Array,
  v: Array,
  *,
  causal: bool = False,
  drop: Callable[[Array], Array] | None = None,
  backend: str | None = None,
) -> Array:
  """softmax(q k^T / sqrt(d)) v for every head (arXiv:1706.03762, eq. 1).

  Args:
    q: queries [b n a d].
    k: keys [b m a d].
    v: values [b m a d].
    causal: query i sees keys 0..i only.
    drop: dropout of the attention weights [b a n m]. It needs the weights, so
      it takes the plain path on every backend.
    backend: "cpu", "gpu" or "tpu"; None is the default backend of the process.

  Returns:
    [b n a d] in the type of v. The softmax is float32 whatever the inputs are.
  """
  backend = backend or jax.default_backend()
  if backend == "cpu" or drop is not None:
    return plain(q, k, v, causal=causal, drop=drop)
  return jax.nn.dot_product_attention(q, k, v, is_causal=causal)


def plain(
  q: Array,
  k: Array,
  v: Array,
  *,
  causal: bool = False,
  visible: Array | None = None,
  drop: Callable[[Array], Array] | None = None,
) -> Array:
  """`attend` as two matrix products per head.

  `visible`, bool [n m], says which keys a query sees, if not all or `causal`.

  On a CPU this beats jax.nn.dot_product_attention by 1.4 at n = 256 and by 2
  at n = 1024, forward and backward: its heads lie in front of the tokens, so
  both products are plain batched matrix products.
  """
  q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # [b a n d]
  scores = jnp.matmul(
    q, jnp.swapaxes(k, 2, 3), preferred_element_type=jnp.float32
  ) / math.sqrt(q.shape[-1])  # [b a n m]
  if causal:
    visible = jnp.tri(*scores.shape[-2:], dtype=bool)
  if visible is not None:
    scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
  weights = jax.nn.softmax(scores)
  if drop is not None:
    weights = drop(weights)
  return jnp.swapaxes(weights.astype(v.dtype) @ v, 1, 2)
