"""VQ-LCMD: Gaussian diffusion of learnt code embeddings (arXiv:2410.14758).

There is no official code. What had to be inferred is a field, and says so.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vq_jax import plugins, schedules
from vq_jax.priors import _bound, _chain, _embedded, _gaussian
from vq_jax.priors._chain import nats
from vq_jax.priors._embedded import expect
from vq_jax.types import Array, Key, Metrics, Model

PATHS = ("state", "evidence", "estimate", "target")
CHOICES = {
  "diffusion": ("simple", "bound"),
  "divergence": _embedded.DIVERGENCES,
  "solver": ("ddim", "heun"),
  "drop": _embedded.RATIOS,
  "decode": _embedded.DECODERS,
}


@dataclasses.dataclass(frozen=True)
class Prior:
  """q(z_t | x) = N(alpha_t e(x), sigma_t^2), and e is learnt with the network.

  The network's guess is the expected embedding, e^ = sum_k p(k | z_t) e_k, and
  p(z_s | z_t) = q(z_s | z_t, e^) (section 3.2). Terms of the loss are means
  over tokens, in nats; a squared distance is the sum over an embedding.
  Inferred: 0.005 then makes 256 numbers of unit variance as loud as nats are.

  Attributes:
    vocab_size: K; the embedding of MASK stands for tokens that are dropped.
    shift: of the cosine log SNR (section 4.3). The paper's is not known, but
      less than 1. 2 sqrt(ln(K) / d) puts at t = 1/2 the noise at which the
      nearest of K unit-variance embeddings stops being the right one: 0.33 for
      K = 1024 and d = 256.
    margin: t = 0 and 1 are at `margin` and 1 - `margin` of the cosine, whose
      ends are infinite. Inferred.
    reconstruction_weight: of -log p(x | z_0).
    consistency_weight: of the divergence from the teacher (eq. 3).
    diffusion_weight: of |e(x) - e^(z_t)|^2 (section 4.2). Which of the paper's
      weights is whose is inferred: its model collapses without consistency
      matching (Table 1), and where the first weight is 0.01.
    denoising_weight: of -log p(x | z_t), the loss of CDCD (arXiv:2211.15089).
    diffusion: "simple" is the distance itself, "bound" weighs it by
      -SNR'(t) / 2 as in eq. 2, for which `diffusion_weight` is 1.
    divergence: "teacher" is KL(teacher || student), "student" the other one.
      Inferred: the first is cross-entropy with a soft label.
    solver: how the teacher goes from t to s: "ddim" as the paper, or "heun",
      with the mean of its guesses at both ends.
    average_codes: the teacher's embeddings are averaged as its network is.
      Inferred: the paper averages theta, which is all that is learnt.
    gradients: by which ways they reach embeddings: the noisy "state", the
      "evidence", the "estimate" e^, the "target" e(x). Inferred: the paper
      trains jointly. The last two draw embeddings together.
    drop: the share of tokens that are dropped (section 4.4): "fixed", "random"
      from 0 up for each image, or "linear" in t.
    drop_ratio: that share, or the largest.
    drop_before_noise: a token is dropped from x, so that its MASK is noisy too,
      and not from the input of the network. The paper can be read both ways.
    normalise: embeddings all have norm sqrt(d) (arXiv:2211.15089, section 3.2).
      Inferred to be the "norm regularisation" that the paper compares with.
    evidence: p(x_i | z) is what the network says times q(z_i | x_i), by Bayes,
      and what it sees is E[e(x_i) | z_i]: it is left with what tokens say of
      each other. Ours: the paper's network has to learn all of it.
    decode: x is the "argmax" of p(x | z_0), inferred, or a "draw" from it.
    bound_times: network calls per example in `bits`, and one more.
  """

  vocab_size: int
  shift: float = 0.3
  margin: float = 1e-3
  reconstruction_weight: float = 1.0
  consistency_weight: float = 1.0
  diffusion_weight: float = 0.005
  denoising_weight: float = 0.0
  diffusion: str = "simple"
  divergence: str = "teacher"
  solver: str = "ddim"
  average_codes: bool = True
  gradients: tuple[str, ...] = PATHS
  drop: str = "fixed"
  drop_ratio: float = 0.2
  drop_before_noise: bool = False
  normalise: bool = False
  evidence: bool = False
  decode: str = "argmax"
  bound_times: int = 16
  embedded: ClassVar[bool] = True

  def __post_init__(self):
    asked = [(field, getattr(self, field), CHOICES[field]) for field in CHOICES]
    asked += [("path of gradients", path, PATHS) for path in self.gradients]
    for field, name, legal in asked:
      if name not in legal:
        raise ValueError(plugins.unknown(name, legal, f"There is no {field}"))
    for field, fits, wanted in (
      ("shift", self.shift > 0, "positive"),
      ("margin", 0 < self.margin < 0.5, "between 0 and 0.5"),
      ("drop_ratio", 0 <= self.drop_ratio <= 1, "from 0 to 1"),
      ("bound_times", self.bound_times >= 1, "at least 1"),
    ):
      if not fits:
        raise ValueError(f"{field} = {getattr(self, field)} must be {wanted}.")
    if self.evidence and self.drop_before_noise:
      raise ValueError(
        "evidence is of tokens, and drop_before_noise makes MASK of some: set"
        " one of them to False."
      )
    if not any(self.weights().values()):
      raise ValueError(
        "All weights of the loss are 0: nothing would be learnt."
      )

  def weights(self) -> dict[str, float]:
    """Term of the loss -> its weight."""
    terms = "reconstruction", "consistency", "diffusion", "denoising"
    return {name: getattr(self, f"{name}_weight") for name in terms}

  def log_snr(self, t: Array) -> Array:
    """ln(alpha_t^2 / sigma_t^2), falling and finite from t = 0 to t = 1."""
    inner = self.margin + (1.0 - 2.0 * self.margin) * jnp.asarray(t)
    return schedules.shifted_cosine(inner, self.shift)

  def time(self, log_snr: Array) -> Array:
    """The time in [0, 1] that has this log SNR."""
    inner = schedules.shifted_cosine_time(log_snr, self.shift)
    return jnp.clip((inner - self.margin) / (1.0 - 2.0 * self.margin), 0.0, 1.0)

  def table(self, model: Model) -> Array:
    """The embeddings [K + 1 d] as the chain has them."""
    codes = model.codes
    if self.normalise:
      norm = jnp.linalg.norm(codes, axis=-1, keepdims=True)
      codes = codes * (math.sqrt(codes.shape[-1]) / norm)
    return codes

  def posterior(self, model: Model, hidden: Array | None = None) -> Model:
    """The model that says p(x | z_t); MASK stands for tokens in `hidden` [b n].

    Network calls all go through it.
    """
    codes = self.table(model)
    if not self.evidence:
      blind = hidden is None or self.drop_before_noise
      return model if blind else _embedded.without(model, codes[-1], hidden)
    if "evidence" not in self.gradients:
      codes = codes.at[:-1].set(jax.lax.stop_gradient(codes[:-1]))
    return _embedded.informed(model, codes, self.log_snr, hidden)

  def corrupt(self, key: Key, model: Model, x: Array, t: Array) -> Array:
    """z ~ q(z_t | x).  x: ids [b n] in 0..K, t: [b] -> embeddings [b n d]."""
    clean = self.table(model)[x]
    noise = jax.random.normal(key, clean.shape)
    return _gaussian.noisy(clean, noise, self.log_snr(t))

  def estimate(self, model: Model, z: Array, t: Array) -> Array:
    """The expected embedding e^(z_t).  z [b n d], t [] or [b] -> [b n d]."""
    t = jnp.broadcast_to(t, z.shape[:1])
    return expect(self.posterior(model).denoise(z, t), self.table(model))

  def move(
    self,
    z: Array,
    clean: Array,
    t: Array,
    s: Array,
    fresh: Array | float = 0.0,
    eta: float = 0.0,
  ) -> Array:
    """z_s out of z_t as if `clean` were e(x): `_gaussian.move` by time."""
    now, then = self.log_snr(t), self.log_snr(s)
    return _gaussian.move(z, clean, now, then, fresh, eta)

  def loss(
    self,
    key: Key,
    model: Model,
    x: Array,
    *,
    target: Model | None = None,
    memory: Any = (),
  ) -> tuple[Array, tuple[Metrics, Any]]:
    """The weighted sum of section 4.2, in nats per token.

    x: clean ids [b n] -> (scalar, (metrics, memory)), the memory as it was. No
    gradient reaches the target; None makes the model its own teacher.
    """
    key_t, key_s, key_drop, key_z, key_0 = jax.random.split(key, 5)
    t = _chain.stratified(key_t, x.shape[0])
    s = t * jax.random.uniform(key_s, t.shape)
    zero = jnp.zeros_like(t)
    law = (self.drop, self.drop_ratio)
    hidden = _embedded.dropped(key_drop, x.shape, t, *law)
    hidden_0 = _embedded.dropped(key_drop, x.shape, zero, *law)
    z = self._state(key_z, model, x, hidden, t)
    z_0 = self._state(key_0, model, x, hidden_0, zero)
    log_probs = self.posterior(model, hidden).denoise(z, t)
    log_probs_0 = self.posterior(model, hidden_0).denoise(z_0, zero)
    error = self._error(model, log_probs, x)
    slope = -0.5 * self.slope(t)[:, None]
    terms = {
      "reconstruction": nats(log_probs_0, x),
      "diffusion": error * (slope if self.diffusion == "bound" else 1.0),
      "denoising": nats(log_probs, x),
    }
    if self.consistency_weight:
      teacher = target or model
      if not self.average_codes:
        teacher = teacher._replace(codes=model.codes)
      said = self._teach(teacher, hidden, z, t, s)
      apart = _embedded.DIVERGENCES[self.divergence]
      terms["consistency"] = apart(said, log_probs)
    terms = {name: jnp.mean(term) for name, term in terms.items()}
    # What weighs nothing has no backward pass.
    weights = self.weights()
    loss = sum(weights[name] * terms[name] for name in terms if weights[name])
    bound = terms["reconstruction"] + jnp.mean(error * slope)
    metrics = terms | _embedded.vitals(self.table(model)[:-1], log_probs)
    metrics["bits_per_token"] = bound / math.log(2.0)
    return loss, (metrics, memory)

  def _state(
    self, key: Key, model: Model, x: Array, hidden: Array, t: Array
  ) -> Array:
    if self.drop_before_noise:
      x = jnp.where(hidden, self.vocab_size, x)
    if "state" not in self.gradients:
      model = model._replace(codes=jax.lax.stop_gradient(model.codes))
    return self.corrupt(key, model, x, t)

  def _error(self, model: Model, log_probs: Array, x: Array) -> Array:
    """|e(x) - e^|^2 [b n]."""
    codes = self.table(model)
    ways = {way: jax.lax.stop_gradient(codes) for way in PATHS}
    ways |= dict.fromkeys(self.gradients, codes)
    guess = expect(log_probs, ways["estimate"])
    return jnp.sum(jnp.square(ways["target"][x] - guess), -1)

  def slope(self, t: Array) -> Array:
    """SNR'(t) [b]."""
    return schedules.slope(lambda t: jnp.exp(self.log_snr(t)), t)

  def _teach(
    self, teacher: Model, hidden: Array | None, z: Array, t: Array, s: Array
  ) -> Array:
    """log p of the teacher after its own step from z_t to s, [b n K]."""
    codes, view = self.table(teacher), self.posterior(teacher, hidden)
    clean = expect(view.denoise(z, t), codes)
    if self.solver == "heun":
      there = self.move(z, clean, t, s)
      clean = 0.5 * (clean + expect(view.denoise(there, s), codes))
    there = self.move(z, clean, t, s)
    return jax.lax.stop_gradient(view.denoise(there, s))

  def terms(self, key: Key, model: Model, x: Array) -> _bound.Terms:
    """The bound's terms, see `_bound.terms`."""
    return _bound.terms(self, key, model, x)

  def bits(self, key: Key, model: Model, x: Array) -> Array:
    """Unbiased upper bound on -log2 p(x) / n: bits per token [b], x [b n]."""
    return sum(self.terms(key, model, x))

  def start(self, key: Key, model: Model, shape: tuple[int, int]) -> Array:
    """z at t = 1: standard normal numbers. -> [b n d]."""
    return jax.random.normal(key, (*shape, model.codes.shape[-1]))

  def reverse(
    self, key: Key, model: Model, z: Array, t: Array, s: Array
  ) -> Array:
    """z_s ~ q(z_s | z_t, e^(z_t)), eq. 1, s < t scalars. [b n d] -> [b n d]."""
    fresh = jax.random.normal(key, z.shape)
    return self.move(z, self.estimate(model, z, t), t, s, fresh, eta=1.0)

  def forward(self, key: Key, z: Array, s: Array, t: Array) -> Array:
    """z_t ~ q(z_t | z_s), s < t scalars. [b n d] -> [b n d]."""
    fresh = jax.random.normal(key, z.shape)
    return _gaussian.forget(z, fresh, self.log_snr(s), self.log_snr(t))

  def finish(self, key: Key, model: Model, z: Array) -> Array:
    """The ids of z at t = 0, by one more network call. [b n d] -> [b n]."""
    log_probs = self.posterior(model).denoise(z, jnp.zeros(z.shape[:1]))
    return _embedded.DECODERS[self.decode](key, log_probs)

  def show(self, model: Model, z: Array, t: Array) -> Array:
    """The ids that make z_t most probable, for films. [b n d] -> [b n]."""
    codes = self.table(model)[:-1]
    return jnp.argmax(_gaussian.log_density(z, codes, self.log_snr(t)), -1)
