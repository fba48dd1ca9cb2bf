"""VQ-Diffusion: released numbers, enumeration, and the bound it shares."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vq_jax import models, plugins, schedules, transitions
from vq_jax.convert import vq_diffusion as convert
from vq_jax.priors import _importance, absorbing, vq_diffusion
from vq_jax.samplers import ancestral
from vq_jax.system import make_model
from vq_jax.train import optimizer
from vq_jax.types import NEVER, Condition, Model

GOLDEN = pathlib.Path(__file__).parent / "golden"
K = 5
POSTERIOR_STEPS = {"vqd_posterior_a": 100, "vqd_posterior_b": 25}
LOSSES = {
  "coco": {"auxiliary": 5e-4},
  "imagenet": {"auxiliary": 1e-3},
  "maskweight": {
    "auxiliary": 0.01,
    "adaptive": False,
    "mask_weight": (0.7, 1.3),
    "time_steps": 50,
  },
}
CHAINS = [*schedules.CHAINS, *schedules.MASKED]


def golden(case):
  return np.load(GOLDEN / f"{case}.npz")


def last(array):
  """Released arrays have classes before positions."""
  return jnp.moveaxis(jnp.asarray(array), 1, -1)


def gumbel(u):
  """The released noise, of [b class n] uniforms."""
  return -jnp.log(-jnp.log(last(u) + 1e-30) + 1e-30)


def ends(index, steps):
  """Step `index` = 0..T-1 of the released code as (s, t)."""
  index = jnp.asarray(index, jnp.float32)
  return index / steps, (index + 1) / steps


@functools.partial(jax.jit, static_argnums=0)
def posterior(prior, index, log_probs, z):
  s, t = ends(index, prior.time_steps)
  return transitions.posterior(prior.kernel(s), prior.kernel(t), log_probs, z)


def same_distribution(found, expected, log_atol, atol=2e-6):
  """Equal probabilities, and equal logarithms above the released floor."""
  np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=atol)
  above = expected > -40
  np.testing.assert_allclose(found[above], expected[above], atol=log_atol)


@pytest.mark.parametrize(
  ("steps", "k"), [(100, 16), (100, 974), (100, 2887), (25, 1024), (50, 64)]
)
def test_tables_of_the_released_schedule(steps, k):
  """Cumulative and one-step probabilities at every t, and the identity."""
  g = golden(f"vqd_schedule_T{steps}_N{k}")
  s, t = (
    vq_diffusion.Prior(k, time_steps=steps).kernel(time)
    for time in ends(np.arange(steps), steps)
  )
  one = transitions.between(s, t)
  for kernel, names in ((t, ("att", "btt", "ctt")), (one, ("at", "bt", "ct"))):
    keep, uniform, mask = (g[name][:steps] for name in names)
    np.testing.assert_allclose(kernel.keep, keep, rtol=2e-6)
    np.testing.assert_allclose(kernel.mask, mask, rtol=2e-5)
    np.testing.assert_allclose(kernel.uniform, uniform * k, rtol=2e-5)
  assert [float(p[0]) for p in s] == [1, 0, 0]


@pytest.mark.parametrize("case", POSTERIOR_STEPS)
@pytest.mark.parametrize("kind", ["hot", "soft", "flat"])
def test_posterior_of_the_released_code(case, kind):
  g = golden(case)
  k = g["logits"].shape[1]
  is_x = jnp.arange(k) == g["x0"][..., None]
  log_probs = {
    "hot": jnp.where(is_x, 0.0, NEVER),
    "soft": jax.nn.log_softmax(last(g["logits"])),
    "flat": jnp.full((*g["x0"].shape, k), -math.log(k)),
  }[kind]
  prior = vq_diffusion.Prior(k, time_steps=POSTERIOR_STEPS[case])
  found = posterior(prior, g["t"], log_probs, g["xt"])
  expected = last(g[f"posterior_{kind}_f64"])
  same_distribution(found, expected, log_atol=5e-4)
  marginal = transitions.marginal(
    prior.kernel(ends(g["t"], prior.time_steps)[1]), log_probs
  )
  same_distribution(marginal, last(g[f"q_pred_{kind}"]), log_atol=1e-4)


def test_posterior_of_the_diffusers_port():
  g, inputs = golden("diffusers_posterior_a"), golden("vqd_posterior_a")
  log_probs = jax.nn.log_softmax(last(inputs["logits"]))
  prior = vq_diffusion.Prior(log_probs.shape[-1])
  later = g["t"] > 0  # At t = 0 that port skips the posterior.
  found = posterior(prior, g["t"], log_probs, inputs["xt"])[later]
  same_distribution(found, last(g["posterior"])[later], 2e-3, 1e-5)


@pytest.mark.parametrize("case", LOSSES)
def test_loss_of_the_released_code(case):
  """Terms, the scalar, its gradient, and what it remembers of the terms."""
  g = golden(f"vqd_loss_{case}")
  prior = vq_diffusion.Prior(g["logits"].shape[1], **LOSSES[case])
  x, z = g["x0"], g["xt"]
  s, t = ends(g["t"], prior.time_steps)

  def loss(logits):
    log_probs = jax.nn.log_softmax(last(logits))
    costs, _ = prior.cost(log_probs, z, x, s, t)
    return jnp.mean(costs / g["pt"]), prior.terms(log_probs, z, x, s, t)

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (value, (kl, nats, bound)), grad = step(g["logits"])
  first = g["t"] == 0
  tolerance = {"rtol": 2e-4, "atol": 2e-4}
  expected = np.where(first, g["decoder_nll"], g["kl"])
  np.testing.assert_allclose(kl, expected, **tolerance)
  expected = np.where(first, g["decoder_nll"], g["kl_aux"])
  np.testing.assert_allclose(nats, expected, **tolerance)
  np.testing.assert_allclose(value, g["loss"], rtol=2e-4)
  np.testing.assert_allclose(grad, g["grad_logits"], **tolerance)
  # Weights of masks are for training: a bound has none.
  plain = np.where(first, g["decoder_nll"], g["kl_token"].sum(1))
  np.testing.assert_allclose(bound, plain, **tolerance)
  memory = _importance.Memory(g["Lt_history_before"], g["Lt_count_before"])
  memory = jax.jit(_importance.remember)(memory, g["t"], kl)
  np.testing.assert_allclose(memory.history, g["Lt_history_after"], rtol=1e-3)
  np.testing.assert_array_equal(memory.count, g["Lt_count_after"])


@pytest.mark.parametrize("case", ["vqd_importance", "vqd_importance_h"])
def test_probabilities_of_the_released_code(case):
  g = golden(case)
  prior = vq_diffusion.Prior(K)
  memory = _importance.Memory(g["Lt_history"], g["Lt_count"])
  found = prior.probabilities(memory)
  np.testing.assert_allclose(found, g["pt_all"], rtol=1e-5)
  rare = memory._replace(count=np.minimum(memory.count, 10.0))
  np.testing.assert_allclose(prior.probabilities(rare), 0.01, rtol=1e-6)
  np.testing.assert_allclose(g["pt_fallback"], 0.01, rtol=1e-6)


@pytest.mark.parametrize("case", ["vqd_guidance_class", "vqd_guidance_text"])
def test_guidance_and_truncation_of_the_released_code(case):
  """Its scale is s + 1 of the paper; what it truncates it sets to -70."""
  g = golden(case)
  both = jnp.concatenate([last(g["logits_cond"]), last(g["logits_null"])])
  b, n, _ = last(g["logits_cond"]).shape
  pair = Model(lambda z, t: jax.nn.log_softmax(both))
  z, t = jnp.zeros((b, n), jnp.int32), jnp.ones(b)
  names = [name for name in g.files if name.startswith("cf_")]
  assert len(names) >= 8
  for name in names:
    _, scale, *cut = name.split("_")
    model = models.guide(pair, float(scale) - 1.0)
    if cut and cut[0].endswith("p"):
      model = models.truncate(model, top_k=int(cut[0][3:-1]))
    elif cut:
      model = models.truncate(model, top_p=float(cut[0][3:-1]))
    expected = last(g[name])[..., :-1]
    found = jnp.maximum(model.denoise(z, t), -70.0)
    # top1.0r drops a tail that float32 cannot add; ours keeps everything.
    shared = (expected > -69) | ("top1.0r" not in name)
    np.testing.assert_allclose(
      found[shared], expected[shared], rtol=1e-4, atol=1e-4
    )


def test_a_step_of_the_released_chain():
  """Its posterior sampling, replayed with its noise."""
  g = golden("vqd_psample_rule0")
  z, t = g["x"], g["t"]
  log_probs = jax.nn.log_softmax(g["W"][z] + g["P"].T)
  prior = vq_diffusion.Prior(log_probs.shape[-1])
  drawn = posterior(prior, t, log_probs, z) + gumbel(g["uniform_noise"])
  np.testing.assert_array_equal(jnp.argmax(drawn, -1), g["x_out"])


def test_reveals_of_the_released_chain(key):
  """Tokens visible after each of 100 steps, ours against eight chains."""
  g = golden("vqd_trajectory_T100")
  w, p = jnp.asarray(g["W"]), jnp.asarray(g["P"]).T
  model = Model(lambda z, t: jax.nn.log_softmax(w[z] + p))
  prior = vq_diffusion.Prior(w.shape[1])
  run = jax.jit(
    lambda key: ancestral.trajectory(key, model, prior, (8, 1024), steps=100)
  )
  visible = np.asarray(run(key)[1:] < prior.vocab_size).sum(2)  # [100 8]
  theirs = g["counts_rule0_w0"]
  share = theirs.mean(1) / 1024
  # Both are means of eight binomial counts.
  sigma = np.sqrt(2 * 1024 * share * (1 - share) / 8)
  gap = np.abs(visible.mean(1) - theirs.mean(1))
  assert (gap < 5 * sigma + 1e-6).all()
  assert (visible[-1] == 1024).all()


@pytest.mark.parametrize("skip", [1, 3])
def test_released_fast_sampling_is_a_shifted_posterior(skip):
  """It steps by one from t - skip although it jumps further: not our law.

  `reverse` uses the posterior of the whole jump (arXiv:2111.14822, eq. 11).
  """
  g = golden("vqd_fast")
  z = g[f"mid_xt_skip{skip}"]
  log_probs = jax.nn.log_softmax(g["W"][z] + g["P"].T)
  prior = vq_diffusion.Prior(log_probs.shape[-1])
  middle = {1: 25, 3: 13}[skip]
  shifted = g[f"t_posterior_skip{skip}"][middle]
  assert shifted == g[f"t_denoise_skip{skip}"][middle] - skip
  found = posterior(prior, np.full(len(z), shifted), log_probs, z)
  expected = last(g[f"mid_logprob_skip{skip}"])
  same_distribution(found, expected, log_atol=5e-4)
  drawn = jnp.argmax(found + gumbel(g[f"mid_uniform_skip{skip}"]), -1)
  np.testing.assert_array_equal(drawn, g[f"mid_next_skip{skip}"])


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("steps", [2, 7, 100])
def test_chains_are_distributions_that_only_forget(name, steps):
  times = jnp.linspace(0.0, 1.0, 3 * steps + 1)
  kernel = schedules.chain(name, steps)(times)
  np.testing.assert_allclose(sum(kernel), 1.0, atol=1e-6)
  assert [float(p[0]) for p in kernel] == [1, 0, 0]
  assert (np.diff(kernel.keep) < 0).all() and kernel.keep[-1] < 1e-5
  assert min(float(p.min()) for p in kernel) >= 0


def toy_law():
  """One token of K codes with a known law, and its exact denoiser."""
  law = np.random.default_rng(0).dirichlet(np.ones(K))

  def denoiser(prior):
    def denoise(z, t):
      def one(z, t):
        to = jax.vmap(
          lambda x: transitions.marginal(
            prior.kernel(t), jnp.where(jnp.arange(K) == x, 0.0, NEVER)
          )
        )(jnp.arange(K))  # [x z]
        return jax.nn.log_softmax(jnp.log(law) + to[:, z[0]])[None]

      return jax.vmap(one)(z, t)

    return Model(denoise)

  return law, denoiser


@pytest.mark.parametrize("name", ["alpha1", "mixture"])
@pytest.mark.parametrize("jumps", [1, 3, 12])
def test_reverse_steps_compose_to_the_forward_marginals(name, jumps, key):
  """With an exact denoiser, whatever the stride: chi-square at every stop."""
  law, denoiser = toy_law()
  prior = vq_diffusion.Prior(K, schedule=name, time_steps=12)
  count = 20_000
  z = prior.start(key, None, (count, 1))
  grid = schedules.uniform_grid(jumps)
  model = denoiser(prior)
  reverse = jax.jit(lambda k, z, t, s: prior.reverse(k, model, z, t, s))
  for i in range(jumps):
    z = reverse(jax.random.fold_in(key, i), z, grid[i], grid[i + 1])
    found = np.bincount(np.asarray(z).ravel(), minlength=K + 1)
    dense = transitions.dense(prior.kernel(grid[i + 1]), K)
    expected = count * (law @ np.asarray(dense, np.float64)[:K])
    seen = expected > 1
    chi = ((found - expected)[seen] ** 2 / expected[seen]).sum()
    assert chi < seen.sum() + 4 * math.sqrt(2 * seen.sum())
    assert found[~seen].sum() <= 8


@pytest.mark.parametrize("name", ["alpha1", "mixture", "cosine"])
def test_bound_of_an_exact_denoiser_is_the_entropy(name):
  """Summed over all steps, codes and states, by enumeration."""
  law, denoiser = toy_law()
  prior = vq_diffusion.Prior(K, schedule=name, time_steps=9)
  x, z = (a.ravel() for a in np.meshgrid(range(K), range(K + 1)))

  @jax.jit
  def terms(s, t):
    log_probs = denoiser(prior).denoise(z[:, None], t)
    return prior.terms(log_probs, z[:, None], x[:, None], s, t).kl

  total = 0.0
  for index in range(9):
    s, t = (jnp.full(len(x), end) for end in ends(index, 9))
    dense = np.asarray(transitions.dense(prior.kernel(t[0]), K), np.float64)
    kl = terms(s, t)
    possible = dense[x, z] > 0
    total += np.sum((law[x] * dense[x, z] * kl)[possible])
  bits = total / math.log(2) + float(prior._start_bits())
  entropy = -np.sum(law * np.log2(law))
  # `start` is uniform over codes, the forward marginal is not quite.
  assert -1e-4 < bits - entropy < (0.05 if name == "mixture" else 1e-4)


@pytest.mark.parametrize("schedule", schedules.MASKED)
def test_its_bound_is_that_of_absorbing_diffusion(schedule, key):
  """Masks only, no replacement: the same estimate on the same noise."""
  x = jax.random.randint(key, (6, 8), 0, K)
  s, t = ends(jnp.array([0, 1, 5, 9, 10, 11]), 12)
  ours = vq_diffusion.Prior(K, schedule=schedule, time_steps=12)
  theirs = absorbing.Prior(K, schedule=schedule, time_steps=12)
  z = theirs.corrupt(key, None, x, t)
  log_probs = jax.nn.log_softmax(jax.random.normal(key, (6, 8, K)))
  args = (log_probs, z, x, s, t)
  both = jax.jit(lambda *a: (ours.cost(*a)[1], theirs.cost(*a)[1]))
  np.testing.assert_allclose(*both(*args), rtol=2e-4, atol=1e-6)


def test_released_chain_has_nearly_that_bound(key):
  """One replacement in a million is all that separates alpha1 from it.

  As long as the network copies visible codes: it must, since a visible code may
  have been replaced, and absorbing diffusion does not ask.
  """
  w = jax.random.normal(key, (K,))
  copy = jnp.concatenate([40.0 * jnp.eye(K), w[None]])
  model = Model(lambda z, t: jax.nn.log_softmax(copy[z]))
  x = jax.random.randint(key, (500, 8), 0, K)
  ours = vq_diffusion.Prior(K, time_steps=20, bound_times=20)
  theirs = absorbing.Prior(K, time_steps=20, bound_times=20)
  gap = jax.jit(lambda k: ours.bits(k, model, x) - theirs.bits(k, model, x))(
    key
  )
  assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(len(gap)) + 1e-3
  assert gap.std() / math.sqrt(len(gap)) < 0.1


def test_loss_is_unbiased_whatever_the_probabilities(key):
  """Importance sampling changes the variance of the loss, not its mean."""
  model = Model(
    lambda z, t: jax.nn.log_softmax(jnp.cos(z[..., None] + jnp.arange(K)))
  )
  x = jax.random.randint(key, (2000, 4), 0, K)
  prior = vq_diffusion.Prior(K, time_steps=6, auxiliary=0.0)
  seen = _importance.Memory(
    jnp.array([1.0, 4.0, 9.0, 1.0, 0.3, 2.0]), jnp.full(6, 11.0)
  )
  estimate = jax.jit(lambda memory: prior.loss(key, model, x, memory=memory))
  loss, (metrics, memory) = estimate(seen)
  plain, (others, _) = estimate(prior.memory())
  np.testing.assert_allclose(loss, plain, rtol=0.05)
  np.testing.assert_allclose(
    metrics["bits_per_token"], others["bits_per_token"], rtol=0.05
  )
  np.testing.assert_allclose(
    loss / math.log(2), metrics["bits_per_token"], rtol=1e-5
  )
  assert memory.count.sum() == 66 + len(x)


def test_the_later_of_two_terms_is_remembered():
  old = _importance.Memory(jnp.ones(3), jnp.zeros(3))
  new = _importance.remember(
    old, jnp.array([2, 0, 2]), jnp.array([1.0, 2.0, 3.0])
  )
  np.testing.assert_allclose(new.history, [1.3, 1.0, 1.8], rtol=1e-6)
  np.testing.assert_array_equal(new.count, [1, 0, 2])


def test_float32_is_enough_for_many_codes_and_steps():
  """K = 16384, T = 1000: against Bayes' rule in float64, every branch."""
  k, steps = 16384, 1000
  prior = vq_diffusion.Prior(k, time_steps=steps)
  z = np.array([[k, 7, 7]])
  log_probs = np.random.default_rng(0).normal(0, 4, (1, 3, k))
  log_probs[0, 2, 7] = -60.0
  log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
  probs = np.exp(log_probs)
  for index in (0, 1, 500, 998, 999):
    found = np.asarray(
      posterior(prior, np.array([index]), jnp.float32(log_probs), z)
    )
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found).sum(-1), 1.0, atol=2e-5)
    expected = float64_posterior(index, steps, probs[0], z[0])
    live = expected > 1e-30
    np.testing.assert_allclose(
      found[0][live], np.log(expected[live]), atol=2e-3
    )


