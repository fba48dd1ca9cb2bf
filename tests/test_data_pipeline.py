"""Loader and order: what threads, processes and history may not change."""

import collections
import contextlib
import itertools
import math
import threading
import time

import jax
import numpy as np
import pytest
import toy

from vq_jax.data import _ahead, _loader, _order
from vq_jax.train import feed, layout, throughput


def numbers(count):
  return [{"i": np.int32(i), "word": f"w{i}"} for i in range(count)]


def loader(count, batch, seed=0, **options):
  return _loader.Shuffled(numbers(count), ("i", "word"), batch, seed, **options)


class Classes(list):
  """Examples of classes, the first of which is common."""

  def __init__(self, counts):
    self.labels = np.repeat(np.arange(len(counts)) * 7 - 3, counts)
    super().__init__({"i": i} for i in range(len(self.labels)))


class Noisy(list):
  """A source whose training examples are random, and slow at random."""

  def draw(self, i, rng):
    time.sleep(0.002 * (i % 3))
    return {**self[i], "noise": rng.random(3)}


# --- The order ---


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12, 100, 1000])
def test_every_salt_is_a_permutation(count):
  for salt in range(20):
    salts = np.broadcast_to(_order.mix(salt, 5), count)
    places = _order.permute(np.arange(count), count, salts)
    assert sorted(places) == list(range(count))


def test_all_orders_of_five_are_equally_likely():
  """Chi-squared of 120 orders: 119 +- 15 if they are, 600 with four rounds."""
  salts = _order.mix(np.arange(24_000), 9)
  places = [_order.permute(np.full(len(salts), i), 5, salts) for i in range(5)]
  found = collections.Counter(zip(*map(np.ndarray.tolist, places), strict=True))
  assert set(found) <= set(itertools.permutations(range(5)))
  expected = len(salts) / math.factorial(5)
  counts = [found[order] for order in itertools.permutations(range(5))]
  assert sum((c - expected) ** 2 / expected for c in counts) < 119 + 6 * 15


def test_an_order_of_a_trillion_costs_what_is_asked_of_it():
  order = _order.shuffled(10**12, 0)
  found = order(np.arange(10**15, 10**15 + 1000))
  assert len(set(found.tolist())) == 1000
  assert found.min() >= 0 and found.max() < 10**12
  # The mean of 1000 that are drawn uniformly, within four deviations.
  assert abs(found.mean() / 10**12 - 0.5) < 4 / math.sqrt(12 * 1000)


def test_orders_are_what_they_always_were():
  """One may not change between versions, or no run could be resumed."""
  assert _order.mix(1, 2).tolist() == [13608149317741381227]
  salt = np.broadcast_to(_order.mix(0, 0, 0), 10)
  computed = _order.permute(np.arange(10), 10, salt)
  assert computed.tolist() == [8, 4, 1, 2, 7, 5, 9, 0, 6, 3]
  epochs = [np.random.default_rng([7, e]).permutation(10) for e in (0, 1)]
  found = _order.shuffled(10, 7)(np.arange(20))
  np.testing.assert_array_equal(found, np.concatenate(epochs))


