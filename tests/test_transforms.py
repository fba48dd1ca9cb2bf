"""What is decoded, and which part of it is shown."""

import io
import json
import struct
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from configs import emoji32_vqgan
from vq_jax.data import _transforms
from vq_jax.data._transforms import Transform, decode, randomness
from vq_jax.train import vqgan


def encoded(image, kind="PNG", **options):
  if not isinstance(image, Image.Image):
    image = Image.fromarray(image)
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def middle(data, size):
  return Transform(size)(decode(data, size))


def noise(h, w, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (h, w, 3)).astype(np.uint8)


@pytest.mark.parametrize(
  ("mode", "color", "kind", "expected"),
  [
    ("L", 90, "PNG", (90, 90, 90)),
    ("L", 90, "JPEG", (90, 90, 90)),
    ("1", 1, "PNG", (255, 255, 255)),
    ("RGBA", (200, 30, 60, 0), "PNG", (255, 255, 255)),
    ("RGBA", (200, 30, 60, 255), "PNG", (200, 30, 60)),
    ("LA", (0, 0), "PNG", (255, 255, 255)),
    ("I;16", 90 * 257, "PNG", (90, 90, 90)),
    ("I;16", 90 * 257, "TIFF", (90, 90, 90)),
    ("P", 0, "PNG", (0, 0, 0)),
    ("P", 0, "GIF", (0, 0, 0)),
    ("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0)),
    ("CMYK", (0, 0, 0, 0), "JPEG", (255, 255, 255)),
    ("RGB", (200, 30, 60), "WEBP", (200, 30, 60)),
  ],
)
def test_every_kind_of_pixel_is_rgb_on_white(mode, color, kind, expected):
  options = {"lossless": True} if kind == "WEBP" else {}
  image = middle(encoded(Image.new(mode, (12, 8), color), kind, **options), 4)
  assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
  np.testing.assert_array_equal(image, np.broadcast_to(expected, (4, 4, 3)))


def test_a_transparent_colour_of_a_palette_is_white():
  image = Image.new("P", (8, 8), 1)
  image.putpalette([10, 20, 30, 40, 50, 60])
  data = encoded(image, transparency=1)
  np.testing.assert_array_equal(middle(data, 4), np.full((4, 4, 3), 255))


def test_sixteen_bits_of_colour():
  """Pillow writes none, so the file is made by hand: one row of two pixels."""

  def chunk(name, body):
    tail = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + tail

  row = b"\0" + struct.pack(">6H", 65535, 0, 257 * 7, 65535, 0, 257 * 7)
  data = b"\x89PNG\r\n\x1a\n" + chunk(
    b"IHDR", struct.pack(">2I5B", 2, 1, 16, 2, 0, 0, 0)
  )
  data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
  np.testing.assert_array_equal(middle(data, 1), [[[255, 0, 7]]])


def test_cameras_that_lay_on_their_side():
  """EXIF orientation 6 is a quarter turn clockwise to be upright."""
  array = np.zeros((8, 8, 3), np.uint8)
  array[:4] = 255  # The top, which turns to the right.
  exif = Image.Exif()
  exif[0x0112] = 6
  upright = np.zeros((8, 8, 3), np.uint8)
  upright[:, 4:] = 255
  for kind in ("PNG", "JPEG"):
    shown = middle(encoded(array, kind, exif=exif), 8).astype(int)
    assert np.abs(shown - upright).max() < 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_a_damaged_orientation_costs_no_picture():
  array = np.full((8, 8, 3), 77, np.uint8)
  for kind in ("PNG", "JPEG"):
    for exif in (b"Exif\0\0torn", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\1"):
      shown = middle(encoded(array, kind, exif=exif), 8)
      np.testing.assert_array_equal(shown, array)


def test_a_program_is_no_picture():
  """Encapsulated PostScript, which an interpreter would have to run."""
  data = encoded(Image.new("RGB", (8, 8)), "EPS")
  with pytest.raises(Image.UnidentifiedImageError):
    decode(data, 8)


def test_one_pixel():
  image = middle(encoded(np.full((1, 1, 3), 77, np.uint8)), 16)
  np.testing.assert_array_equal(image, np.full((16, 16, 3), 77))
  for seed in range(5):
    shown = Transform(16, crop="random_resized")(
      decode(encoded(np.full((1, 1, 3), 77, np.uint8)), 16), randomness(0, seed)
    )
    np.testing.assert_array_equal(shown, image)


def huge_jpeg(side):
  """A grey ramp from left to right: one row of blocks, told side / 8 times."""
  ramp = np.linspace(0, 255, side).astype(np.uint8)
  strip = np.broadcast_to(ramp, (8, side))
  data = encoded(strip, "JPEG", quality=90, restart_marker_rows=1)
  frame = data.index(b"\xff\xc0")
  data = data[: frame + 5] + struct.pack(">H", side) + data[frame + 7 :]
  scan = data.index(b"\xff\xda")
  scan += 2 + struct.unpack(">H", data[scan + 2 : scan + 4])[0]
  head, rows = data[:scan], data[scan:-2]
  marks = (
    b"" if not k else bytes((0xFF, 0xD0 + (k - 1) % 8))
    for k in range(side // 8)
  )
  return head + b"".join(mark + rows for mark in marks) + b"\xff\xd9"


def test_twenty_thousand_pixels_a_side():
  """A JPEG is read at an eighth; another file is refused by its header."""
  data = huge_jpeg(20_000)
  assert _transforms.stored_size(data) == (20_000, 20_000)
  image = decode(data, 64)
  assert image.size == (2500, 2500)
  shown = Transform(64)(image)[..., 0].astype(int)
  expected = (np.arange(64) + 0.5) * 255 / 64
  assert np.abs(shown - expected).max() < 4
  with pytest.raises(ValueError, match="20000 x 20000 pixels, more than"):
    decode(data, 10_001)  # An eighth would be too small, all of it too large.
  for side in (20_000, 9_000):
    data = bytearray(encoded(noise(2, 2)))
    data[16:24] = struct.pack(">2I", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(Exception, match="pixels"):
      decode(bytes(data), 64)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_half_a_file_is_an_error(kind):
  data = encoded(noise(64, 64), kind)
  for part in (b"", data[:20], data[: len(data) // 2]):
    with pytest.raises(Exception):  # noqa: B017
      decode(part, 8)


def test_the_middle_is_cut_out_of_the_scaled_picture():
  """Of 12 x 6 the middle 6 x 6, by block means, whichever side is longer."""
  smooth = np.array(
    Image.fromarray(noise(6, 12)).resize((120, 60)).resize((12, 6))
  )
  for array in (smooth, smooth.transpose(1, 0, 2)):
    data = encoded(np.ascontiguousarray(array))
    cut = array[:, 3:9] if array.shape[1] == 12 else array[3:9]
    np.testing.assert_array_equal(middle(data, 6), cut)
    means = cut.reshape(2, 3, 2, 3, 3).mean((1, 3))
    assert np.abs(middle(data, 2) - means).max() < 20
  assert middle(data, 24).shape == (24, 24, 3)


@pytest.mark.parametrize("resample", _transforms.RESAMPLE)
def test_a_box_is_scaled_as_the_whole_picture_would_be(resample):
  """The papers scale the shorter side, then cut; edges included."""
  image = Image.fromarray(noise(40, 60))
  whole = image.resize((30, 20), _transforms.RESAMPLE[resample])
  shown = Transform(20, resample=resample)(image)
  np.testing.assert_array_equal(shown, np.asarray(whole)[:, 5:25])


def test_a_thread_is_no_memory():
  """What is far longer than wide is never scaled up whole."""
  image = Image.fromarray(noise(30_000, 1))
  for crop in _transforms.CROPS:
    shown = Transform(64, crop=crop)(image, randomness(0, 0))
    assert shown.shape == (64, 64, 3)


def boxes(transform, w, h, count=2000):
  crop = _transforms.CROPS[transform.crop]
  found = [crop(transform, w, h, randomness(0, i)) for i in range(count)]
  left, top, right, bottom = np.array(found).T
  assert left.min() >= 0 and top.min() >= 0
  assert right.max() <= w and bottom.max() <= h
  return left, top, right - left, bottom - top


def test_random_crops_are_those_of_vq_diffusion():
  """A square at 3/8 to 5/8 of the excess, then 1 to 9/8 times the size."""
  transform = Transform(
    256, crop="random", offset=(3 / 8, 5 / 8), zoom=(1.0, 9 / 8)
  )
  left, top, w, h = boxes(transform, 500, 300)
  np.testing.assert_allclose(w, h)
  assert 300 * 8 / 9 <= w.min() < 268 and 299 < w.max() <= 300
  assert 200 * 3 / 8 <= left.min() < 78
  assert 200 * 5 / 8 + 25 < (left + w - 300).max() + 33.4 < 200 * 5 / 8 + 33.4
  assert (
    abs((left + w / 2).mean() - 250) < 2 and abs((top + h / 2).mean() - 150) < 1
  )


def test_random_crops_reach_the_edges():
  left, top, w, _ = boxes(Transform(8, crop="random"), 300, 100)
  np.testing.assert_allclose(w, 100)
  np.testing.assert_allclose(top, 0)
  assert left.min() < 2 and left.max() > 198
  assert abs(left.mean() - 100) < 5  # Uniform: 58 / sqrt(2000) = 1.3.


def test_random_resized_crops_have_the_asked_area_and_shape():
  transform = Transform(8, crop="random_resized", area=(0.2, 0.5))
  left, _, w, h = boxes(transform, 300, 300)
  share, ratio = w * h / 300**2, w / h
  assert 0.2 <= share.min() < 0.21 and 0.49 < share.max() <= 0.5
  assert 0.75 <= ratio.min() < 0.76 and 1.32 < ratio.max() <= 4 / 3
  assert abs(share.mean() - 0.35) < 0.01  # Uniform in area,
  assert abs(np.log(ratio).mean()) < 0.02  # and in the logarithm of shape.
  assert left.min() < 5
  # Nothing of that shape fits into a line.
  _, _, w, h = boxes(transform, 300, 1, count=5)
  np.testing.assert_array_equal((w, h), np.ones((2, 5)))


def test_config_flip_mirrors_half_of_the_images_and_changes_nothing_else(key):
  images = jax.numpy.arange(400 * 2 * 3).reshape(400, 2, 3, 1)
  shown = vqgan.flip(key, images)
  mirrored = (shown == images[:, :, ::-1]).all((1, 2, 3))
  plain = (shown == images).all((1, 2, 3))
  assert (mirrored ^ plain).all()
  assert abs(int(mirrored.sum()) - 200) < 4 * 400**0.5 / 2
  again = vqgan.flip(key, images)
  np.testing.assert_array_equal(shown, again)


def test_mirrors_have_one_definition():
  """Views that are tokenized get theirs from config.tokenize.mirror."""
  with pytest.raises(ValueError, match="transform has no key 'flip'"):
    _transforms.make(8, dict(flip=True))


def test_images_of_another_size_than_the_tokenizers_are_refused():
  config = json.loads(emoji32_vqgan.get_config("smoke").to_json())
  config["data"]["size"] = 8
  with pytest.raises(ValueError, match=r"8 x 8 pixels, .*image_size is 16"):
    vqgan.make_task(config)


def test_what_is_drawn_depends_on_seed_and_position_alone():
  image = Image.fromarray(noise(50, 70))
  transform = _transforms.make(8, dict(crop="random", zoom=[1.0, 2.0]))
  draw = lambda *where: transform(image, randomness(*where))  # noqa: E731
  np.testing.assert_array_equal(draw(1, 2), draw(1, 2))
  for other in ((1, 3), (2, 2), (2, 1)):
    assert not np.array_equal(draw(1, 2), draw(*other))
  center = Transform(8)(image)
  np.testing.assert_array_equal(transform(image), center)


@pytest.mark.parametrize(
  ("section", "told"),
  [
    (dict(crop="rand"), r"no crop 'rand'.*center, random"),
    (dict(resample="cubic"), r"Did you mean 'bicubic'"),
    (dict(zoom=[0.5, 1.0]), r"transform.zoom is \(0.5, 1.0\); .* 1.0 and 16"),
    (dict(area=[0.5, 0.1]), r"transform.area .* goes up"),
    (dict(crops="random"), r"transform has no key 'crops'.*'crop'"),
  ],
)
def test_a_wrong_setting_is_one_sentence(section, told):
  with pytest.raises(ValueError, match=told):
    _transforms.make(8, section)
  with pytest.raises(ValueError, match="size is 0; it counts pixels"):
    _transforms.make(0, {})
