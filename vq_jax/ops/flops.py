"""Floating-point operations of a function, counted from its shapes.

Compilers count the body of a loop once, and what fusing has left; here every
turn counts, and what the function asks for.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params


class Unbounded(ValueError):
  """A loop ends when its values say so, not after a number of turns."""


def count(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
  """Operations of the matrix products and convolutions of fn(*args, **kwargs).

  A multiplication and its addition are two. Nothing is computed: arguments may
  be shapes (`jax.ShapeDtypeStruct`). Of a choice the dearer branch counts.

  Raises:
    Unbounded: there are products in a loop that ends when its values say so.
  """
  return _jaxpr(jax.make_jaxpr(fn)(*args, **kwargs).jaxpr)


def _jaxpr(jaxpr: Jaxpr) -> int:
  return sum(map(_equation, jaxpr.eqns))


def _equation(equation: JaxprEqn) -> int:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (summed, _), _ = params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * _size(equation) * math.prod(shape[i] for i in summed)
  if name == "conv_general_dilated":
    numbers = params["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    return (
      2 * _size(equation) * math.prod(kernel[i] for i in numbers.rhs_spec[1:])
    )
  inner = [_jaxpr(jaxpr) for jaxpr in jaxprs_in_params(params)]
  if name == "cond":
    return max(inner)
  if name == "while" and any(inner):
    raise Unbounded("A loop has no number of turns that shapes tell.")
  return params.get("length", 1) * sum(inner)


def _size(equation: JaxprEqn) -> int:
  return math.prod(equation.outvars[0].aval.shape)
