"""Operations are those that one counts by hand, turn by turn."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from vq_jax.ops import flops

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)
W = jax.ShapeDtypeStruct((3, 3), jnp.float32)
ONE = 2 * 2 * 3 * 3  # X @ W


def scanned(x, w):
  """Five products, in a function of their own."""
  return jax.lax.scan(
    lambda x, _: (jax.jit(jnp.matmul)(x, w), None), x, None, length=5
  )[0]


@pytest.mark.parametrize(
  ("fn", "expected"),
  [
    (jnp.matmul, ONE),
    (lambda x, w: jnp.tanh(x) + w.sum(), 0),
    (scanned, 5 * ONE),
    (jax.remat(jnp.matmul), ONE),
    (jax.vmap(lambda x, w: x @ w, (None, 0)), 3 * 2 * 2 * 3),
    (jax.grad(lambda x, w: jnp.sum((x @ w) ** 2), (0, 1)), 3 * ONE),
    (lambda x, w: jnp.einsum("ij,kj->ik", x, w), ONE),
    (
      lambda x, w: jax.lax.cond(
        x.sum() > 0, lambda: x @ w @ w, lambda: scanned(x, w)
      ),
      5 * ONE,
    ),
    (lambda x, w: jax.lax.fori_loop(0, 4, lambda _, x: x @ w, x), 4 * ONE),
  ],
)
def test_products_are_counted_in_every_turn_of_every_loop(fn, expected):
  """Of a choice, the dearer; two for a multiplication and its addition."""
  assert flops.count(fn, X, W) == expected


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_are_counted_by_their_kernels(groups, key):
  """Each output is a sum over the kernel and the channels of its group."""
  conv = nn.Conv(6, (3, 3), strides=2, feature_group_count=groups)
  x = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
  params = jax.eval_shape(conv.init, key, x)
  outputs = 2 * 4 * 4 * 6
  assert flops.count(conv.apply, params, x) == 2 * outputs * 9 * 4 // groups


def test_a_loop_that_values_end_has_no_count():
  """Unless nothing is multiplied in it."""
  loop = jax.lax.while_loop
  positive = lambda x: jnp.all(x > 0)  # noqa: E731
  with pytest.raises(flops.Unbounded):
    flops.count(lambda x, w: loop(positive, lambda x: x @ w, x), X, W)
  assert not flops.count(lambda x: loop(positive, lambda x: x - 1, x), X)
