"""A directory is a registry; a config section is a constructor call."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any


def available(kind: str) -> list[str]:
  """The plug-ins of one kind: the public modules of that directory."""
  package = importlib.import_module(f"vq_jax.{kind}")
  names = (module.name for module in pkgutil.iter_modules(package.__path__))
  return sorted(name for name in names if not name.startswith("_"))


def resolve(kind: str, name: str) -> ModuleType:
  """The module `vq_jax.<kind>.<name>`; ValueError lists the choices."""
  if name not in available(kind):
    raise ValueError(unknown(name, available(kind), f"There is no {kind}"))
  return importlib.import_module(f"vq_jax.{kind}.{name}")


def unknown(name: str, legal: Iterable[str], what: str) -> str:
  """One sentence about a name that is not among the legal ones."""
  legal = sorted(legal)
  near = difflib.get_close_matches(name, legal, n=1, cutoff=0.6)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  return f"{what} {name!r}.{hint} Choices: {', '.join(legal)}."


def call(
    function: Callable[..., Any],
    section: Mapping[str, Any],
    where: str,
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
  """function(*args, **section, **kwargs), after a check of the section's keys.

  Args:
    function: a constructor or function whose parameters are the legal keys.
    section: the config section, without `name`.
    where: how the user calls that section, such as "config.prior".
    *args: positional arguments that do not come from the config.
    **kwargs: keyword arguments that do not come from the config.

  Returns:
    What `function` returns.

  Raises:
    ValueError: a key that `function` does not take, with the nearest legal one,
      or a required key that is missing.
  """
  parameters = inspect.signature(function).parameters
  legal = set(parameters) - {"parent", "name", *kwargs}
  for key in section:
    if key not in legal:
      raise ValueError(unknown(key, legal, f"{where} has no key"))
  try:
    inspect.signature(function).bind(*args, **section, **kwargs)
  except TypeError as error:
    raise ValueError(f"{where}: {error}.") from error
  return function(*args, **section, **kwargs)


def build(
    kind: str, attribute: str, section: Mapping[str, Any], **kwargs: Any
) -> Any:
  """`section["name"]` picks the file; every other key is an argument.

  build("priors", "Prior", {"name": "absorbing", "vocab_size": 512}) is
  vq_jax.priors.absorbing.Prior(vocab_size=512).
  """
  section = dict(section)
  where = f"config.{attribute.lower()}"
  if "name" not in section:
    raise ValueError(
        f"{where} needs a name. Choices: {', '.join(available(kind))}."
    )
  module = resolve(kind, section.pop("name"))
  return call(getattr(module, attribute), section, where, **kwargs)