def float64_posterior(index, steps, probs, z):
  """The released tables and closed forms (one-step), in float64."""
  k = probs.shape[-1]

  def table(i):
    if i < 0:
      return 1.0, 0.0, 0.0
    v = i / (steps - 1)
    keep, mask = (
      0.99999 * (1 - v) + 9e-6 * v,
      9e-6 * (1 - v) + 0.99999 * v,
    )
    return keep, 1e-6 / k, mask

  (keep_s, noise_s, mask_s), (keep_t, noise_t, mask_t) = (
    table(index - 1),
    table(index),
  )
  a = keep_t / keep_s
  c = 1 - (1 - mask_t) / (1 - mask_s)
  b = (noise_t - a * noise_s) / (keep_s + k * noise_s)
  result = np.zeros((len(z), k + 1))
  for i, (p, j) in enumerate(zip(probs, z, strict=True)):
    if j == k:
      result[i, :k] = c / mask_t * (keep_s * p + noise_s * p.sum())
      result[i, k] = mask_s / mask_t * p.sum()
    else:
      is_j = np.arange(k) == j
      r = p / (keep_t * is_j + noise_t)
      result[i, :k] = (a * is_j + b) * (keep_s * r + noise_s * r.sum())
  return result


def test_three_training_steps_of_the_released_system():
  """Noise, loss, gradient, clipping, AdamW and averages, from its weights."""
  g = golden("vqd_train3")
  state = {
    k: v.astype(np.float32) for k, v in golden("vqd_train3.weights").items()
  }
  section, params = convert.transformer(state, heads=4, grid=(4, 4))
  net = plugins.build("nets", "Net", section, "net")
  prior = vq_diffusion.Prior(net.vocab_size, auxiliary=1e-3)
  chain = optimizer.make_optimizer(
    3,
    lr=4.5e-4,
    b2=0.96,
    weight_decay=0.045,
    decay_vectors=True,
    clip_norm=0.5,
  )

  @jax.jit
  def step(params, ema, moments, x, label, index, u):
    s, t = ends(index, 100)
    is_x = jnp.where(jnp.arange(net.vocab_size) == x[..., None], 0.0, NEVER)
    forward = transitions.marginal(prior.kernel(t), is_x)
    z = jnp.argmax(forward + gumbel(u), -1)

    def loss(params):
      model = make_model(net, params, Condition(label))
      return 100 * prior.cost(model.denoise(z, t), z, x, s, t)[0].mean()

    value, grads = jax.value_and_grad(loss)(params)
    norm = optax.tree.norm(grads)
    updates, moments = chain.update(grads, moments, params, value=value)
    params = optax.apply_updates(params, updates)
    ema = optimizer.average(ema, params, 1, decay=0.99, warmup=False)
    return params, ema, moments, value, norm

  ema, moments = params, chain.init(params)
  for i in range(3):
    inputs = (g[f"{name}_{i}"] for name in "xytu")
    params, ema, moments, value, norm = step(params, ema, moments, *inputs)
    np.testing.assert_allclose(value, g["losses"][i], rtol=2e-3)
    np.testing.assert_allclose(norm, g["grad_norms"][i], rtol=2e-3)
  for name, tree in (("after", params), ("ema", ema)):
    key = f"{name}.transformer."
    blocks = tree["blocks"]
    for official, ours in (
      ("content_emb.emb.weight", tree["tokens"]["embedding"]),
      ("to_logits.1.weight", tree["head"]["kernel"].T),
      ("blocks.0.ln2.emb.weight", blocks["mlp_norm"]["embedding"][0]),
      (
        "blocks.0.attn.query.weight",
        blocks["attention"]["query"]["kernel"][0].T,
      ),
      ("blocks.1.mlp.conv1.bias", blocks["mlp"]["up"]["bias"][1]),
    ):
      np.testing.assert_allclose(
        ours, g[key + official], rtol=2e-3, atol=2e-4, err_msg=official
      )


def test_bad_options_are_refused():
  with pytest.raises(ValueError, match=r"Did you mean 'alpha1'"):
    vq_diffusion.Prior(K, schedule="alpha")
  with pytest.raises(ValueError, match=r"importance, uniform"):
    vq_diffusion.Prior(K, draw="loud")
  with pytest.raises(ValueError, match="at least 2"):
    vq_diffusion.Prior(K, time_steps=1)
