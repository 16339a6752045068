"""From the bytes of an image file to uint8 pixels of the wanted size and channels."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from convprior._optional import require
from convprior.errors import InputError
from convprior.lab.data.source import Part, Pixels

_ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held; 1 is upright."""

_CHUNK = 256
"""Images in memory in encoded form at a time; bounds memory, and a thread pool is busy with it."""


@dataclass(frozen=True)
class Format:
    """The wanted form of every image; None: as stored, and then all images must agree."""

    image_size: int | None = None
    channels: int | None = None


def decode(payload: bytes | Pixels, where: str, wanted: Format) -> Tensor:
    """Decodes one image.

    A file with orientation in its EXIF data is turned upright. Palettes become RGB; with
    ``channels`` given, transparency is dropped, 16-bit grey keeps its upper 8 bits, grey is
    repeated for RGB, and RGB becomes grey by ITU-R 601 (0.299 R + 0.587 G + 0.114 B). With
    ``image_size`` the shorter side is resized to it (bilinear, antialiased) and the central
    square is cut out.

    Args:
        payload: an image file, or pixels (H, W) or (H, W, C).
        where: the image's name for messages.
        wanted: size and channels.

    Returns:
        (H, W, C) uint8, C = 1 or 3.

    Raises:
        InputError: the file is not a whole image, or its channels are neither grey nor RGB and
            ``channels`` is not given.
        MissingExtraError: the bytes need Pillow, which is not installed.
    """
    pixels = _open(payload, where, wanted) if isinstance(payload, bytes) else payload
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] not in (1, 3):
        raise InputError(
            f"{where} has {pixels.shape[2]} channels, but 1 (grey) or 3 (RGB) are read"
        )
    pixels = _with_channels(pixels, wanted.channels)
    image = torch.from_numpy(pixels)
    return image if wanted.image_size is None else _square(image, wanted.image_size)


def decode_rows(part: Part, rows: Sequence[int], wanted: Format) -> Iterator[Tensor]:
    """Yields the decoded images of ``rows``, read in the order given and decoded by threads.

    Raises:
        InputError: as :func:`decode`, or an image differs in shape from the first.
    """
    first: Tensor | None = None
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        each = pool.map if threads > 1 else map
        for begin in range(0, len(rows), _CHUNK):
            chunk = rows[begin : begin + _CHUNK]
            # Reading stays in one thread: a reader may keep a position or a buffer.
            payloads = [part.read(row) for row in chunk]
            names = [part.where(row) for row in chunk]
            images = each(decode, payloads, names, [wanted] * len(chunk))
            for image, name in zip(images, names, strict=True):
                first = image if first is None else first
                check_shape(image, name, first.shape, part.where(rows[0]))
                yield image


def check_shape(image: Tensor, where: str, wanted: torch.Size, first: str) -> None:
    """Checks that an image has the shape of the first one.

    Raises:
        InputError: it has not; names both images, both shapes and the fix.
    """
    if image.shape == wanted:
        return
    if image.shape[2] != wanted[2]:
        raise InputError(
            f"{where} has {_channels(image.shape[2])} but {first} has {_channels(wanted[2])}: set "
            "channels = 3 (or 1) to convert every image"
        )
    raise InputError(
        f"{where} is {image.shape[1]}x{image.shape[0]} pixels but {first} is "
        f"{wanted[1]}x{wanted[0]}: set image_size, for example image_size = "
        f"{min(*image.shape[:2], *wanted[:2])}, to bring every image to one size"
    )


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _open(payload: bytes, where: str, wanted: Format) -> Pixels:
    image_module = require("PIL.Image", "lab")
    operations = require("PIL.ImageOps", "lab")
    try:
        with image_module.open(io.BytesIO(payload)) as file:
            image = file
            if file.getexif().get(_ORIENTATION, 1) != 1:
                image = operations.exif_transpose(file)
            image.load()
    except Exception as error:  # Decoders raise what they like on broken files.
        raise InputError(f"{where} is not a whole image ({error}): replace or remove it") from error
    mode = image.mode
    if mode in ("L", "RGB"):
        return np.array(image)
    if mode == "1":
        return np.array(image.convert("L"))
    if mode == "P" and "transparency" not in image.info:
        return np.array(image.convert("RGB"))
    if wanted.channels is None:
        raise InputError(
            f"{where} is stored in mode {mode}, neither 8-bit grey (L) nor RGB: set channels = 3 "
            "(or 1) to convert every image"
        )
    if mode.startswith("I"):
        return (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
    if mode in ("LA", "La"):
        return np.array(image.convert("L"))
    if mode == "F":
        raise InputError(f"{where} holds floating-point pixels, which have no range: store 8 bits")
    return np.array(image.convert("RGB"))


def _with_channels(pixels: Pixels, channels: int | None) -> Pixels:
    if channels is None or channels == pixels.shape[2]:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    # ITU-R 601 in 16-bit integers with rounding, as Pillow does it.
    weighted = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)[:, :, None]


def _square(image: Tensor, side: int) -> Tensor:
    height, width, _ = image.shape
    if (height, width) == (side, side):
        return image
    scale = side / min(height, width)
    size = [max(side, round(height * scale)), max(side, round(width * scale))]
    planes = image.permute(2, 0, 1)[None].contiguous()
    resized = interpolate(planes, size, mode="bilinear", antialias=True)[0]
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return resized[:, top : top + side, left : left + side].permute(1, 2, 0).contiguous()
