"""A self-critic: the prior's own net, of which one last layer is trained."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_critic_training import check_drawn, save_prior, save_run, train

from configs import emoji32_critic, emoji32_d3pm, emoji32_lcmd, maskgit
from configs import vq_diffusion_emoji_text as captions
from vq_jax import pipeline
from vq_jax.nets import transformer
from vq_jax.system import (
  System,
  build_system,
  condition,
  init_system,
)
from vq_jax.train import checkpoint, critic, frozen, judging, sampling


def by_hand(system, params, head, request):
  """A linear map of what the prior's net has in front of its last layer."""

  def ask(ids):
    _, found = system.net.apply(
      {"params": params["net"]},
      ids,
      jnp.zeros(len(ids)),
      condition(system, params, request),
      capture_intermediates=lambda module, _: module.name == "norm",
      mutable=["intermediates"],
    )
    (features,) = found["intermediates"]["norm"]["__call__"]
    return features @ head["kernel"][:, 0] + head["bias"]

  return ask


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A prior with random weights, and its self-critic."""
  place = tmp_path_factory.mktemp("self_critic")
  config = save_prior(place, lambda task, key: jax.jit(task.init)(key))
  return place, config, *train(place, "smoke:self")


def test_only_the_last_layer_is_trained(runs):
  """It learns; the prior, of which the run has no second copy, is what it was
  to the last bit."""
  place, config, _, state, before, after, _ = runs
  width = config["net"]["width"]
  shapes = jax.tree.map(jnp.shape, state.params)
  assert shapes == {"net": {"head": {"bias": (1,), "kernel": (width, 1)}}}
  assert jax.tree.structure(state.ema) == jax.tree.structure(state.params)
  moments = [x.size for x in jax.tree.leaves(state.optimizer) if x.ndim]
  assert sum(moments) == 2 * (width + 1)
  prior = judging.load(place / "prior", "prior").params
  jax.tree.map(np.testing.assert_array_equal, state.extra["generator"], prior)
  assert abs(before["nats_per_token"] - math.log(2)) < 0.1
  assert after["nats_per_token"] < 0.5 * math.log(2)
  assert after["accuracy"] > after["drawn_fraction"] + 0.2


def test_it_is_a_linear_map_behind_the_net_of_the_prior(key):
  """Told that the time is 0, and never under dropout."""
  net = transformer.Net(
    5, (2, 2), 1, 8, 2, time="learnt", time_steps=4, dropout=0.5
  )
  prior = System(net, None, "fixed")
  own = System(net.clone(**judging.HEAD), None, "fixed")
  head = {"kernel": jnp.arange(8.0)[:, None] - 3.0, "bias": jnp.ones(1)}
  ids = jax.random.randint(key, (2, 4), 0, 5)

  @jax.jit
  def both(key):
    params = init_system(prior, key)
    params = jax.tree.map(lambda x: x + 0.3 * jnp.sin(9.0 + x), params)
    whole = judging.whole(params, {"net": {"head": head}})
    found = judging.judge(own, whole, {}, dropout=key)(ids)
    return found, by_hand(prior, params, head, {})(ids)

  found, expected = both(key)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  assert np.std(expected) > 0.1


@pytest.mark.parametrize(
  ("module", "arg"), [(captions, "smoke"), (maskgit, "imagenet")]
)
def test_every_net_can_be_its_own_critic(module, arg, tmp_path):
  """Also one with a tied last layer, or captions: nothing else is new."""
  config = json.loads(module.get_config(arg).to_json())
  checkpoint.claim(tmp_path, config)
  own = json.loads(emoji32_critic.get_config("self").to_json())
  own["generator"] = str(tmp_path)
  system = build_system(judging.complete(own))
  make = functools.partial(init_system, build_system(config))
  key = jax.random.key(0)
  prior, trained = jax.eval_shape(
    lambda: (make(key), judging.initial(own)(key))
  )
  whole = judging.whole(prior, trained)
  wanted = jax.eval_shape(functools.partial(init_system, system), key)
  assert jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, wanted)
  assert set(trained) == {"net"} and set(trained["net"]) == {"head"}


def test_a_sampler_asks_the_net_that_draws(runs):
  """As by hand, with weights that no run holds: those it was called with."""
  place, config, _, state, *_ = runs
  section = {"name": "critic", "steps": 3, "critic": str(place / "critic")}
  config = {**config, "sampler": section}
  config["sample"] = {**config["sample"], "guidance": 0.0, "temperature": 1.0}
  system, prior = build_system(config), pipeline.build_prior(config["prior"])
  params = judging.load(place / "prior", "prior").params
  params = jax.tree.map(lambda x: 1.1 * x, params)
  index, request = np.arange(2), {"label": np.array([1, 2])}
  ids = sampling.make_generator(config, system, prior)(params, index, request)

  head = state.ema["net"]["head"]
  ask = functools.partial(by_hand, system, params, head)
  check_drawn(ids, config, params, index, request["label"], ask)


def test_a_critic_is_read_once_for_each_checkpoint(runs, tmp_path, monkeypatch):
  _, _, judged, state, *_ = runs
  workdir, opened, real = tmp_path / "run", [], checkpoint.Store
  save_run(workdir, judged, state)
  monkeypatch.setattr(
    checkpoint,
    "Store",
    lambda *args, **kw: opened.append(1) or real(*args, **kw),
  )
  one = judging.load(workdir, "critic")
  assert judging.load(workdir, "critic") is one and len(opened) == 1
  store = real(workdir, judged, **judged["keep"])
  doubled = jax.tree.map(lambda x: 2 * x, state.ema)
  store.save(2, state._replace(step=jnp.int32(2), ema=doubled))
  store.close()
  two = judging.load(workdir, "critic")
  jax.tree.map(
    np.testing.assert_array_equal, two.params, jax.device_get(doubled)
  )


def test_another_prior_is_refused(runs):
  """Before anything is compiled, and in one sentence."""
  place, config, *_ = runs
  section = {"name": "critic", "steps": 3, "critic": str(place / "critic")}
  config = {**config, "sampler": section}
  system, prior = build_system(config), pipeline.build_prior(config["prior"])
  sampling.make_generator({**config, "steps": 99, "levels": []}, system, prior)
  for other in (
    {"seed": 1},
    {"net": {**config["net"], "layers": 7}},
    {"prior": {**config["prior"], "masking": "bernoulli"}},
  ):
    with pytest.raises(
      ValueError, match=r"judges its own prior alone: .*config\."
    ):
      sampling.make_generator({**config, **other}, system, prior)


@pytest.mark.parametrize(
  ("module", "message"),
  [
    (emoji32_lcmd, "needs a prior with kernel"),
    (emoji32_d3pm, "ends in masks"),
  ],
)
def test_a_prior_that_does_not_mask_has_no_critic(module, message):
  config = json.loads(module.get_config("smoke").to_json())
  prior = pipeline.build_prior(config["prior"])
  with pytest.raises(ValueError, match=message):
    critic.check_chain(prior, build_system(config).net)


def test_an_encoder_is_the_same_wherever_its_files_are():
  section = {"name": "clip", "weights": "a/clip.safetensors", "merges": "a/m"}
  moved = {**section, "weights": "b/text/clip.safetensors", "merges": "m"}
  other = {**section, "weights": "a/large.safetensors"}
  one, two, three = (
    frozen.bare({"text": text})["text"] for text in (section, moved, other)
  )
  assert one == two != three and one["name"] == "clip"
