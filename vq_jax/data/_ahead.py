"""Reading while something else is computed: threads, and nothing that they do
changes what is read.

Pillow, NumPy and file reads let go of the interpreter, so that threads decode
on all cores. Of 500x375 JPEGs, scaled and cropped to 256x256 by Pillow on two
cores, a pool of two threads makes 462 a second; Grain 0.2.18 makes 214 with two
threads and 465 with two processes, on whose number its order depends, and whose
state would have to be saved. Where the order is computed, what is left to do is
one pool and one queue.
"""

import collections
import concurrent.futures
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

Run = Callable[..., Iterable[Any]]  # As `map`: results in the arguments' order.


@contextlib.contextmanager
def threads(count: int = 0) -> Iterator[Run]:
  """A `map` that calls from `count` threads at a time; 0 is one a core."""
  count = count or os.cpu_count() or 1
  with concurrent.futures.ThreadPoolExecutor(count, "read") as pool:
    yield pool.map


class Ahead:
  """make(n) for each n in turn, made in threads before it is asked for.

  Several are made at once: else those who read for one would have nothing to do
  while it is put together.

  Attributes:
    waited: seconds that the last result was waited for.
  """

  def __init__(
    self, make: Callable[[int], Any], numbers: Iterable[int], ahead: int = 2
  ):
    """ahead: results that may lie ready, or be under way, at any time."""
    self.waited = 0.0
    self._make, self._numbers = make, iter(numbers)
    self._pool = concurrent.futures.ThreadPoolExecutor(ahead, "ahead")
    self._queue: collections.deque = collections.deque()
    for _ in range(ahead):
      self._push()

  def __enter__(self) -> "Ahead":
    """Itself."""
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Ends the threads after what they are at; the rest is never made."""
    self._pool.shutdown(cancel_futures=True)

  def __iter__(self) -> "Ahead":
    """Itself."""
    return self

  def __next__(self) -> Any:
    """The next result, or the error that making it raised."""
    if not self._queue:
      raise StopIteration
    begin = time.perf_counter()
    result = self._queue.popleft().result()
    self.waited = time.perf_counter() - begin
    self._push()
    return result

  def _push(self) -> None:
    for number in self._numbers:
      self._queue.append(self._pool.submit(self._make, number))
      return
