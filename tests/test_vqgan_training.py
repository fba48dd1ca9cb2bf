"""Tokenizer against discriminator: gradients, rounds, updates.

golden/taming_gan.npz and golden/ul_vqgan_train*.npz hold training steps of the
official implementations around the start of the discriminator; LPIPS was
replaced by a squared error of 2x2 means in those runs.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from autoencoders import RELEASED, check_norms, golden, shapes
from test_adversarial import released
from test_tokenizer import NO_ATTENTION, TINY

from vq_jax import pipeline
from vq_jax.convert import taming, unleashing_vqgan
from vq_jax.tokenizer import adversarial, augment, discriminator, losses, vqgan
from vq_jax.train import _adversary

# What runs once or twice is not worth compiling well.
ONCE = {"xla_backend_optimization_level": 0}


def stub(x, y):
  """What stood in for LPIPS."""
  error = (x - y).reshape(-1, 8, 2, 8, 2, 3).mean((2, 4))
  return jnp.square(error).mean((1, 2, 3))


def network_of(module, images):
  return lambda params: module.apply({"params": params}, images, train=True)


def objective_of(images, perceptual=stub, **weights):
  return lambda outputs, codes: losses.stage_one(
    images, outputs, codes.loss, perceptual=perceptual, **weights
  )


def test_rounds_around_the_start_are_the_official_ones():
  data, state = golden("taming_gan")
  module = vqgan.Tokenizer(**NO_ATTENTION, quantizer_options=RELEASED)
  _, params = taming.tokenizer(state, module.image_size)
  adversary = _adversary.Adversary(
    start=100, lambda_max=1e4, factor=0.8, layers=2, channels=16, augment=()
  )
  weights, statistics = released(
    state, adversary.net, r"loss\.discriminator\.main\."
  )
  # Plain descent at rate 1: what the weights lose is the gradient.
  transform = optax.with_extra_args_support(optax.sgd(1.0))
  gan = _adversary.GAN(adversary, transform)
  rival = _adversary.DiscriminatorState(
    weights, statistics, transform.init(weights)
  )
  images = data["image"]

  @functools.partial(jax.jit, compiler_options=ONCE)
  def play(params, step):
    return _adversary.gan_step(
      gan,
      network_of(module, images),
      objective_of(images),
      params,
      rival,
      images,
      jax.random.key(0),
      step,
    )

  keys = [key for key in state if not re.search("running|tracked", key)]
  rivals = [key.startswith("loss.") for key in keys]
  keys = [k for k in keys if not k.startswith("loss.")]
  names = {
    "loss": "opt0_total_loss",
    "g_loss": "opt0_g_loss",
    "vq": "opt0_quant_loss",
    "perceptual": "opt0_p_loss",
    "d_loss": "opt1_disc_loss",
    "logits_real": "opt1_logits_real",
    "logits_fake": "opt1_logits_fake",
  }
  for step in (99, 100):
    grads, metrics, _, after = play(params, step)
    official = {
      key.removeprefix(f"step{step}_"): value for key, value in data.items()
    }
    for ours, theirs in names.items():
      if step == 100 or theirs.startswith("opt0"):
        np.testing.assert_allclose(metrics[ours], official[theirs], 1e-3, 1e-4)
      else:
        assert np.isnan(metrics[ours])
    norms = official["opt0_grad_norms"][np.logical_not(rivals)]
    check_norms(grads, taming.RULES, state, keys, norms)
    moved = jax.tree.map(lambda old, new: old - new, weights, after.params)
    if step == 99:
      assert metrics["lambda"] == 0.0
      assert not optax.tree.norm(moved)
      continue
    np.testing.assert_allclose(
      metrics["lambda"], official["opt0_d_weight"], 1e-3
    )
    found = [np.linalg.norm(x) for x in jax.tree.leaves(moved)]
    expected = official["opt1_grad_norms"][rivals]
    np.testing.assert_allclose(sorted(found), sorted(expected), 2e-3, 1e-5)


def unleashed(case):
  """Data, our weights of both networks, and what checks gradients."""
  data, state = golden(case)
  state, judge = (
    {k.removeprefix(p): v for k, v in state.items() if k.startswith(p)}
    for p in ("ae.", "disc.")
  )
  rules = unleashing_vqgan.rules(unleashing_vqgan.modules(1, (False, True)))
  section, params = unleashing_vqgan.tokenizer(state, 16)
  section["logsigma"] = False  # It has no part in these steps.
  params["decoder"].pop("logsigma", None)
  rival = released(judge, discriminator.Discriminator(2, 16))
  return data, section, (params, rival), (rules, state)


@pytest.fixture(scope="module")
def unleashed_step():
  """One official step: balanced gradients, losses, the other's gradients."""
  module = pipeline.build_tokenizer(unleashed("ul_vqgan_train")[1])
  module = module.clone(quantizer_options=RELEASED)
  adversary = _adversary.Adversary(layers=2, channels=16)

  def prepare(x, draws):
    x = augment.colour((x + 1.0) / 2.0, draws[:3])
    return augment.translation(x, [shift.astype(int) for shift in draws[3:]])

  @functools.partial(jax.jit, compiler_options=ONCE)
  def step(params, rival, images, counts, fake_draws, real_draws):
    def fool(outputs):
      fake = prepare(outputs, fake_draws)
      return adversarial.linear(adversary.logits(*rival, fake)[0]), fake

    def half(x, y):  # Theirs are in [0, 1].
      return stub(x / 2.0, y / 2.0)

    found = adversarial.balanced_gradients(
      network_of(module, images),
      objective_of(images, half, l1=0.5),
      fool,
      params,
      counts=counts,
      lambda_max=1.0,
    )

    def judge(weights):
      real = adversary.logits(weights, rival[1], prepare(images, real_draws))[0]
      fake = adversary.logits(weights, rival[1], found.seen)[0]
      return adversarial.hinge(real, fake)

    d_loss, slopes = jax.value_and_grad(judge)(rival[0])
    return found, {**found.metrics, "d_loss": d_loss}, slopes

  return step


