"""Latents -> ids: the nearest code, its loss, its usage, its revival."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vq_jax.types import Array, Key


def distances(latents: Array, codebook: Array) -> Array:
  """||z - e_k||^2 - ||z||^2: latents [.. d], codes [K d] -> [.. K], float32.

  ||z||^2 is the same for all codes and is left out: it would only eat digits.
  """
  z, e = latents.astype(jnp.float32), codebook.astype(jnp.float32)
  # Lower precision, the default of accelerators, flips close calls.
  dots = jnp.einsum("...d,kd->...k", z, e, precision=jax.lax.Precision.HIGHEST)
  return jnp.sum(jnp.square(e), axis=-1) - 2.0 * dots


def nearest(latents: Array, codebook: Array) -> Array:
  """argmin_k ||z - e_k||^2, the first of equals (arXiv:1711.00937, eq. 1).

  Args:
    latents: z [.. d].
    codebook: e [K d].

  Returns:
    ids [..], int32.
  """
  found = distances(latents, codebook)
  return jnp.argmin(found, axis=-1).astype(jnp.int32)


def lookup(ids: Array, codebook: Array) -> Array:
  """Rows of the codebook [K d]: ids [..] -> [.. d]; NaN for an id >= K.

  jnp.take counts negative ids from the end: `check_ids` is the full check.
  """
  return jnp.take(codebook, ids, axis=0, mode="fill", fill_value=jnp.nan)


def straight_through(latents: Array, quantized: Array) -> Array:
  """Codes in the forward pass, the identity in the backward pass.

  In float32: in bfloat16, z + (zq - z) is no longer zq (arXiv:1711.00937, 3.2).
  latents, quantized: [.. d] -> [.. d], float32.
  """
  z, quantized = latents.astype(jnp.float32), quantized.astype(jnp.float32)
  return z + jax.lax.stop_gradient(quantized - z)


def codebook_init(key: Key, shape: tuple[int, int], dtype=jnp.float32) -> Array:
  """U(-1/K, 1/K) for shape [K d] (arXiv:2012.09841, released models)."""
  bound = 1.0 / shape[0]
  return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)


def vq_loss(
  latents: Array,
  quantized: Array,
  *,
  commitment: float = 0.25,
  codebook_weight: float = 1.0,
) -> Array:
  """codebook_weight * |sg(z) - zq|^2 + commitment * |z - sg(zq)|^2, mean.

  The papers weigh the commitment term by beta = 0.25 (arXiv:1711.00937, eq. 3;
  arXiv:2012.09841, eq. 4): the defaults. The models released with the latter
  paper, and those of arXiv:2111.12701, were trained with beta on the other
  term: commitment=1.0, codebook_weight=0.25.

  Args:
    latents: z [.. d], what the encoder says.
    quantized: zq [.. d] *before* `straight_through`.
    commitment: weight of the term that moves the encoder.
    codebook_weight: of the term that moves the codes.

  Returns:
    The loss per latent number, a float32 scalar.
  """
  z, quantized = latents.astype(jnp.float32), quantized.astype(jnp.float32)
  pull = jnp.mean(jnp.square(jax.lax.stop_gradient(z) - quantized))
  commit = jnp.mean(jnp.square(z - jax.lax.stop_gradient(quantized)))
  return codebook_weight * pull + commitment * commit


def entropy_gap(latents: Array, codebook: Array, temperature: float) -> Array:
  """How unsure a latent is of its code, less how evenly codes are used.

  H(p(k | z)) in the mean over latents, less H of the mean p(k | z), where p is
  softmax(-||z - e_k||^2 / temperature): minus their mutual information, in nats
  (arXiv:2202.04200, released code).

  Args:
    latents: [.. d].
    codebook: [K d].
    temperature: positive.

  Returns:
    A float32 scalar, -ln K at the least.
  """
  scores = -distances(latents, codebook) / temperature
  log_p = jax.nn.log_softmax(scores.reshape(-1, scores.shape[-1]))
  p = jnp.exp(log_p)
  sure = -jnp.mean(jnp.sum(p * log_p, -1))
  # The slope of x log x is infinite at 0, where a probability underflows.
  mean = jnp.mean(p, 0)
  return sure + jnp.sum(mean * jnp.log(mean + 1e-20))


def histogram(ids: Array, vocab_size: int) -> Array:
  """How often each code occurs in ids [..]: counts [K], int32."""
  return jnp.zeros(vocab_size, jnp.int32).at[ids.reshape(-1)].add(1)


def perplexity(counts: Array) -> Array:
  """exp(entropy) of counts [K]: 1 if one code does all, K if all are equal.

  The counts of several batches or hosts add up first. NaN if all are zero.
  """
  p = counts / jnp.sum(counts)
  return jnp.exp(jnp.sum(jax.scipy.special.entr(p)))


def usage(counts: Array) -> Array:
  """The fraction of codes that occur in counts [K]."""
  return jnp.mean(counts > 0)


def revive(
  key: Key,
  codebook: Array,
  idle: Array,
  latents: Array,
  ids: Array,
  *,
  patience: int,
) -> tuple[Array, Array, Array]:
  """Moves codes that died onto encoder outputs of this batch.

  A code that no latent chose has no gradient and stays dead. After `patience`
  steps in a row it is replaced by a latent (arXiv:2005.00341, sec. 3.1), drawn
  with probability proportional to its squared distance from its code, as
  k-means++ seeds clusters (Arthur and Vassilvitskii 2007): a uniform draw would
  split the commonest patch, such as blank background, into ever more codes that
  mean the same. No two codes get the same latent while there are enough.

  Args:
    key: a PRNG key.
    codebook: [K d].
    idle: steps since each code was last used [K], int32; zeros at the start.
    latents: encoder outputs of this step [.. d].
    ids: the codes they chose [..].
    patience: steps without use that make a code dead, at least 1.

  Returns:
    The codebook [K d], the idle counts [K], and which codes were revived [K],
    bool, for the caller to reset what the optimizer remembers of them.

  Raises:
    ValueError: patience < 1, which would replace codes in use.
  """
  if patience < 1:
    raise ValueError(f"patience is {patience}; at least 1 step is needed.")
  used = histogram(ids, codebook.shape[0]) > 0
  idle = jnp.where(used, 0, idle + 1)
  revived = idle >= patience
  pool = jax.lax.stop_gradient(latents).reshape(-1, latents.shape[-1])
  error = pool - lookup(ids.reshape(-1), codebook)
  odds = jnp.log(jnp.sum(jnp.square(error), -1))
  # Sorting log-odds + Gumbel noise draws one after another, without repeats.
  order = jnp.argsort(-(odds + jax.random.gumbel(key, odds.shape)))
  rank = jnp.cumsum(revived) - 1  # The r-th dead code takes the r-th draw.
  fresh = pool[order[rank % pool.shape[0]]].astype(codebook.dtype)
  codebook = jnp.where(revived[:, None], fresh, codebook)
  return codebook, jnp.where(revived, 0, idle), revived


def check_ids(ids: np.ndarray | Array, vocab_size: int) -> None:
  """Host-side check before a lookup, which cannot raise inside `jit`.

  Raises:
    ValueError: some ids are outside 0..vocab_size-1.
  """
  ids = np.asarray(ids)
  bad = np.argwhere((ids < 0) | (ids >= vocab_size))
  if bad.size:
    first = tuple(int(i) for i in bad[0])
    raise ValueError(
      f"{len(bad)} of {ids.size} ids lie outside 0..{vocab_size - 1}; the"
      f" first is {ids[first]} at {list(first)}."
    )


class Quantized(NamedTuple):
  """What a quantizer says about latents.

  Attributes:
    through: what the decoder sees, with gradients to the latents [.. d].
    quantized: the codes themselves, with gradients to the codebook [.. d].
    ids: their indices [..], int32.
    loss: what the quantizer is trained for besides reconstruction, a float32
      scalar with its weights in it.
  """

  through: Array
  quantized: Array
  ids: Array
  loss: Array


class Nearest(nn.Module):
  """A learnt codebook [K d] and the nearest of its codes.

  The contract of every quantizer: latents -> Quantized, and `lookup`.

  Attributes:
    vocab_size: K.
    code_dim: d.
    commitment: of `vq_loss`.
    codebook_weight: of `vq_loss`.
    entropy: weight of `entropy_gap`; 0 leaves it out.
    entropy_temperature: its temperature.
  """

  vocab_size: int
  code_dim: int
  commitment: float = 0.25
  codebook_weight: float = 1.0
  entropy: float = 0.0
  entropy_temperature: float = 0.01

  def setup(self) -> None:
    """The codebook stays float32 whatever the network computes in."""
    shape = (self.vocab_size, self.code_dim)
    self.codebook = self.param("codebook", codebook_init, shape, jnp.float32)

  def __call__(
    self,
    latents: Array,
    *,
    train: bool = False,
    temperature: Array | float = 1.0,
  ) -> Quantized:
    """Latents [.. d] -> Quantized; the same in training, at any temperature."""
    del train, temperature
    ids = nearest(latents, self.codebook)
    quantized = lookup(ids, self.codebook)
    loss = vq_loss(
      latents,
      quantized,
      commitment=self.commitment,
      codebook_weight=self.codebook_weight,
    )
    if self.entropy:
      gap = entropy_gap(latents, self.codebook, self.entropy_temperature)
      loss += self.entropy * gap
    through = straight_through(latents, quantized)
    return Quantized(through, quantized, ids, loss)

  def lookup(self, ids: Array) -> Array:
    """Ids [..] -> codes [.. d], float32; NaN for an id >= K."""
    return lookup(ids, self.codebook)


class Remap(nn.Module):
  """A reduced vocabulary: the codes that a data set uses (arXiv:2111.14822).

  Two tables of integers, which nothing trains. Until they are loaded, the first
  `kept` codes are kept.

  Attributes:
    vocab_size: codes in the codebook.
    kept: ids in the reduced vocabulary.
  """

  vocab_size: int
  kept: int

  def setup(self) -> None:
    """Codes that are not kept have small id 0."""
    code = jnp.arange(self.vocab_size, dtype=jnp.int32)
    first = jnp.where(code < self.kept, code, 0)
    self.to_small = self.param("to_small", lambda _: first)
    self.to_full = self.param("to_full", lambda _: code[: self.kept])

  def shrink(self, ids: Array) -> Array:
    """Ids of codes [..] -> small ids [..]."""
    return jnp.take(self.to_small, ids)

  def widen(self, ids: Array) -> Array:
    """Small ids [..] -> ids of codes [..]; K_full, no code, for a bad one."""
    return jnp.take(self.to_full, ids, mode="fill", fill_value=self.vocab_size)