@pytest.mark.parametrize(
  ("count", "batch"), [(10, 4), (3, 8), (8, 8), (1, 2), (7, 3)]
)
def test_every_example_once_an_epoch_though_batches_span_epochs(count, batch):
  epochs = 6
  shuffled = loader(count, batch)
  steps = -(-count * epochs // batch)
  stream = np.concatenate([shuffled.indices(s) for s in range(steps)])
  for epoch in range(epochs):
    part = stream[epoch * count : (epoch + 1) * count]
    assert sorted(part) == list(range(count))


def test_epochs_and_seeds_are_in_different_orders():
  order = lambda seed, step: loader(50, 50, seed).indices(step).tolist()  # noqa: E731
  orders = [order(seed, step) for seed in (0, 1) for step in (0, 1)]
  orders.append(list(range(50)))
  assert len({tuple(o) for o in orders}) == 5


def test_the_order_has_no_memory():
  """Asking in any order, or again, or elsewhere, gives the same batch."""
  forward = [loader(10, 4).indices(s) for s in range(12)]
  shuffled = loader(10, 4)
  for step in (11, 0, 5, 5, 3, 10):
    np.testing.assert_array_equal(shuffled.indices(step), forward[step])


def test_no_data_is_said():
  with pytest.raises(ValueError, match="training data is empty"):
    loader(0, 4)


# --- Balance ---


def test_balanced_classes_come_in_turn_and_their_examples_too():
  counts = (60, 5, 2)
  source = Classes(counts)
  shuffled = _loader.Shuffled(source, ("i",), 6, 0, "class")
  stream = np.concatenate([shuffled.indices(s) for s in range(60)])
  labels = source.labels[stream].reshape(-1, 3)
  assert (np.sort(labels) == np.unique(source.labels)).all()
  assert len({tuple(row) for row in labels}) == 6  # In every order.
  for label, count in zip(np.unique(source.labels), counts, strict=True):
    own = stream[source.labels[stream] == label]
    for epoch in own[: len(own) // count * count].reshape(-1, count):
      assert set(epoch) == set(np.flatnonzero(source.labels == label))


def test_a_balance_without_classes_is_refused():
  with pytest.raises(ValueError, match="classes are known without reading"):
    loader(8, 4, balance="class")
  with pytest.raises(ValueError, match=r"loader\.balance is 'clas'.*'class'"):
    loader(8, 4, balance="clas")


# --- Processes, threads, resumed runs ---


@pytest.mark.parametrize("balance", ["", "class"])
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("threads", [1, 5])
def test_neither_processes_nor_threads_change_a_batch(
  balance, processes, threads
):
  source = Noisy({"i": i} for i in range(13))
  source.labels = np.arange(13) % 2
  make = lambda: _loader.Shuffled(source, ("i", "noise"), 8, 3, balance)  # noqa: E731
  whole = make().rows(5)
  with _ahead.threads(threads) as run:
    shares = [make().rows(5, p, processes, run) for p in range(processes)]
  assert {len(share["i"]) for share in shares} == {8 // processes}
  for key in whole:
    found = np.concatenate([share[key] for share in shares])
    np.testing.assert_array_equal(found, whole[key])


def test_what_is_random_is_another_in_every_epoch():
  source = Noisy({"i": i} for i in range(4))
  shuffled = _loader.Shuffled(source, ("i", "noise"), 4, 0)
  noise = np.concatenate([shuffled.rows(s)["noise"] for s in range(3)])
  assert len(np.unique(noise)) == noise.size


def fed(steps, **options):
  """What training is fed: {step: (examples, noise)}."""
  source = Noisy({"i": i} for i in range(11))
  task = toy.make_task(toy.get_config().to_dict())
  task = task._replace(source=source, inputs=("i", "noise"))
  options = feed.Loader(**options)
  with feed.feed(task, toy.one_device(), 4, 0, steps, options) as batches:
    rows = [{k: np.asarray(v) for k, v in b.items()} for b in batches]
  return dict(zip(steps, rows, strict=True))


@pytest.mark.parametrize(
  "options", [{"threads": 1}, {"threads": 4, "ahead": 5}]
)
def test_a_resumed_run_is_fed_what_an_unbroken_one_is(options):
  whole = fed(range(7))
  for step, rows in fed(range(3, 7), **options).items():
    for key, value in rows.items():
      np.testing.assert_array_equal(value, whole[step][key])


def test_batches_lie_on_the_devices_before_they_are_asked_for(monkeypatch):
  """The next ones are split over eight devices while this one is in use."""
  task = toy.make_task(toy.get_config().to_dict())
  place, allowed = layout.place_batch, threading.Semaphore(0)

  def placed(rows, mesh):
    batch = place(rows, mesh)
    allowed.release()
    return batch

  monkeypatch.setattr(layout, "place_batch", placed)
  options = layout.make_mesh(), 8, 0, range(5), feed.Loader(ahead=3)
  with feed.feed(task, *options) as batches:
    for _ in range(3):
      assert allowed.acquire(timeout=10)
    first = next(batches)
  assert first["x"].shape == (8, 3) and not first["x"].is_fully_replicated
  assert {s.data.shape for s in first["x"].addressable_shards} == {(1, 3)}


def test_rows_belong_together():
  rows = loader(10, 4).rows(1)
  assert rows["word"] == [f"w{i}" for i in rows["i"]]


def test_a_wrong_number_of_threads_is_said():
  with pytest.raises(ValueError, match=r"loader\.threads is -1; 0 or more"):
    feed.Loader(threads=-1)
  with pytest.raises(ValueError, match=r"loader\.ahead is 0; 1 or more"):
    feed.Loader(ahead=0)


# --- Ahead ---


def test_results_are_made_ahead_but_no_further():
  made, allowed = [], threading.Semaphore(0)

  def make(number):
    made.append(number)
    allowed.release()
    return number

  with _ahead.Ahead(make, range(10), 3) as results:
    for _ in range(3):
      assert allowed.acquire(timeout=10)
    time.sleep(0.02)
    assert sorted(made) == [0, 1, 2]
    assert next(results) == 0
    assert allowed.acquire(timeout=10)
    assert list(results) == list(range(1, 10))
  assert sorted(made) == list(range(10))


class Clock:
  """Time that passes only when somebody says so."""

  def __init__(self):
    self.now, self.asked = 100.0, threading.Semaphore(0)

  def perf_counter(self):
    now = self.now
    self.asked.release()
    return now


def test_waiting_is_measured(monkeypatch):
  """The second result takes seven seconds from when it is asked for."""
  clock, made = Clock(), threading.Event()
  monkeypatch.setattr(_ahead, "time", clock)

  def make(number):
    if number == 1:
      for _ in range(3):  # Twice for the first result, and now again.
        assert clock.asked.acquire(timeout=10)
      clock.now += 7
    if number == 2:
      made.set()

  with _ahead.Ahead(make, range(3)) as results:
    next(results)
    assert results.waited == 0
    next(results)
    assert results.waited == 7
    assert made.wait(10)
    next(results)
    assert results.waited == 0


def test_an_error_in_a_thread_is_raised_where_its_result_is_asked_for():
  with _ahead.Ahead(lambda n: 1 // (n - 1), range(4)) as results:
    assert next(results) == -1
    with pytest.raises(ZeroDivisionError):
      next(results)
  assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


# --- Waiting for data ---


@pytest.fixture
def timed(monkeypatch):
  """(read, step) -> arguments of `throughput`, where time is what is said.

  A batch takes `read` seconds, over the number of threads, and is not begun
  before it is asked for; an update takes `step` seconds.
  """
  clock, used = Clock(), []

  @contextlib.contextmanager
  def threads(count):
    used.append(count)
    yield map

  def make(read, step):
    class Ahead:
      def __init__(self, make, numbers, ahead):
        self.results, self.waited = map(make, numbers), read / used[-1]

      def __enter__(self):
        return self

      def __exit__(self, *_):
        pass

      def __next__(self):
        clock.now += self.waited
        return next(self.results)

    def spend(x):
      clock.now += step
      return x

    def update(state, batch, key):
      state, metrics = task.update(state, batch, key)
      loss = jax.pure_callback(spend, metrics["loss"], metrics["loss"])
      return state, {**metrics, "loss": loss}

    monkeypatch.setattr(_ahead, "Ahead", Ahead)
    config = toy.get_config().to_dict() | {"batch": 2, "loader": {"threads": 4}}
    task = toy.make_task(config)
    return config, task._replace(update=update), toy.one_device()

  monkeypatch.setattr(_ahead, "threads", threads)
  monkeypatch.setattr(throughput, "time", clock)
  monkeypatch.setattr(throughput, "SECONDS", 20.0)
  return make


def test_the_share_of_time_that_training_waits(timed):
  """Two images in 3 seconds by one thread; an update of 1 second."""
  assert throughput.measure(*timed(3.0, 1.0)) == pytest.approx(
    {
      "read_per_second_per_core": 2 / 3,
      "read_per_second": 4 * 2 / 3,
      "threads": 4,
      "train_step_seconds": 1.75,
      "data_wait_share": 0.75 / 1.75,
    }
  )


def test_training_that_has_all_its_data_waits_for_none(timed):
  found = throughput.waiting(*timed(0.0, 2.0), feed.Loader(threads=4))
  assert found == {"train_step_seconds": 2.0, "data_wait_share": 0.0}


# --- Padding ---


@pytest.mark.parametrize("count", [1, 4, 7, 8, 9])
@pytest.mark.parametrize("limit", [None, 5, 100])
def test_padded_covers_every_example_once(count, limit):
  seen = collections.Counter()
  for rows in _loader.padded(numbers(count), ("i", "word"), 4, limit):
    assert len(rows["i"]) == len(rows["word"]) == len(rows["mask"]) == 4
    seen.update(rows["i"][rows["mask"]].tolist())
  assert list(seen) == list(range(min(count, limit or count)))
  assert set(seen.values()) == {1}
