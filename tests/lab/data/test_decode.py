import io

import numpy as np
import pytest
import torch
from PIL import Image

from convprior.errors import InputError
from convprior.lab.data.decode import Format, decode


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def drawn(mode: str, size=(5, 4)) -> Image.Image:
    rgb = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(rgb).convert(mode)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("1", 1)])
def test_grey_rgb_and_palette_are_read_as_stored(mode, channels):
    image = drawn(mode)
    pixels = decode(encoded(image), "a.png", Format())
    wanted = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(4, 5, channels)
    assert np.array_equal(pixels.numpy(), wanted)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_other_modes_are_refused_with_the_fix(mode):
    image = drawn("L").convert("I").convert("I;16") if mode == "I;16" else drawn(mode)
    with pytest.raises(InputError, match=rf"a.png is stored in mode {mode}.* channels = 3"):
        decode(encoded(image), "a.png", Format())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_channels_converts_every_mode(mode, channels):
    image = drawn(mode)
    data = encoded(image, "TIFF") if mode == "CMYK" else encoded(image)
    pixels = decode(data, "a.png", Format(channels=channels))
    wanted = image.convert("RGB" if mode == "CMYK" else mode).convert(
        "L" if channels == 1 else "RGB"
    )
    assert np.array_equal(pixels.numpy(), np.asarray(wanted).reshape(4, 5, channels))


def test_sixteen_bits_keep_the_upper_eight():
    deep = np.array([[0, 255, 256], [32768, 65280, 65535]], dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(deep)), "a.png", Format(channels=1))
    assert pixels[:, :, 0].tolist() == [[0, 0, 1], [128, 255, 255]]


def test_image_size_resizes_the_shorter_side_and_cuts_the_center():
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (12, 1))
    pixels = decode(ramp, "ramp", Format(image_size=6))
    assert pixels.shape == (6, 6, 1)
    # Columns 6..17 of the ramp, averaged in pairs by the antialiased filter.
    wanted = torch.arange(65.0, 185.0, 20.0)
    assert (pixels[2, :, 0].float() - wanted).abs().max() <= 1


def test_an_image_of_the_wanted_size_is_untouched():
    square = np.arange(36, dtype=np.uint8).reshape(6, 6)
    assert np.array_equal(decode(square, "a", Format(image_size=6))[:, :, 0].numpy(), square)
    larger = decode(square, "a", Format(image_size=9))
    assert larger.shape == (9, 9, 1)


def test_a_camera_held_sideways_is_turned_upright():
    image = drawn("RGB", (5, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode(encoded(image, exif=exif), "a.png", Format())
    assert np.array_equal(pixels.numpy(), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_corrupt_image_is_named(damage):
    whole = encoded(drawn("RGB", (50, 40)))
    data = {"truncated": whole[: len(whole) // 2], "text": b"no image", "empty": b""}[damage]
    with pytest.raises(InputError, match=r"cat/7\.png is not a whole image"):
        decode(data, "cat/7.png", Format())


def test_a_wrong_number_of_channels_in_an_array_is_named():
    with pytest.raises(InputError, match="image 3 has 2 channels"):
        decode(np.zeros((4, 4, 2), dtype=np.uint8), "image 3", Format())
