"""The quantizer against enumeration, closed forms and official numbers."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax.tokenizer import _gumbel, losses, quantize

GOLDEN = pathlib.Path(__file__).parent / "golden"
K, D = 12, 5


def golden(name):
  with np.load(GOLDEN / f"{name}.npz") as file:
    return dict(file)


def channels_last(x):
  return np.moveaxis(x, 1, -1)


@pytest.fixture
def codebook(key):
  return jax.random.normal(key, (K, D))


def test_every_code_is_nearest_to_itself(codebook):
  ids = quantize.nearest(codebook, codebook)
  np.testing.assert_array_equal(ids, np.arange(K))
  np.testing.assert_array_equal(quantize.lookup(ids, codebook), codebook)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
def test_nearest_is_the_enumerated_minimum(key, codebook, shape):
  latents = jax.random.normal(jax.random.fold_in(key, 1), (*shape, D))
  z, e = np.asarray(latents, np.float64), np.asarray(codebook, np.float64)
  distances = np.square(z[..., None, :] - e).sum(-1)
  ids = jax.jit(quantize.nearest)(latents, codebook)
  assert ids.dtype == jnp.int32
  np.testing.assert_array_equal(ids, distances.argmin(-1))


def test_ties_go_to_the_first_code():
  codebook = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
  latents = jnp.array([[0.0, 2.0], [1.0, 1.0]])
  np.testing.assert_array_equal(quantize.nearest(latents, codebook), [1, 0])


def test_straight_through_is_codes_forward_and_identity_backward(key):
  z, quantized, slope = jax.random.normal(key, (3, 4, D))
  value, pull = jax.vjp(quantize.straight_through, z, quantized)
  np.testing.assert_allclose(value, quantized, atol=1e-6)
  to_latents, to_codes = pull(slope)
  np.testing.assert_array_equal(to_latents, slope)
  np.testing.assert_array_equal(to_codes, np.zeros_like(slope))


def test_straight_through_keeps_codes_of_bfloat16_latents():
  z = jnp.full((1, 1), 300.0, jnp.bfloat16)  # Its neighbours are 2 apart.
  value = quantize.straight_through(z, jnp.array([[0.125]]))
  assert value.dtype == jnp.float32
  np.testing.assert_array_equal(value, [[0.125]])


def test_weights_scale_the_term_they_name(key):
  """mean over N numbers: d/dz = 2 commitment (z - zq) / N, and so on."""
  z, quantized = jax.random.normal(key, (2, 6, D))
  to_latents, to_codes = jax.grad(quantize.vq_loss, (0, 1))(
    z, quantized, commitment=0.25, codebook_weight=3.0
  )
  difference = 2.0 * (z - quantized) / z.size
  np.testing.assert_allclose(to_latents, 0.25 * difference, rtol=1e-5)
  np.testing.assert_allclose(to_codes, -3.0 * difference, rtol=1e-5)


@pytest.mark.parametrize(
  ("case", "weights"),
  [
    ("fixed", {}),  # The defaults are the loss of the papers.
    ("legacy", {"commitment": 1.0, "codebook_weight": 0.25}),
  ],
)
def test_loss_is_the_official_one(case, weights):
  data = golden("taming_quantizers")

  def loss(z, codebook):
    ids = quantize.nearest(z, codebook)
    quantized = quantize.lookup(ids, codebook)
    return quantize.vq_loss(z, quantized, **weights), (ids, quantized)

  grad = jax.value_and_grad(loss, (0, 1), has_aux=True)
  (value, (ids, quantized)), (to_latents, to_codes) = grad(
    channels_last(data["z"]), data["codebook"]
  )
  np.testing.assert_array_equal(ids.reshape(-1), data[f"{case}_indices"])
  close = {"rtol": 1e-5, "atol": 1e-6}
  np.testing.assert_allclose(value, data[f"{case}_loss"], **close)
  quant = channels_last(data[f"{case}_quant"])
  np.testing.assert_allclose(quantized, quant, **close)
  slope = channels_last(data[f"{case}_grad_z"])
  np.testing.assert_allclose(to_latents, slope, **close)
  np.testing.assert_allclose(to_codes, data[f"{case}_grad_codebook"], **close)


def test_lookup_is_the_official_one():
  data = golden("ul_embed")
  embedded = quantize.lookup(data["ids"].reshape(2, 3, 3), data["codebook"])
  np.testing.assert_array_equal(embedded, channels_last(data["embedded"]))


def test_codebook_starts_uniform(key):
  codebook = np.asarray(quantize.codebook_init(key, (500, 40))) * 500
  assert np.abs(codebook).max() <= 1.0
  # A uniform variable on (-1, 1) has moments 0 and 1/3; 20,000 draws.
  assert abs(codebook.mean()) < 4 * (1 / 3 / codebook.size) ** 0.5
  assert abs(np.square(codebook).mean() - 1 / 3) < 0.01


def test_perplexity_of_known_distributions():
  assert quantize.perplexity(jnp.array([0, 9, 0])) == 1.0
  np.testing.assert_allclose(quantize.perplexity(jnp.full(K, 3)), K, rtol=1e-5)
  # p = (1/2, 1/4, 1/4): entropy 1.5 ln 2.
  counts = jnp.array([4, 2, 0, 2])
  np.testing.assert_allclose(quantize.perplexity(counts), 2**1.5, rtol=1e-5)
  assert quantize.usage(counts) == 0.75


def test_histogram_and_perplexity_are_the_official_ones():
  data = golden("taming_quantizers")
  ids = data["v1_indices"]
  counts = quantize.histogram(jnp.asarray(ids), len(data["codebook"]))
  np.testing.assert_array_equal(counts, np.bincount(ids.ravel(), minlength=24))
  perplexity = quantize.perplexity(counts)
  np.testing.assert_allclose(perplexity, data["v1_perplexity"], rtol=1e-5)


def test_revival_waits_for_patience_steps_in_a_row(key):
  """Against a count in plain Python, over steps that use few codes."""
  steps, patience = 12, 3
  ids = np.random.default_rng(0).integers(0, K, (steps, 5))
  codebook, idle = jnp.zeros((K, D)), jnp.zeros(K, jnp.int32)
  revive = jax.jit(quantize.revive, static_argnames="patience")
  expected = [0] * K
  for step in range(steps):
    latents = jnp.full((5, D), step + 1.0)
    before = np.asarray(codebook)
    codebook, idle, revived = revive(
      key, codebook, idle, latents, ids[step], patience=patience
    )
    for k in range(K):
      expected[k] = 0 if k in ids[step] else expected[k] + 1
      assert bool(revived[k]) == (expected[k] == patience)
      row = np.full(D, step + 1.0) if revived[k] else before[k]
      np.testing.assert_array_equal(codebook[k], row)
      expected[k] %= patience
    np.testing.assert_array_equal(idle, expected)


def test_revived_codes_are_distinct_latents_and_get_used(key, codebook):
  latents = 10.0 + jax.random.normal(key, (2, K, D))
  ids = jnp.zeros((2, K), jnp.int32)
  codebook, idle, revived = quantize.revive(
    key, codebook, jnp.zeros(K, jnp.int32), latents, ids, patience=1
  )
  np.testing.assert_array_equal(revived, np.arange(K) > 0)
  np.testing.assert_array_equal(idle, np.zeros(K))
  pool = {tuple(z) for z in np.asarray(latents).reshape(-1, D)}
  rows = {tuple(e) for e in np.asarray(codebook)[1:]}
  assert len(rows) == K - 1
  assert rows <= pool
  counts = quantize.histogram(quantize.nearest(latents, codebook), K)
  assert np.asarray(counts)[1:].all()


def test_revival_with_more_dead_codes_than_latents(key, codebook):
  latents = jax.random.normal(key, (2, D))
  ids = jnp.zeros(2, jnp.int32)
  revived = quantize.revive(
    key, codebook, jnp.zeros(K, jnp.int32), latents, ids, patience=1
  )
  rows = {tuple(e) for e in np.asarray(revived[0])[1:]}
  assert rows == {tuple(z) for z in np.asarray(latents)}


def test_revival_prefers_what_is_badly_quantized(key):
  """Draws follow the squared error: 9 to 1 for errors of 3 and 1."""
  codebook = jnp.array([[0.0], [50.0]])
  latents, ids = jnp.array([[1.0], [3.0], [0.0]]), jnp.zeros(3, jnp.int32)
  idle = jnp.zeros(2, jnp.int32)

  def drawn(key):
    return quantize.revive(key, codebook, idle, latents, ids, patience=1)[0][1]

  fresh = np.asarray(jax.vmap(drawn)(jax.random.split(key, 4000)))
  assert set(fresh.ravel()) == {1.0, 3.0}
  share = (fresh == 3.0).mean()
  assert abs(share - 0.9) < 4 * np.sqrt(0.09 / 4000)


def test_revival_needs_patience(key, codebook):
  with pytest.raises(ValueError, match="at least 1"):
    quantize.revive(
      key, codebook, jnp.zeros(K, jnp.int32), codebook, 0, patience=0
    )


def test_ids_out_of_range_are_refused(codebook):
  quantize.check_ids(np.array([[0, K - 1]]), K)
  with pytest.raises(
    ValueError, match=r"2 of 4 ids .* 0..11; .* 12 at \[0, 1]"
  ):
    quantize.check_ids(np.array([[3, K], [-1, 0]]), K)
  assert np.isnan(quantize.lookup(jnp.array([K]), codebook)).all()


def test_module_agrees_with_the_functions(key, codebook):
  module = quantize.Nearest(K, D)
  variables = {"params": {"codebook": codebook}}
  latents = jax.random.normal(jax.random.fold_in(key, 1), (2, 3, D))
  through, quantized, ids, loss = module.apply(variables, latents)
  np.testing.assert_array_equal(loss, quantize.vq_loss(latents, codebook[ids]))
  np.testing.assert_array_equal(ids, quantize.nearest(latents, codebook))
  np.testing.assert_array_equal(quantized, codebook[ids])
  np.testing.assert_allclose(through, quantized, atol=1e-6)
  found = module.apply(variables, ids, method="lookup")
  np.testing.assert_array_equal(found, quantized)


@pytest.fixture
def official_gumbel(monkeypatch):
  """(data, run): the released module on recorded noise, channels last."""
  data = golden("taming_gumbelvq")
  weights = golden("taming_gumbelvq.quantize")
  kernel = weights["quantize.proj.weight"][..., 0, 0].T
  proj = {"kernel": kernel, "bias": weights["quantize.proj.bias"]}
  params = {"proj": proj, "codebook": weights["quantize.embed.weight"]}
  params = jax.tree.map(np.float32, params)

  def run(noise, **options):
    noise = -np.log(channels_last(data[noise]))
    monkeypatch.setattr(jax.random, "gumbel", lambda key, shape, dtype: noise)
    module = _gumbel.Gumbel(40, 16, hard=options.pop("hard", True))
    latents = channels_last(data["prequant"])
    rngs = {"gumbel": jax.random.key(0)}
    return module.apply({"params": params}, latents, rngs=rngs, **options)

  return data, run


@pytest.mark.parametrize(
  ("case", "options"),
  [
    ("eval", {}),
    ("train", {"train": True, "temperature": 0.7}),
    ("soft", {"train": True, "temperature": 0.7, "hard": False}),
  ],
)
def test_gumbel_is_the_official_one(official_gumbel, case, options):
  data, run = official_gumbel
  found = run(f"{case}_exp_noise", **options)
  close = {"rtol": 2e-4, "atol": 2e-4}
  quant = channels_last(data[f"{case}_quant"])
  np.testing.assert_allclose(found.through, quant, **close)
  if case != "soft":
    np.testing.assert_array_equal(found.ids, data[f"{case}_indices"])
    np.testing.assert_allclose(found.loss, data[f"{case}_kl"], rtol=2e-4)


def test_hard_gumbel_has_the_gradient_of_the_mixture(key):
  """To the latents; the codebook learns from the drawn codes alone."""
  latents = jax.random.normal(key, (3, D))
  module, soft = (_gumbel.Gumbel(K, D, hard=hard) for hard in (True, False))
  variables = module.init({"params": key, "gumbel": key}, latents)
  slope = jax.random.normal(jax.random.fold_in(key, 1), latents.shape)

  def through(module):
    def run(codebook, latents):
      params = {**variables["params"], "codebook": codebook}
      found = module.apply(
        {"params": params}, latents, train=True, rngs={"gumbel": key}
      )
      return found.through, found.ids

    book = variables["params"]["codebook"]
    return jax.vjp(run, book, latents, has_aux=True)

  hard_value, hard_pull, ids = through(module)
  _, soft_pull, _ = through(soft)
  np.testing.assert_allclose(
    hard_value, variables["params"]["codebook"][ids], atol=1e-5
  )
  to_codes, to_latents = hard_pull(slope)
  expected = np.zeros((K, D), np.float32)
  np.add.at(expected, np.asarray(ids), np.asarray(slope))
  np.testing.assert_allclose(to_codes, expected, rtol=1e-5)
  np.testing.assert_allclose(to_latents, soft_pull(slope)[1], rtol=1e-5)


def test_gumbel_draws_codes_from_the_softmax_if_it_gets_noise(key):
  """Without: the likeliest. With: frequencies are those of the softmax."""
  n = 4000
  module, latents = _gumbel.Gumbel(4, 2), jnp.ones((n, 2))
  bias = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
  params = {"kernel": jnp.zeros((2, 4)), "bias": bias}
  params = {"proj": params, "codebook": jnp.zeros((4, 2))}

  def draw(**rngs):
    return module.apply({"params": params}, latents, rngs=rngs).ids

  np.testing.assert_array_equal(draw(), np.zeros(n))
  ids = draw(gumbel=key)
  np.testing.assert_array_equal(ids, draw(gumbel=key))
  p = np.exp(bias)
  share = np.bincount(ids, minlength=4) / n
  assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / n)).all()


def test_kl_to_uniform_of_known_distributions():
  """ln K minus the entropy: 0, ln K, and ln 4 - 1.75 ln 2."""
  np.testing.assert_allclose(_gumbel.kl_to_uniform(jnp.ones(K)), 0, atol=1e-6)
  one = jnp.where(jnp.arange(K) == 3, 0.0, -1e4)
  np.testing.assert_allclose(_gumbel.kl_to_uniform(one), np.log(K), rtol=1e-5)
  quarter = jnp.log(jnp.array([0.5, 0.25, 0.125, 0.125]))
  expected = np.log(4) - 1.75 * np.log(2)
  found = _gumbel.kl_to_uniform(jnp.stack([quarter, quarter]))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_quantizer_loss_is_weighed_against_distortion(key):
  x, y = jax.random.normal(key, (2, 2, 2, 1))
  total, metrics = losses.stage_one(x, y, jnp.float32(3.0), vq_weight=0.1)
  np.testing.assert_allclose(total, jnp.abs(x - y).mean() + 0.3, rtol=1e-6)
  assert metrics["vq"] == 3.0


@pytest.mark.parametrize("weight", [1e-8, 0.2])
def test_drawn_codes_pay_for_their_distance_to_uniform(key, weight):
  latents = jax.random.normal(key, (6, D))
  module = _gumbel.Gumbel(K, D, kl_weight=weight)
  params = module.init(key, latents)["params"]
  logits = latents @ params["proj"]["kernel"] + params["proj"]["bias"]
  q = np.asarray(jax.nn.softmax(logits), np.float64)
  expected = weight * (q * np.log(K * q)).sum(-1).mean()
  found = module.apply({"params": params}, latents).loss
  np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
  ("case", "options"),
  [
    ("taming_temp_sched", {}),
    (
      "taming_temp_sched_h",
      dict(warmup_steps=100, decay_steps=5000, start=0.1, peak=1.0, end=0.05),
    ),
  ],
)
def test_temperature_is_the_official_one(case, options):
  data = golden(case)
  schedule = _gumbel.make_temperature({"name": "cosine", **options})
  found = schedule(data["n"])
  np.testing.assert_allclose(found, data["value"], rtol=1e-4, atol=1e-7)


def test_temperatures_are_named_by_a_config_section():
  """max(1/16, 1 - step / 160000), as in the code of arXiv:2111.12701."""
  steps = np.array([0, 80_000, 150_000, 150_001, 2_000_000])
  found = _gumbel.make_temperature({"name": "linear"})(steps)
  expected = [1.0, 0.5, 0.0625, 0.0625, 0.0625]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  steady = _gumbel.make_temperature({})(steps)
  np.testing.assert_array_equal(steady, np.ones(5))
  half = _gumbel.make_temperature({"name": "constant", "value": 0.5})
  assert half(jnp.int32(7)) == 0.5
  with pytest.raises(ValueError, match=r"temperatures 'cosin'.*'cosine'"):
    _gumbel.make_temperature({"name": "cosin"})
  with pytest.raises(
    ValueError, match=r"config\.temperature has no key 'ends'"
  ):
    _gumbel.make_temperature({"name": "linear", "ends": 0.1})
