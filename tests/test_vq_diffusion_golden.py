"""VQ-Diffusion against inputs and outputs of the released code."""

import math
import pathlib

import chains
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vq_jax import models, plugins, transitions
from vq_jax.convert import vq_diffusion as convert
from vq_jax.priors import _importance, vq_diffusion
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


def golden(case):
  return np.load(GOLDEN / f"{case}.npz")


def last(array):
  """Released arrays have classes before positions."""
  return jnp.moveaxis(jnp.asarray(array), 1, -1)


def gumbel(u):
  """The released noise, of [b class n] uniforms."""
  return -jnp.log(-jnp.log(last(u) + 1e-30) + 1e-30)


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
    for time in chains.ends(np.arange(steps), steps)
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
  found = chains.posterior(prior, g["t"], log_probs, g["xt"])
  expected = last(g[f"posterior_{kind}_f64"])
  same_distribution(found, expected, log_atol=5e-4)
  marginal = transitions.marginal(
    prior.kernel(chains.ends(g["t"], prior.time_steps)[1]), log_probs
  )
  same_distribution(marginal, last(g[f"q_pred_{kind}"]), log_atol=1e-4)


def test_posterior_of_the_diffusers_port():
  g, inputs = golden("diffusers_posterior_a"), golden("vqd_posterior_a")
  log_probs = jax.nn.log_softmax(last(inputs["logits"]))
  prior = vq_diffusion.Prior(log_probs.shape[-1])
  later = g["t"] > 0  # At t = 0 that port skips the posterior.
  found = chains.posterior(prior, g["t"], log_probs, inputs["xt"])[later]
  same_distribution(found, last(g["posterior"])[later], 2e-3, 1e-5)


@pytest.mark.parametrize("case", LOSSES)
def test_loss_of_the_released_code(case):
  """Terms, the scalar, its gradient, and what it remembers of the terms."""
  g = golden(f"vqd_loss_{case}")
  prior = vq_diffusion.Prior(g["logits"].shape[1], **LOSSES[case])
  x, z = g["x0"], g["xt"]
  s, t = chains.ends(g["t"], prior.time_steps)

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
  drawn = chains.posterior(prior, t, log_probs, z) + gumbel(g["uniform_noise"])
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
  found = chains.posterior(prior, np.full(len(z), shifted), log_probs, z)
  expected = last(g[f"mid_logprob_skip{skip}"])
  same_distribution(found, expected, log_atol=5e-4)
  drawn = jnp.argmax(found + gumbel(g[f"mid_uniform_skip{skip}"]), -1)
  np.testing.assert_array_equal(drawn, g[f"mid_next_skip{skip}"])


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
    s, t = chains.ends(index, 100)
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
