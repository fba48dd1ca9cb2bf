"""What the modes of `main` do, one function each: (config, workdir, mesh)."""

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh
from PIL import Image

from vq_jax import pictures, pipeline, plugins
from vq_jax.system import build_system
from vq_jax.train import (
  checkpoint,
  codes,
  feed,
  frozen,
  imported,
  layout,
  levels,
  loop,
  protocols,
  row,
  warm,
)
from vq_jax.train.log import Log
from vq_jax.train.request import Requests
from vq_jax.train.sampling import (
  ask,
  canvas,
  make_generator,
  make_paint,
  make_painter,
)
from vq_jax.types import Params

Config = Mapping[str, Any]
FRAMES = 12  # Of a film strip.
ACTORS = 8  # Images in a film strip.
SHOWN = 128  # Images in a sample grid,
COLUMNS = 16  # with as many in a row; fewer if they are wide.
SCALES = (0, 1, 3, 5)  # Of guidance, in a picture of it.


def stage(config: Config) -> Any:
  """The module that trains config.stage."""
  module = plugins.resolve("train", config["stage"])
  if not hasattr(module, "make_task"):
    raise ValueError(
      "config.stage is 'vqgan', 'given', 'likelihood', 'prior' or 'critic', not"
      f" {config['stage']!r}."
    )
  return module


def train(config: Config, workdir: pathlib.Path, mesh: Mesh) -> None:
  """Trains to config.steps, resuming if the directory holds a checkpoint."""
  task = stage(config).make_task(frozen.local_paths(config, workdir))
  layout.check_batch(config["batch"], mesh, "config.batch")
  loader = config.get("loader", {})
  loader = plugins.call(feed.Loader, loader, "config.loader")
  begun = any((workdir / "checkpoints").glob("[0-9]*"))
  if config["init_from"] and not begun:
    task = task._replace(warm=warm_start(config, mesh))
  checkpoint.claim(workdir, config)
  if config["stage"] == "prior":
    codes.adopt_tokenizer(config, workdir)
  frozen.adopt(config, workdir)
  store = open_store(config, workdir)
  if (store.latest() or 0) >= config["steps"]:
    print(f"{workdir} is trained to step {store.latest()}; nothing to do.")
    store.close()
    return
  log = Log(workdir)
  try:
    loop.fit(
      task,
      mesh,
      store,
      log,
      steps=config["steps"],
      batch=config["batch"],
      seed=config["seed"],
      every=config["every"],
      loader=loader,
    )
  finally:
    store.close()
    log.close()


def warm_start(config: Config, mesh: Mesh) -> Any:
  """Fresh weights -> those of config.init_from, read at once.

  That is the directory of a run, or of a part that was converted or exported.

  Raises:
    FileNotFoundError: there is no run or no checkpoint.
  """
  directory, tables = pathlib.Path(config["init_from"]).absolute(), ""
  old = imported.exported(directory)
  if old is None:
    source = checkpoint.read_config(directory)
    _, old = load(source, directory, mesh)
    old = jax.device_get(old)
    tables = warm.null_tables(source, config)
  return lambda fresh: warm.merge(old, fresh, str(directory), tables)


def open_store(config: Config, workdir: pathlib.Path) -> checkpoint.Store:
  """The run's checkpoints, kept as config.keep says."""
  options = config["keep"]
  given = ("self", "workdir", "config")
  plugins.check(checkpoint.Store.__init__, options, "config.keep", given)
  return checkpoint.Store(workdir, config, **options)


def load(config: Config, workdir: pathlib.Path, mesh: Mesh) -> tuple:
  """(step, averaged weights) of a trained run, on the mesh.

  A tokenizer that is given has its weights without a run, at step 0.

  Raises:
    ValueError: the run has another config.
    FileNotFoundError: there is no run or no checkpoint.
  """
  if config["stage"] == "given":
    return 0, stage(config).initial(config)(jax.random.key(0))
  checkpoint.differ(checkpoint.read_config(workdir), config, workdir)
  init = stage(config).initial(frozen.local_paths(config, workdir))
  abstract = jax.eval_shape(init, jax.random.key(0))
  store = open_store(config, workdir)
  loaded = store.weights(abstract, layout.layout(abstract, mesh))
  store.close()
  return loaded


