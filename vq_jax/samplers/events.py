"""The chain of an absorbing prior without the network calls that do nothing."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vq_jax.samplers import _reveal, fewer_tokens
from vq_jax.samplers._run import only
from vq_jax.steps import Schedule
from vq_jax.types import Array, Key, Model

NEEDS = _reveal.NEEDS


class Run(NamedTuple):
  """A finished run.

  Attributes:
    ids: [b n].
    states: z [steps + 1, b n].
    calls: network calls that each image needed [b].
  """

  ids: Array
  states: Array
  calls: Array


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
  schedule: Schedule | None = None,
) -> Run:
  """Draws from the law of `ancestral` with at most n network calls an image.

  When a token is revealed does not depend on what the network says, so that the
  steps of all tokens are drawn first. A step that reveals nothing in an image
  changes nothing there and is skipped: each image goes from event to event,
  at times of its own, and the batch ends with its longest image. One step of
  `steps` is an event with probability 1 - (1 - p)^n, where p is that of a token
  to be revealed in it: with steps = n and a linear schedule 63% of them.

  Args:
    key: one key for the whole batch.
    model: called once an event, for the whole batch.
    prior: has what is in `NEEDS`; its chain does nothing but mask.
    shape: (b, n).
    steps: of the chain, any number; it is the calls that cost.
    known: ids [b n] that must not change, with `prior.vocab_size` where free.
    schedule: makes `steps` a budget of network calls, and each reveal as many
      tokens as it says: the sampler `fewer_tokens`.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`, network calls [b] from `calls`.

  Raises:
    ValueError: the chain does something else than mask, steps < 1, or there is
      no such schedule.
  """
  if schedule is not None:
    found = fewer_tokens.run(
      key, model, prior, shape, steps=steps, known=known, schedule=schedule
    )
    return Run(*found, jnp.full(shape[:1], steps))
  times, masked = _reveal.chain(prior, steps, "events")
  mask = prior.vocab_size
  start = _reveal.masks(prior, shape, known)
  key_when, key_what = jax.random.split(key)
  u = jax.random.uniform(key_when, shape)
  when = jnp.searchsorted(1.0 - masked[1:], u, side="right")
  when = jnp.where(start == mask, when, -1)  # [b n] in 0..steps-1.
  # Each token is drawn once, and so its noise may be too.
  noise = jax.random.gumbel(key_what, (*shape, mask))

  def event(z: Array) -> Array:
    hidden = z == mask
    now = jnp.min(jnp.where(hidden, when, steps - 1), 1)  # [b]
    log_probs = model.denoise(z, jnp.asarray(times)[now])
    token = jnp.argmax(log_probs + noise, -1)
    return jnp.where(hidden & (when == now[:, None]), token, z)

  ids = jax.lax.while_loop(lambda z: jnp.any(z == mask), event, start)
  after = jnp.arange(steps + 1)[:, None, None]
  states = jnp.where(when < after, ids, mask)
  distinct = jnp.diff(jnp.sort(when, 1), axis=1, prepend=-1) != 0
  return Run(ids, states, jnp.sum(distinct, 1))


sample = only("ids", run)
trajectory = only("states", run)
calls = only("calls", run)
