"""Augmentation as arithmetic on indices: one gather moves the pixels, one pass normalizes them."""

from dataclasses import dataclass

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
    mean: Tensor,
    std: Tensor,
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
        images: (N, H, W, C) uint8.
        index: (n,) int64, which images.
        mean: (C,) in units of full scale, as ``v`` = pixel / 255.
        std: (C,) likewise.
        augment: the random changes; None for none.
        draws: (n, DRAWS) uniform numbers, needed with ``augment``.
        dtype: of the result; the arithmetic is float32.

    Returns:
        (n, C, H, W) in channels_last memory format.
    """
    count, height, width, channels = images.shape
    n = index.shape[0]
    if augment is None or draws is None or not augment.any:
        pixels = images.index_select(0, index)
        augment = None
    elif augment.flip or augment.crop:
        rows, columns = _source_pixels(height, width, augment, draws)
        source = ((index[:, None] * height + rows) * width)[:, :, None] + columns[:, None, :]
        flat = images.view(count * height * width, channels)
        pixels = flat.index_select(0, source.view(-1))
    else:
        pixels = images.index_select(0, index)
    values = pixels.view(n, height * width * channels).to(torch.float32)
    if augment is not None and augment.color and draws is not None:
        _recolor_(values, augment.color, draws)
    # One multiplication and one addition over whole images: a broadcast over the last, 3-wide
    # dimension is 8x slower, and a fused addcmul would round differently in a vector's tail.
    scale = (1.0 / (255.0 * std)).to(torch.float32)
    values.mul_(scale.repeat(height * width))
    values.add_((-mean / std).to(torch.float32).repeat(height * width))
    batch = values.view(n, height, width, channels)
    if augment is not None and augment.cutout and draws is not None:
        batch.masked_fill_(_cutout(height, width, augment.cutout, draws)[..., None], 0.0)
    return batch.permute(0, 3, 1, 2).to(dtype)


def _source_pixels(
    height: int, width: int, augment: Augment, draws: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows (n, H) and columns (n, W) from which the pixels of the result are read."""
    rows = torch.arange(height, device=draws.device)[None, :]
    columns = torch.arange(width, device=draws.device)[None, :]
    if augment.flip:
        mirrored = draws[:, _FLIP, None] < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    if augment.crop:
        offset = (draws[:, _ROW : _COLUMN + 1] * (2 * augment.crop + 1)).long() - augment.crop
        rows = _reflect(rows + offset[:, :1], height)
        columns = _reflect(columns + offset[:, 1:], width)
    return rows, columns


def _reflect(position: Tensor, size: int) -> Tensor:
    """Maps -1, -2, ... to 1, 2, ... and size, size+1, ... to size-2, size-3, ...."""
    last = size - 1
    return last - (last - position.abs()).abs()


def _recolor_(values: Tensor, strength: float, draws: Tensor) -> None:
    """Brightness and contrast, in pixel units 0..255, in place."""
    # The sum of integers below 2**24 is exact in any order only as an integer.
    mean = values.to(torch.int64).sum(1, keepdim=True).to(torch.float32) / values.shape[1]
    factors = 1.0 + strength * (2.0 * draws[:, _BRIGHTNESS : _CONTRAST + 1] - 1.0)
    brightness, contrast = factors[:, :1], factors[:, 1:]
    values.mul_(brightness * contrast).add_(brightness * (1.0 - contrast) * mean)
    values.clamp_(0.0, 255.0)


def _cutout(height: int, width: int, side: int, draws: Tensor) -> Tensor:
    """(n, H, W) mask of a square whose center is uniform over the pixels; clipped at the border."""
    rows = _inside(height, side, draws[:, _CUT_ROW, None])
    columns = _inside(width, side, draws[:, _CUT_COLUMN, None])
    return rows[:, :, None] & columns[:, None, :]


def _inside(size: int, side: int, draw: Tensor) -> Tensor:
    first = (draw * size).long() - side // 2
    position = torch.arange(size, device=draw.device)
    return (position >= first) & (position < first + side)
