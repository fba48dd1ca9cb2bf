"""ReMDM (arXiv:2503.00307): masks come back, so that tokens can be revised."""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import plugins
from vq_jax.samplers import _reveal
from vq_jax.samplers._remasking import STRATEGIES
from vq_jax.samplers._run import Run, only
from vq_jax.samplers.ancestral import level
from vq_jax.types import NEVER, Array, Key, Model

NEEDS = _reveal.NEEDS


def step(
  u: Array, token: Array, z: Array, t: Array, s: Array, remask: Array, mask: int
) -> Array:
  """z_s, of which a share s is masked, out of z_t with a share t.

  A token is masked again with probability `remask`. A mask stays with
  (s - remask (1 - t)) / t, so that s does not depend on `remask`.

  Args:
    u: uniform numbers [b n].
    token: drawn from p(x | z_t) [b n].
    z: z_t, ids [b n] in 0..mask.
    t: masked share at the later time.
    s: masked share at the earlier time.
    remask: at most min(1, s / (1 - t)), scalar or [b n].
    mask: its id.

  Returns:
    ids [b n].
  """
  stay = (s - remask * (1.0 - t)) / t
  lifted = jnp.where(u < stay, mask, token)
  return jnp.where(z == mask, lifted, jnp.where(u < remask, mask, z))


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
  strategy: str = "cap",
  eta: float | None = None,
) -> Run:
  """`ancestral` of an absorbing prior, in which tokens are masked again.

  Every prior that masks can be sampled so, whatever it was trained with; with
  eta = 0 and any strategy but "loop" the draws are those of `ancestral`.

  Args:
    key: one key for the whole batch.
    model: called once a step.
    prior: has what is in `NEEDS`; its chain does nothing but mask.
    shape: (b, n).
    steps: network calls, any number.
    known: ids [b n] that must not change, with `prior.vocab_size` where free.
    strategy: the probability that a token is masked again (section 4.1), where
      `most` is min(1, (1 - alpha_s) / alpha_t):
      "cap": eta, or `most` if that is less.
      "rescale": eta times `most`.
      "conf": that, times the token's share of doubt, softmax(-p) over the image
        with p as it was when the token was drawn. A mask has none and is
        lifted as in `ancestral`, so that masks are slightly more than at s.
      "loop": none until nine tenths are revealed; then the steps from t = 0.55
        to 0.05 revise as "cap" does, with no fewer masks, and the rest are
        revealed at the end.
    eta: of the strategy; None is the authors' for image tokens or text.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`.

  Raises:
    ValueError: the chain does something else than mask, steps < 1, there is no
      such strategy, or eta is outside [0, 1].
  """
  if strategy not in STRATEGIES:
    told = plugins.unknown(strategy, STRATEGIES, "There is no strategy")
    raise ValueError(told)
  rule = STRATEGIES[strategy]
  eta = rule.eta if eta is None else eta
  if not 0 <= eta <= 1:
    raise ValueError(f"eta must be from 0 to 1, not {eta}.")
  times, _ = _reveal.chain(prior, steps, "remask")
  times = times if known is None else times * level(prior, known)
  start, mask = _reveal.masks(prior, shape, known), prior.vocab_size

  def advance(carry: tuple[Array, Array], inputs: tuple[Key, ...]):
    (z, doubt), (key, time, t, s) = carry, inputs
    key_reveal, key_token = jax.random.split(key)
    log_probs = model.denoise(z, jnp.full(shape[:1], time))
    token = jax.random.categorical(key_token, log_probs)
    most = jnp.minimum(1.0, s / jnp.maximum(1.0 - t, 1e-9))
    remask = rule.remask(eta, most, s < t, doubt)
    u = jax.random.uniform(key_reveal, shape)
    new = step(u, token, z, t, s, remask, mask)
    new = jnp.where(start == mask, new, start)
    said = jnp.take_along_axis(log_probs, token[..., None], -1)[..., 0]
    doubt = jnp.where(z == mask, -jnp.exp(said), doubt)
    return (new, jnp.where(new == mask, NEVER, doubt)), new

  # Keys as `ancestral` has them.
  keys = jax.random.split(jax.random.split(key, 3)[1], steps)
  told, masked = rule.path(prior, jnp.asarray(times), shape[1])
  inputs = (keys, told[:-1], masked[:-1], masked[1:])
  carry = (start, jnp.full(shape, NEVER))
  (z, _), states = jax.lax.scan(advance, carry, inputs)
  return Run(z, jnp.concatenate([start[None], states]))


sample = only("ids", run)
trajectory = only("states", run)
