"""Augmentation as arithmetic on indices: one gather moves the pixels, one pass normalizes them."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

DRAWS = 8
"""Uniform numbers of one sample in one epoch; a fixed number, so that switching one augmentation
on or off leaves the others as they were."""

_FLIP, _ROW, _COLUMN, _CUT_ROW, _CUT_COLUMN, _BRIGHTNESS, _CONTRAST = range(7)


@dataclass(frozen=True)
class Augment:
    """Which random changes a training image gets; see :class:`~convprior.lab.data.DataRecipe`."""

    flip: bool = False
    crop: int = 0
    cutout: int = 0
    color: float = 0.0

    @property
    def any(self) -> bool:
        """Whether anything is drawn at random."""
        return self.flip or self.crop > 0 or self.cutout > 0 or self.color > 0


def gather(
    images: Tensor,
    index: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: Augment | None = None,
    draws: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Picks, augments and normalizes images.

    In this order: crop with offset ``dy, dx`` from an image padded by reflection, mirror,
    brightness ``b`` and contrast ``c`` around the image's own mean ``m``
    (``clamp(b (c (v - m) + m), 0, 1)``), ``(v - mean) / std``, and a cut-out square set to 0,
    which is the mean of the training images. A sample's result does not depend on the other
    samples of the batch, bit for bit.

    Args:
        images: (N, H, W, C) uint8, contiguous.
        index: (n,) int64, which images.
        mean: C numbers in units of full scale, as ``v`` = pixel / 255.
        std: C numbers likewise.
        augment: the random changes; None for none.
        draws: (n, DRAWS) uniform numbers, needed with ``augment``.
        dtype: of the result; the arithmetic is float32.

    Returns:
        (n, C, H, W) in channels_last memory format.
    """
    count, height, width, channels = images.shape
    device = images.device
    if augment is None or draws is None:
        augment, draws = Augment(), torch.empty(0)
    if not (augment.flip or augment.crop):
        pixels = images.index_select(0, index)
    else:
        rows, columns = _source_tables(height, width, augment.crop, device)
        # In range: u <= 1 - 2**-24 times a whole number k rounds to a float32 below k.
        offset = (draws[:, :_CUT_ROW] * _choices(augment.flip, augment.crop, device)).long()
        # A table of columns for each pair of offset and mirroring: one look-up for both.
        column = columns[offset[:, _COLUMN] * 2 + offset[:, _FLIP]]
        row = rows[offset[:, _ROW]] + (index * (height * width))[:, None]
        source = row[:, :, None] + column[:, None, :]
        flat = images.view(count * height * width, channels)
        pixels = flat.index_select(0, source.view(-1))
    values = pixels.view(len(index), height * width * channels).to(torch.float32)
    if augment.color:
        _recolor_(values, augment.color, draws)
    # One multiplication and one addition over whole images: a broadcast over the last, 3-wide
    # dimension is 8x slower, and a fused addcmul would round differently in a vector's tail.
    scale, shift = _normalization(mean, std, height * width, device)
    values.mul_(scale).add_(shift)
    if augment.cutout:
        lines = values.view(len(index), height, width * channels)
        lines.mul_(_kept(height, width, channels, augment.cutout, draws))
    return values.view(-1, height, width, channels).permute(0, 3, 1, 2).to(dtype)


@lru_cache(maxsize=16)
def _normalization(
    mean: tuple[float, ...], std: tuple[float, ...], pixels: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and summand, (H W C,) float32 each, that turn pixels 0..255 into (v - mean) / std."""
    center, spread = (torch.tensor(value, dtype=torch.float64) for value in (mean, std))
    scale, shift = 1.0 / (255.0 * spread), -center / spread
    return scale.float().repeat(pixels).to(device), shift.float().repeat(pixels).to(device)


@lru_cache(maxsize=16)
def _choices(flip: bool, crop: int, device: torch.device) -> Tensor:
    """Number of choices of mirroring, row offset and column offset, (3,) float32."""
    places = 2.0 * crop + 1.0
    return torch.tensor([2.0 if flip else 1.0, places, places], device=device)


@lru_cache(maxsize=16)
def _source_tables(
    height: int, width: int, crop: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where the pixels of a result are read, in units of pixels of the flattened image.

    Returns:
        Row starts, (2 crop + 1, H), for each row offset; columns, (2 (2 crop + 1), W), for each
        column offset, plain and mirrored in turn.
    """
    offset = torch.arange(-crop, crop + 1)[:, None]
    rows = _reflect(torch.arange(height) + offset, height) * width
    columns = _reflect(torch.arange(width) + offset, width)
    both = torch.stack([columns, columns.flip(1)], 1).view(-1, width)
    return rows.to(device), both.to(device)


def _reflect(position: Tensor, size: int) -> Tensor:
    """Maps -1, -2, ... to 1, 2, ... and size, size + 1, ... to size - 2, size - 3, ...."""
    last = size - 1
    return last - (last - position.abs()).abs()


def _recolor_(values: Tensor, strength: float, draws: Tensor) -> None:
    """Brightness and contrast of (n, H W C) values in pixel units 0..255, in place."""
    # A sum of whole numbers is exact in any order below 2**24 in float32, 2**53 in float64.
    exact = torch.float32 if values.shape[1] * 255 < 2**24 else torch.float64
    mean = (values.sum(1, keepdim=True, dtype=exact) / values.shape[1]).float()
    factors = 1.0 + strength * (2.0 * draws[:, _BRIGHTNESS : _CONTRAST + 1] - 1.0)
    brightness, contrast = factors[:, :1], factors[:, 1:]
    values.mul_(brightness * contrast).add_(brightness * (1.0 - contrast) * mean)
    values.clamp_(0.0, 255.0)


def _kept(height: int, width: int, channels: int, side: int, draws: Tensor) -> Tensor:
    """(n, H, W C) float: 0 in a square with its center uniform over the pixels, 1 elsewhere."""
    rows = _inside(height, side, draws[:, _CUT_ROW, None])
    columns = _inside(width, side, draws[:, _CUT_COLUMN, None]).repeat_interleave(channels, 1)
    # The product of two float vectors: and-ing Booleans of this shape takes 6x as long.
    return 1.0 - rows[:, :, None] * columns[:, None, :]


def _inside(size: int, side: int, draw: Tensor) -> Tensor:
    first = (draw * size).long() - side // 2
    position = torch.arange(size, device=draw.device)
    return ((position >= first) & (position < first + side)).float()
