"""Layers as their authors define them, in float64 and one image at a time."""

import functools

import numpy as np


def conv(x, weight, stride=1, pad=(0, 0)):
  """x [h w c] under an official weight [out in kh kw]."""
  x = np.pad(x, ((pad[0],) * 2, (pad[1],) * 2, (0, 0)))
  weight = weight.astype(np.float64)
  windows = np.lib.stride_tricks.sliding_window_view(
    x, weight.shape[2:], axis=(0, 1)
  )
  return np.tensordot(
    windows[::stride, ::stride], weight, ((2, 3, 4), (1, 2, 3))
  )


def windows(x, size, stride, pad, fill):
  """The pixels of x [h w c] at each place of a square window."""
  pads = ((pad, pad), (pad, pad), (0, 0))
  x = np.pad(x, pads, constant_values=fill)
  h, w = (n - size + 1 for n in x.shape[:2])
  for i in range(size):
    for j in range(size):
      yield x[i : i + h : stride, j : j + w : stride]


def max_pool(x, size, stride, pad=0):
  return functools.reduce(np.maximum, windows(x, size, stride, pad, -np.inf))


def mean_pool(x, size):
  """As many places as pixels; the padding is not counted."""
  ones = np.ones_like(x[..., :1])
  total, count = (sum(windows(y, size, 1, size // 2, 0.0)) for y in (x, ones))
  return total / count


def layer_norm(x, state, name):
  gap = x - x.mean(-1, keepdims=True)
  unit = gap / np.sqrt(np.square(gap).mean(-1, keepdims=True) + 1e-5)
  return unit * state[f"{name}.weight"] + state[f"{name}.bias"]