@pytest.mark.parametrize(
  ("case", "number"),
  [
    ("ul_vqgan_train", 99),
    ("ul_vqgan_train", 100),
    ("ul_vqgan_train", 101),
    ("ul_vqgan_train_diffaug", 101),
  ],
)
def test_steps_of_the_unleashed_are_the_official_ones(
  case, number, unleashed_step
):
  data, _, networks, (rules, state) = unleashed(case)
  official = {
    key.removeprefix(f"step{number}_"): value
    for key, value in data.items()
    if key.startswith(f"step{number}_")
  }
  draws = [official[k].ravel() for k in official if k.startswith("draw")]
  if not draws:  # What changes nothing.
    still = [np.full(2, 0.5, np.float32)] * 3 + [np.zeros(2, int)] * 2
    draws = [*still, *still]
  found, metrics, slopes = unleashed_step(
    *networks,
    2.0 * data["image"] - 1.0,
    float(number >= 100),
    draws[:5],
    draws[5:],
  )
  names = {
    "loss": "loss",
    "reconstruction": "l1",
    "perceptual": "perceptual",
    "vq": "codebook_loss",
    "g_loss": "g_loss",
    "lambda": "d_weight",
    "d_loss": "d_loss",
  }
  for ours, theirs in names.items():
    if theirs in official:
      np.testing.assert_allclose(metrics[ours], official[theirs], 1e-3, 1e-4)
  check_norms(found.grads, rules, state, state, official["ae_grad_norms"])
  if number == 101:
    norms = sorted(np.linalg.norm(x) for x in jax.tree.leaves(slopes))
    expected = sorted(official["disc_grad_norms"])
    np.testing.assert_allclose(norms, expected, 2e-3, 1e-4)


@pytest.fixture(scope="module")
def tiny():
  """Random weights of a network of one level, and what judges it."""
  module = vqgan.Tokenizer(**{**TINY, "multipliers": (1,)})
  rng = np.random.default_rng(0)
  images = rng.uniform(-1.0, 1.0, (2, 8, 8, 3)).astype(np.float32)
  wall = rng.normal(size=images.shape).astype(np.float32)
  params = jax.tree.map(
    lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32),
    shapes(module),
  )

  def fool(outputs):  # No convolutions of its own.
    return jnp.sum(jnp.tanh(wall * outputs)), None

  return params, network_of(module, images), objective_of(images, None), fool


def naive(network, objective, fool, params, lambda_max):
  """The definition: a backward pass for each gradient of the last layer."""

  def both(params):
    outputs, codes = network(params)
    return objective(outputs, codes)[0], fool(outputs)[0]

  def last(i):
    slopes = jax.grad(lambda p: both(p)[i])(params)
    return slopes["decoder"]["conv_out"]["kernel"]

  norms = [jnp.sqrt(jnp.sum(jnp.square(last(i)))) for i in (0, 1)]
  weight = jnp.minimum(norms[0] / (norms[1] + 1e-4), lambda_max)
  total = lambda p: both(p)[0] + weight * both(p)[1]  # noqa: E731
  return weight, jax.grad(total)(params)


def test_one_pass_gives_the_gradients_of_three(tiny):
  params, *parts = tiny
  once = functools.partial(jax.jit, compiler_options=ONCE)
  three = once(lambda p, m: naive(*parts, p, m))
  one = (
    once(lambda p, m: adversarial.balanced_gradients(*parts, p, lambda_max=m))
    .lower(params, 1.0)
    .compile()
  )
  near = lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-5)  # noqa: E731
  for lambda_max, bounded in ((1e4, False), (1e-3, True)):
    weight, grads = three(params, lambda_max)
    assert (weight == np.float32(lambda_max)) == bounded
    found = one(params, lambda_max)
    np.testing.assert_allclose(found.metrics["lambda"], weight, 1e-4)
    jax.tree.map(near, found.grads, grads)
  # In the compiled program every convolution has two slopes, but for the first,
  # whose input is an image; the last kernel's is there three times, not once.
  forward = str(jax.make_jaxpr(parts[0])(params)).count("conv_general_dilated[")
  convolutions = re.findall(r"= \S+ convolution\(", one.as_text())
  assert len(convolutions) == 3 * forward - 1 + 2