def sample(config: Config, workdir: pathlib.Path, mesh: Mesh) -> None:
  """Writes samples/*.png, samples.png, film.png, guidance.png, samples.txt.

  The last two if there is a condition, and if the codes are characters.
  """
  if config["stage"] != "prior":
    raise ValueError(
      "Samples are drawn from a prior; this run is of config.stage ="
      f" {config['stage']!r}."
    )
  layout.check_batch(config["sample"]["batch"], mesh, "config.sample.batch")
  system = build_system(frozen.local_paths(config, workdir))
  prior = pipeline.build_prior(config["prior"])
  make_generator(config, system, prior)  # Refuses before weights are read.
  requests = Requests(config, system)
  step, params = load(config, workdir, mesh)
  config = levels.known(config, workdir, step, params)
  chain = make_generator(config, system, prior, "trajectory")
  params = params | frozen.load(system)
  images = make_painter(config, workdir, mesh, system, prior, params)
  paint = make_paint(workdir / "tokenizer", config, system)

  folder = workdir / "samples"
  folder.mkdir(exist_ok=True)
  for old in folder.glob("[0-9]" * 6 + ".png"):
    old.unlink()  # A folder that mixes two draws would be measured as one.
  shown, texts = [], []
  count, size = config["sample"]["count"], config["sample"]["batch"]
  for batch in images(requests, count):
    pixels = pipeline.to_uint8(batch["fake"])[batch["mask"]]
    for index, image in zip(batch["index"], pixels, strict=False):
      Image.fromarray(image).save(folder / f"{index:06d}.png")
    shown.extend(pixels[: max(SHOWN - len(shown), 0)])
    texts.extend(itertools.compress(batch.get("text", ()), batch["mask"]))
  if texts:
    lines = "".join(f"{text}\n" for text in texts)
    (workdir / "samples.txt").write_text(lines, encoding="utf-8")
  grid = canvas(config, system)
  page = np.stack(shown)
  columns = pictures.fitting(page, COLUMNS) * system.net.grid[1] // grid[1]
  sheet = pictures.grid(page, min(max(columns, 1), len(page)))
  save_picture(workdir / "samples.png", sheet)
  states = chain(params, *ask(requests, np.arange(size), mesh))
  states = np.asarray(states)[:ACTORS]
  picture = film(states, prior, grid, paint)
  save_picture(workdir / "film.png", picture)
  if system.net.labels or system.text:
    run = make_generator(config, system, prior)
    picture = guided(run, params, requests, size, paint)
    save_picture(workdir / "guidance.png", picture)
  print(f"{folder}: {count} images; pictures beside it in {workdir}")


def guided(run: Any, params: Params, requests: Any, size: int, paint: Any):
  """Rows of one request and one seed, columns of growing guidance."""
  rows = max(size // len(SCALES), 1)
  index = np.repeat(np.arange(rows), len(SCALES))
  scales = np.tile(np.array(SCALES, np.float32), rows)
  ids = run(params, index, requests(index), scales)
  names = [requests.name(i) for i in range(rows)]
  images = pipeline.to_uint8(paint(ids))
  return pictures.table(
    images, rows=names, columns=[f"s = {s}" for s in SCALES]
  )


def film(states: np.ndarray, prior: Any, grid: tuple, paint: Any):
  """States [b steps+1 n] -> rows of images, columns of time; masks are grey."""
  frames = np.linspace(0, states.shape[1] - 1, FRAMES).round().astype(int)
  states = states[:, frames]
  masked = states == prior.vocab_size
  # The decoder sees the final tokens behind the veil: any other would tint the
  # cells beside it.
  filled = np.where(masked, states[:, -1:], states)
  images = pipeline.to_uint8(paint(filled.reshape(-1, states.shape[-1])))
  veiled = pictures.veil(images, masked.reshape(-1, *grid))
  # Of images too wide for that, one is below the other.
  return pictures.grid(veiled, pictures.fitting(veiled, FRAMES))


def save_picture(path: pathlib.Path, picture: np.ndarray) -> None:
  """uint8 [h w c] -> a PNG file."""
  Image.fromarray(picture).save(path)


def evaluate(config: Config, workdir: pathlib.Path, mesh: Mesh) -> None:
  """Writes metrics.json of a run, and prints it.

  Raises:
    ValueError: a protocol is asked for, and the run draws no samples.
  """
  asked = config.get("evaluate", {}).get("protocol")
  if asked and config["stage"] != "prior":
    raise ValueError(
      "Protocols are of samples; this run is of config.stage ="
      f" {config['stage']!r}: leave config.evaluate.protocol empty."
    )
  config = protocols.applied(config)
  step, params = load(config, workdir, mesh)
  if config["stage"] == "prior":
    codes.adopt_tokenizer(config, workdir)
  local = frozen.local_paths(config, workdir)
  local = levels.known(local, workdir, step, params)
  numbers = stage(config).measure(local, workdir, mesh, params)
  row.write(workdir, {"step": step, **numbers})


def describe(config: Config, mesh: Mesh) -> None:
  """Prints the resolved config, parameters, mesh and where each array lives."""
  print(json.dumps(config, indent=2))
  task = stage(config).make_task(config)
  abstract = jax.eval_shape(task.init, jax.random.key(0))
  where = layout.layout(abstract, mesh)
  placed = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract.params,
    where.params,
  )
  print(
    parameter_overview.get_parameter_overview(placed, include_stats="sharding")
  )
  print(f"mesh: {dict(mesh.shape)} over {mesh.devices.size} devices")
