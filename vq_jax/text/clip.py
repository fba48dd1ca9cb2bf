"""CLIP's text tower, frozen: what VQ-Diffusion's captions pass through.

arXiv:2103.00020, section 2.4; used as arXiv:2111.14822, section 3 uses it: one
feature vector per token from behind the last norm, without the projection that
CLIP compares with pictures, each of unit length. Nothing marks the padding: its
features are those of the pad token, so the pad id is part of the model.
"""

import functools
import gzip
import html
import pathlib
from collections.abc import Sequence
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import weights as store
from vq_jax.ops.attention import attend
from vq_jax.types import Array, Params

FROZEN = True
FILES = ("weights", "merges")  # Fields that name files.

SOURCE = "Hugging Face openai/clip-vit-base-patch32"
BYTES = 256
MARKS = ("<|startoftext|>", "<|endoftext|>")  # The last two ids.
# English contractions, runs of letters, single digits, runs of anything else.
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
NORMAL = nn.initializers.normal(0.02)


class Encoder(nn.Module):
  """Captions -> features [b m d]; the defaults are those of ViT-B/32.

  Attributes:
    weights: a safetensors file in our layout, written by convert/clip.py.
    merges: the list of byte pair merges, text or gzipped text: merges.txt of
      Hugging Face or bpe_simple_vocab_16e6.txt.gz of OpenAI.
    length: m, tokens of a caption with its start and end.
    dim: d, features of a token.
    layers: transformer blocks.
    heads: attention heads, a divisor of `dim`.
    vocab_size: ids; the last two are start and end.
    pad: the id behind the end. VQ-Diffusion pads with 0.
    normalize: features have unit length.
    dtype: what is computed in, norms and softmax apart; features are float32.
      VQ-Diffusion was trained on features computed in float16.
  """

  weights: str
  merges: str
  length: int = 77
  dim: int = 512
  layers: int = 12
  heads: int = 8
  vocab_size: int = 49408
  pad: int = 0
  normalize: bool = True
  dtype: Any = "float32"

  @nn.nowrap
  def words(self, captions: Sequence[str]) -> np.ndarray:
    """Captions -> ids int32 [b m]: start, byte pairs, end, padding.

    A caption that is too long loses its last words, never its end.

    Raises:
      FileNotFoundError: there is no file of merges.
      ValueError: the libraries of the extra `text` are not installed, or the
        merges do not fit `vocab_size`.
    """
    encode = _encoder(self.merges, self.vocab_size)
    ids = np.full((len(captions), self.length), self.pad, np.int32)
    start, end = self.vocab_size - 2, self.vocab_size - 1
    for row, caption in zip(ids, captions, strict=True):
      words = [start, *encode(caption)[: self.length - 2], end]
      row[: len(words)] = words
    return ids

  @nn.compact
  def __call__(self, words: Array) -> Array:
    """Ids [b m] -> features [b m d], float32.

    Raises:
      ValueError: the captions are not `length` tokens long.
    """
    if words.shape[1:] != (self.length,):
      raise ValueError(f"words is {words.shape}, not [b {self.length}].")
    tokens = nn.Embed(
      self.vocab_size, self.dim, embedding_init=NORMAL, name="tokens"
    )
    places = self.param("positions", NORMAL, (self.length, self.dim))
    x = tokens(words).astype(self.dtype) + places.astype(self.dtype)
    x, _ = blocks(self.layers, self.heads, self.dtype)(x)
    # Rounded to the compute type, as the stream that it leaves.
    x = norm("norm")(x).astype(self.dtype).astype(jnp.float32)
    if self.normalize:
      x /= jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x


class Block(nn.Module):
  """Pre-norm residual block: self-attention, then an MLP.

  Attributes:
    heads: attention heads.
    dtype: what is computed in, norms and softmax apart.
    causal: a token sees none behind it.
  """

  heads: int
  dtype: Any
  causal: bool

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, None]:
    """[b m d] -> [b m d], and the None that a scan wants."""
    width = x.shape[-1]
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=NORMAL)
    y = norm("attention_norm")(x)
    qkv = (dense(width, name=name)(y) for name in ("query", "key", "value"))
    heads = functools.partial(
      einops.rearrange, pattern="b m (a d) -> b m a d", a=self.heads
    )
    y = attend(*map(heads, qkv), causal=self.causal)
    y = einops.rearrange(y, "b m a d -> b m (a d)")
    x += dense(width, name="out")(y)
    y = dense(4 * width, name="up")(norm("mlp_norm")(x))
    y *= jax.nn.sigmoid(1.702 * y)  # CLIP's approximate GELU.
    return x + dense(width, name="down")(y), None


def blocks(
  layers: int, heads: int, dtype: Any = "float32", causal: bool = True
) -> nn.Module:
  """`layers` blocks in a row, their weights stacked on axis 0."""
  scan = nn.scan(
    Block,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    length=layers,
  )
  return scan(heads, dtype, causal, name="blocks")