@pytest.fixture(scope="module")
def rounds():
  """Rounds of a network of one matrix: (results by step, the parts by hand)."""
  rng = np.random.default_rng(0)
  images = rng.uniform(-1.0, 1.0, (2, 8, 8, 3)).astype(np.float32)
  adversary = _adversary.Adversary(layers=1, channels=4, start=3, r1=0.5)
  fresh = jax.eval_shape(
    lambda k: adversary.net.init(k, images, train=True), jax.random.key(0)
  )
  params, weights, statistics = jax.tree.map(
    lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32),
    (
      {"decoder": {"conv_out": {"kernel": np.zeros((3, 3))}}},
      fresh["params"],
      fresh["batch_stats"],
    ),
  )
  transform = optax.with_extra_args_support(optax.sgd(1.0))
  gan = _adversary.GAN(adversary, transform)
  rival = _adversary.DiscriminatorState(
    weights, statistics, transform.init(weights)
  )

  def network(params):
    return images @ params["decoder"]["conv_out"]["kernel"], None

  def objective(outputs, codes):
    return jnp.mean(jnp.square(outputs - images)), {}

  @functools.partial(jax.jit, compiler_options=ONCE)
  def play(step):
    return _adversary.gan_step(
      gan, network, objective, params, rival, images, jax.random.key(2), step
    )

  @functools.partial(jax.jit, compiler_options=ONCE)
  def by_hand():
    keys = jax.random.split(jax.random.key(2))
    fake, real = (
      augment.augment(key, x, adversary.augment)
      for key, x in zip(keys, (network(params)[0], images), strict=True)
    )

    def loss(weights):
      judge = lambda x: adversary.logits(weights, statistics, x)[0]  # noqa: E731
      verdicts = judge(real), judge(fake)
      penalty = adversarial.r1_penalty(judge, real)
      return adversarial.hinge(*verdicts) + 0.5 * penalty, verdicts

    return *jax.value_and_grad(loss, has_aux=True)(weights), objective(
      network(params)[0], None
    )[0]

  return {step: play(step) for step in (2, 3)}, by_hand(), rival


def test_both_are_judged_by_the_same_pixels(rounds):
  """Reconstructions and images with changes of their own, and the penalty."""
  results, ((d_loss, (real, fake)), slopes, nll), rival = rounds
  grads, metrics, _, after = results[3]
  expected = {
    "d_loss": d_loss,
    "g_loss": -np.mean(fake),
    "logits_real": np.mean(real),
    "logits_fake": np.mean(fake),
    "loss": nll - metrics["lambda"] * np.mean(fake),
    "grad_norm": optax.tree.norm((grads, slopes)),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, 1e-4, err_msg=name)
  near = lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-5)  # noqa: E731
  jax.tree.map(
    lambda old, new, g: near(old - new, g), rival.params, after.params, slopes
  )


def test_a_discriminator_waits_for_its_start(rounds):
  """Its verdicts move its statistics; its weights wait, and lambda is 0."""
  results, (*_, nll), rival = rounds
  for step, started in ((2, False), (3, True)):
    grads, metrics, _, after = results[step]
    same = jax.tree.map(np.array_equal, after, rival)
    assert jax.tree.all(same.params) != started
    assert not jax.tree.all(same.statistics)
    assert (metrics["lambda"] > 0.0) == started
    assert np.isfinite(metrics["d_loss"]) == started
  grads, metrics, *_ = results[2]
  np.testing.assert_allclose(metrics["loss"], nll, 1e-6)
  np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), 1e-5)


def config_of(**adversarial):
  return {
    "steps": 4,
    "adversarial": adversarial,
    "discriminator_optimizer": {"lr": 1e-3},
  }


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(lamda_max=1.0), r"config\.adversarial has no key 'lamda_max'.*'lamb"),
    (dict(loss="hing"), r"config\.adversarial\.loss is 'hing'.*'hinge'"),
    (dict(augment=["color"]), r"augment is 'color'.*'colour'"),
    (dict(norm="group"), r"norm is 'group'.*batch"),
    (dict(start=-1), r"config\.adversarial\.start is -1; 0 or more"),
    (dict(layers=0), r"config\.adversarial\.layers is 0; 1 or more"),
  ],
)
def test_a_wrong_section_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _adversary.make_gan(config_of(**changes))


def test_the_sections_of_a_discriminator_need_each_other():
  assert _adversary.make_gan({"steps": 4, "adversarial": None}) is None
  alone = config_of()
  del alone["discriminator_optimizer"]
  with pytest.raises(ValueError, match=r"needs config\.discriminator_optimize"):
    _adversary.make_gan(alone)
  alone = {**config_of(), "adversarial": None}
  with pytest.raises(ValueError, match="trains nothing"):
    _adversary.make_gan(alone)
