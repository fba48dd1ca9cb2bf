"""The words every other file uses.

Axis letters, one each, everywhere:

  b batch   n tokens (h*w, raster order)   h w spatial   c channels   d features
  m text tokens   K codebook size          a attention heads

Symbols: x clean ids [b n] in 0..K-1; z corrupted state, ids [b n] in 0..K
with MASK = K, or embeddings [b n d]; t, s times in [0, 1], s < t, 1 is noise.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array  # A typed PRNG key, shape ().
Params = Mapping[str, Any]
Batch = Mapping[str, Any]  # Arrays with a leading batch axis b.
Metrics = dict[str, Array]

# The logarithm of what never happens. Finite, since 0 * -inf is NaN.
NEVER = -1e9


class Condition(NamedTuple):
  """What an image should show. A field that is None is not conditioned on.

  Attributes:
    label: class ids [b], int32.
    text: text features [b m d], float32.
  """

  label: Array | None = None
  text: Array | None = None


class Cached(NamedTuple):
  """A causal network one token at a time, in raster order.

  What it computed for earlier tokens is kept, so that a step is the work of one
  token. The cache is opaque: any tree of arrays.

  Attributes:
    start: b -> the cache of b images of which no token is known.
    step: (cache, token [b], i, t [b]) -> (log p(x_i | x_<i) [b K], cache), for
      i = 0..n-1 in turn; token is x_(i-1), and ignored at i = 0.
  """

  start: Callable[[int], Any]
  step: Callable[[Any, Array, Array | int, Array], tuple[Array, Any]]


class Model(NamedTuple):
  """A network as priors and samplers see it: weights, condition closed over.

  Attributes:
    denoise: (z, t [b]) -> log p(x | z) [b n K] over the *clean* token, float32.
      Sums to one unless `models.truncate` took mass away. Of a causal network
      position i depends on z_<i only.
    codes: learnt embeddings [K + 1 d], the last that of MASK; None for priors
      over ids.
    cached: the same of a causal network, token by token; None for others.
  """

  denoise: Callable[[Array, Array], Array]
  codes: Array | None = None
  cached: Cached | None = None