def load(encoder: Encoder) -> Params:
  """The weights that `encoder.weights` names, float32.

  Raises:
    FileNotFoundError: there is no such file; says which one to get.
    ValueError: the file is in a released layout, or does not fit the fields of
      the encoder; names every tensor that is missing, unknown or misshapen.
  """
  path = pathlib.Path(encoder.weights)
  if not path.is_file():
    raise FileNotFoundError(
      f"There are no CLIP weights at {path}: get model.safetensors of {SOURCE}"
      f" and convert it. {_recipe('model.safetensors', str(path))}"
    )
  tree, _ = store.load(path)
  found = store.flatten(tree)
  if any(name.endswith("token_embedding.weight") for name in found):
    target = str(path.with_name("clip_text.safetensors"))
    raise ValueError(
      f"{path} is in a released layout: convert it."
      f" {_recipe(str(path), target)}"
    )
  words = jax.ShapeDtypeStruct((1, encoder.length), jnp.int32)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), words)["params"]
  _check(found, store.flatten(shapes), path)
  return store.unflatten(
    {name: jnp.asarray(found[name], jnp.float32) for name in found}
  )


def _recipe(source: str, target: str) -> str:
  return (
    "In Python: from vq_jax import weights; from vq_jax.convert import clip;"
    f" weights.save({target!r}, clip.load({source!r})[1])."
  )


def _check(
  found: dict[str, Any], wanted: dict[str, Any], path: pathlib.Path
) -> None:
  """ValueError with every name or shape on which the two disagree."""
  found = {name: tuple(x.shape) for name, x in found.items()}
  wanted = {name: tuple(x.shape) for name, x in wanted.items()}
  faults = [f"lacks {name}" for name in sorted(wanted.keys() - found.keys())]
  faults += [
    f"has an unknown {name}" for name in sorted(found.keys() - wanted.keys())
  ]
  faults += [
    f"has {name} of shape {found[name]} where {wanted[name]} is needed"
    for name in sorted(found.keys() & wanted.keys())
    if found[name] != wanted[name]
  ]
  if faults:
    raise ValueError(f"{path} does not fit this encoder: {'; '.join(faults)}.")


def norm(name: str) -> nn.LayerNorm:
  """LayerNorm in float32, two-pass variance, eps 1e-5."""
  return nn.LayerNorm(
    epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name=name
  )


def _clean(caption: str) -> str:
  """What CLIP's tokenizer reads: mended Unicode, plain text, lower case.

  Escaped HTML is read twice, since captions from the web are often escaped
  twice; any white space counts as one blank.
  """
  import ftfy

  text = html.unescape(html.unescape(ftfy.fix_text(caption)))
  return " ".join(text.split()).lower()


@functools.lru_cache(maxsize=4)
def _encoder(merges: str, vocab_size: int):
  """caption -> ids, without start and end; built once a file of merges."""
  try:
    import ftfy  # noqa: F401
    import tokenizers
  except ImportError as error:
    raise ValueError(
      "CLIP's captions need two more libraries: pip install 'vq_jax[text]'."
    ) from error
  from tokenizers import models, pre_tokenizers

  # Sorting by code point puts printable bytes first, the order CLIP gives them.
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  pairs = _read_merges(merges, vocab_size - 2 * BYTES - len(MARKS))
  names = [*letters, *(letter + "</w>" for letter in letters)]
  names += [a + b for a, b in pairs] + list(MARKS)
  model = models.BPE(
    vocab={name: i for i, name in enumerate(names)},
    merges=pairs,
    end_of_word_suffix="</w>",
  )
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(PIECES), "removed", invert=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.add_special_tokens(list(MARKS))
  # One caption a call: a batch would start threads, which a later fork loses.
  return lambda caption: tokenizer.encode(_clean(caption)).ids


def _read_merges(path: str, count: int) -> list[tuple[str, str]]:
  """The first `count` merges of a file whose first line is its version."""
  file = pathlib.Path(path)
  if not file.is_file():
    raise FileNotFoundError(
      f"There is no list of merges at {file}: get merges.txt of {SOURCE}."
    )
  content = file.read_bytes()
  if content[:2] == b"\x1f\x8b":
    content = gzip.decompress(content)
  # Not splitlines: some merges hold characters that count as line ends there.
  lines = content.decode("utf-8").rstrip("\n").split("\n")[1:]
  pairs = [tuple(line.split(" ")) for line in lines[: max(count, 0)]]
  if count < 0 or len(pairs) < count or any(len(pair) != 2 for pair in pairs):
    raise ValueError(
      f"{file} holds {len(lines)} merges; this vocabulary needs {count}, one"
      " pair a line under a line with the version."
    )
  return pairs
