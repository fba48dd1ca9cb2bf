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


def check(
  function: Callable[..., Any],
  section: Mapping[str, Any],
  where: str,
  given: Iterable[str] = (),
) -> None:
  """Refuses keys of a config section that `function` does not take.

  Args:
    function: a constructor or function whose parameters are the legal keys.
    section: the config section, without `name`.
    where: how the user calls that section, such as "config.prior".
    given: parameters that do not come from the config.

  Raises:
    ValueError: an unknown key, with the nearest legal one, or a missing one.
  """
  parameters = inspect.signature(function).parameters
  # Linen modules take `parent` and `name`, which no config may set.
  legal = {
    name: parameter
    for name, parameter in parameters.items()
    if name not in {"parent", "name", *given}
    and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
  }
  for key in section:
    if key not in legal:
      raise ValueError(unknown(key, legal, f"{where} has no key"))
  for key, parameter in legal.items():
    if parameter.default is parameter.empty and key not in section:
      raise ValueError(f"{where} needs the key {key!r}.")


def call(
  function: Callable[..., Any],
  section: Mapping[str, Any],
  where: str,
  /,
  *args: Any,
) -> Any:
  """function(*args, **section), after `check`; args come first, by position.

  Lists become tuples, since a config read back from JSON has no tuples.
  """
  parameters = list(inspect.signature(function).parameters)
  check(function, section, where, given=parameters[: len(args)])
  return function(
    *args,
    **{
      key: tuple(value) if isinstance(value, list) else value
      for key, value in section.items()
    },
  )


def build(
  kind: str,
  attribute: str,
  section: Mapping[str, Any],
  where: str,
  /,
  *args: Any,
) -> Any:
  """`section["name"]` picks the file; every other key is an argument.

  build("priors", "Prior", {"name": "absorbing", "vocab_size": 512},
  "config.prior") is vq_jax.priors.absorbing.Prior(vocab_size=512).

  Raises:
    ValueError: no name, an unknown name, or a key that is not an argument.
  """
  section = dict(section)
  if "name" not in section:
    choices = ", ".join(available(kind))
    raise ValueError(f"{where} needs a name. Choices: {choices}.")
  module = resolve(kind, section.pop("name"))
  if not hasattr(module, attribute):
    raise ValueError(f"{module.__name__} cannot be used as {where}.")
  return call(getattr(module, attribute), section, where, *args)
