"""Maps as small pictures inside a chart: one pixel a position, whatever the size of the image."""

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

_DEEPEST = 0.85
"""Opacity of the strongest color."""


@dataclass(frozen=True)
class Palette:
    """Two colors that fade toward a middle without color, which is that of the page.

    Attributes:
        middle: the value without color.
        below: how far below it color is strongest; 0 where nothing lies below.
        above: likewise.
        low: color of smaller values, ``#rrggbb``.
        high: of larger ones.
    """

    middle: float
    below: float
    above: float
    low: str
    high: str

    @property
    def ends(self) -> list[float]:
        """The smallest value on the scale, the middle and the largest."""
        return sorted({self.middle - self.below, self.middle, self.middle + self.above})

    @property
    def stops(self) -> list[float]:
        """The values at :attr:`colors`, ascending."""
        upper = [self.middle, self.middle + self.above]
        return [self.middle - self.below, self.middle, *upper] if self.below else upper

    @property
    def colors(self) -> list[str]:
        """As CSS. A half fades within its own hue: through a gray, faint colors would be dirty."""
        upper = [_css(self.high, 0.0), _css(self.high, _DEEPEST)]
        return [_css(self.low, _DEEPEST), _css(self.low, 0.0), *upper] if self.below else upper


def colored(values: Tensor, palette: Palette) -> str:
    """A map (H, W) as the data URI of a PNG; values beyond the ends have their color."""
    away = (values - palette.middle).double().numpy()
    rgba = np.zeros((*away.shape, 4), np.uint8)
    for side, reach, color in ((-1, palette.below, palette.low), (1, palette.above, palette.high)):
        chosen = side * away > 0
        if reach and chosen.any():
            rgba[chosen, :3] = _channels(color)
            rgba[chosen, 3] = np.round(255 * _DEEPEST * np.minimum(1, np.abs(away[chosen]) / reach))
    return png(rgba)


def photograph(image: Tensor) -> str:
    """An image (C, H, W) of any range as a PNG: its own smallest value black, its largest white.

    Of other channels than 1 or 3 the mean is shown.
    """
    image = image.float()
    image = image if len(image) in (1, 3) else image.mean(0, keepdim=True)
    low, high = image.min(), image.max()
    scaled = (255 * (image - low) / (high - low).clamp_min(1e-12)).expand(3, -1, -1)
    rgba = np.full((*scaled.shape[1:], 4), 255, np.uint8)
    rgba[..., :3] = scaled.permute(1, 2, 0).round().numpy()
    return png(rgba)


def png(rgba: npt.NDArray[np.uint8]) -> str:
    """(H, W, 4) bytes as the data URI of a PNG (ISO/IEC 15948: 8 bits, RGBA, no filter)."""
    height, width, _ = rgba.shape
    lines = b"".join(b"\0" + line.tobytes() for line in rgba)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, parts))
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _chunk(part: tuple[bytes, bytes]) -> bytes:
    kind, data = part
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _css(color: str, opacity: float) -> str:
    red, green, blue = _channels(color)
    return f"rgba({red}, {green}, {blue}, {opacity})"


def _channels(color: str) -> list[int]:
    return [int(color[at : at + 2], 16) for at in (1, 3, 5)]
