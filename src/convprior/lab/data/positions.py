"""A task whose answer depends on the position, and its twin without a fixed frame; drawn, no files.

A scene is a square of 21 x 21 gray pixels on a darker canvas of 28 x 28, all with weak noise. One
glyph of 3 x 3 lies in it. There are four pairs of glyphs and two classes for each pair: which of
the two a glyph means changes between the upper and the lower half of the scene for two of the
pairs, and between left and right for the other two.

No window of 7 x 7 pixels holds a part of the glyph and of the scene's edge, and every window of
that size that touches the glyph lies inside the canvas. A convolutional network of this receptive
field, without padding and with a global mean at its end, therefore knows the pair and nothing
more: 50 %.

In ``positions`` the scene lies in the middle. In ``positions-shifted`` it lies elsewhere in every
image, such that the glyph's place on the canvas tells nothing about its place in the scene; what
tells it is how far the scene's edges are.

Source: our choice.
"""

import hashlib
from functools import cache

import torch
from torch import Tensor

from convprior._random import mix, random_bytes, uniform
from convprior.lab.data.arrays import ArrayPart
from convprior.lab.data.source import Source

NAMES = ("positions", "positions-shifted")
CLASSES = 8
TRAIN, TEST = 40_000, 4_000
CANVAS, SCENE = 28, 21
SPOTS = (7, 8, 10, 11)
"""Rows (and columns) of the scene where a glyph may begin; two in each half."""

_PLACES = range(SPOTS[-1], CANVAS - SCENE + SPOTS[0] + 1)
"""Rows of the canvas where a shifted glyph may begin, so that the scene of every spot fits."""

_DARK, _GRAY, _BRIGHT, _NOISE = 60, 120, 220, 25
"""Levels of canvas, scene and glyph, and the number of levels that the noise spreads over."""

GLYPHS = torch.tensor(
    [
        [[1, 1, 1], [0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [1, 1, 1]],
        [[1, 0, 0], [1, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 1], [0, 0, 1]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
        [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
    ],
    dtype=torch.bool,
)  # fmt: skip
"""(8, 3, 3): glyphs 2p and 2p + 1 are pair p."""

# Keep the random numbers of the two sources, of their parts and of noise apart.
_SEED, _PIXELS = 0x9051, 1


@cache
def open_positions(name: str) -> Source:
    """Draws one of :data:`NAMES`: 40,000 training and 4,000 test images, 28x28, gray, 8 classes.

    The images are a function of the name and of their number alone, the same on every machine.
    """
    parts = []
    for number, count in enumerate((TRAIN, TEST)):
        seed = mix(_SEED, NAMES.index(name), number)
        images, labels = _draw(count, seed, shifted=name == NAMES[1])
        fingerprint = hashlib.sha256(f"{name} {number} 1".encode()).hexdigest()
        parts.append(ArrayPart(images, labels, name, fingerprint))
    return Source(name, tuple(map(str, range(CLASSES))), *parts)


def _draw(count: int, seed: int, shifted: bool) -> tuple[Tensor, Tensor]:
    labels, spots, corners = layout(count, seed, shifted)
    clean = scenes(glyph_of(labels, spots), spots, corners)
    noise = random_bytes(mix(seed, _PIXELS), torch.arange(count), CANVAS * CANVAS)
    levels = (noise.short() * _NOISE >> 8) - _NOISE // 2
    return (clean + levels.view_as(clean)).to(torch.uint8)[..., None], labels


def layout(count: int, seed: int, shifted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What is drawn: (n,) labels, (n, 2) spots and (n, 2) corners, as in :func:`scenes`."""
    index = torch.arange(count)
    chance = uniform(seed, index, 4)
    spots = torch.tensor(SPOTS)[(chance[:, :2] * len(SPOTS)).long()]
    if shifted:
        corners = _PLACES[0] + (chance[:, 2:] * len(_PLACES)).long() - spots
    else:
        corners = torch.full_like(spots, (CANVAS - SCENE) // 2)
    return index % CLASSES, spots, corners


def glyph_of(labels: Tensor, spots: Tensor) -> Tensor:
    """The glyph that means a class at a spot.

    Args:
        labels: (n,) int64.
        spots: (n, 2) int64, row and column of the scene where the glyph begins.

    Returns:
        (n,) int64, rows of :data:`GLYPHS`.
    """
    pairs, members = labels // 2, labels % 2
    halves = (spots >= SPOTS[2]).long()
    return 2 * pairs + (members ^ torch.where(pairs < 2, halves[:, 0], halves[:, 1]))


def scenes(glyphs: Tensor, spots: Tensor, corners: Tensor) -> Tensor:
    """Images without noise.

    Args:
        glyphs: (n,) int64.
        spots: (n, 2) int64, row and column of the scene where the glyph begins.
        corners: (n, 2) int64, row and column of the canvas where the scene begins.

    Returns:
        (n, 28, 28) int16.
    """
    line = torch.arange(CANVAS)
    rows, columns = ((line >= c[:, None]) & (line < c[:, None] + SCENE) for c in corners.unbind(1))
    inside = rows[:, :, None] & columns[:, None]
    images = torch.where(inside, _GRAY, _DARK).short()
    side = torch.arange(GLYPHS.shape[1])
    place = corners + spots
    y, x = place[:, 0, None, None] + side[:, None], place[:, 1, None, None] + side
    images[torch.arange(len(glyphs))[:, None, None], y, x] += (
        GLYPHS[glyphs] * (_BRIGHT - _GRAY)
    ).short()
    return images
