"""Joint laws small enough to enumerate, and what samplers do to them."""

import itertools
import math

import jax.numpy as jnp
import numpy as np

from vq_jax.types import Model


def chi_square(found, expected):
  """Standard deviations of Pearson's statistic above its mean."""
  seen = expected > 1
  statistic = ((found - expected)[seen] ** 2 / expected[seen]).sum()
  freedom = seen.sum() - 1
  return (statistic - freedom) / math.sqrt(2 * freedom)


def histogram(ids, k):
  """How often each state of ids [b n] comes up: [k .. k]."""
  found = np.zeros([k] * ids.shape[1])
  np.add.at(found, tuple(np.asarray(ids).T), 1)
  return found


def conditional(joint, z):
  """p(x_i | visible tokens) [n k], z a tuple with k where masked."""
  n, k = joint.ndim, joint.shape[0]
  fits = joint[tuple(slice(None) if v == k else slice(v, v + 1) for v in z)]
  fits = fits / fits.sum()
  table = np.zeros((n, k))
  for i in range(n):
    p = fits.sum(tuple(j for j in range(n) if j != i))
    table[i] = p if z[i] == k else np.eye(k)[z[i]]
  return table


def exact_model(joint):
  """`conditional` at every state, as a table that the network looks up."""
  n, k = joint.ndim, joint.shape[0]
  states = itertools.product(range(k + 1), repeat=n)
  rows = np.stack([conditional(joint, z) for z in states])  # [(k+1)^n n k]
  table = jnp.log(jnp.asarray(rows) + 1e-30)
  place = (k + 1) ** jnp.arange(n)[::-1]
  return Model(lambda z, t: table[z @ place])


def even(n, steps):
  """Tokens that each of `steps` calls reveals of n."""
  left = [round(n * (1 - i / steps)) for i in range(steps + 1)]
  return [a - b for a, b in itertools.pairwise(left)]


def law_of(joint, counts, weigh, adjust):
  """The exact law of a run, by enumeration of every choice it can make.

  counts: tokens that each call reveals; weigh: p [n k] -> weights of positions
  [n]; adjust: p -> p that is drawn.
  """
  n, k = joint.ndim, joint.shape[0]
  law = {(k,) * n: 1.0}
  for count in counts:
    after = {}
    for z, prob in law.items():
      p = conditional(joint, z)
      weights, drawn = weigh(p), adjust(p)
      masks = [i for i in range(n) if z[i] == k]
      for order in itertools.permutations(masks, count):
        chance, rest = prob, sum(weights[i] for i in masks)
        for i in order:
          chance, rest = chance * weights[i] / rest, rest - weights[i]
        for tokens in itertools.product(range(k), repeat=count):
          each = list(zip(order, tokens, strict=True))
          new = list(z)
          for i, token in each:
            new[i] = token
          odds = chance * math.prod(drawn[pair] for pair in each)
          after[tuple(new)] = after.get(tuple(new), 0.0) + odds
    law = after
  array = np.zeros_like(joint)
  for z, prob in law.items():
    array[z] = prob
  return array
