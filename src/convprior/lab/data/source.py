"""What every kind of data source offers: labels at once, images on demand."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]
"""(H, W) or (H, W, C) uint8."""


class Part(ABC):
    """The training or the test images of a source, in file order.

    Attributes:
        labels: (N,) int64.
        fingerprint: changes when the stored images change; names the decoded copy in the cache.
        encoded: whether reading costs a decoder's time, so that a decoded copy is worth keeping.
    """

    labels: Tensor
    fingerprint: str
    encoded: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, row: int) -> bytes | Pixels:
        """Returns one image, as the bytes of an image file or decoded."""

    @abstractmethod
    def where(self, row: int) -> str:
        """Names an image for a message: its file, or its file and row."""

    def random_access(self, rows: Sequence[int], folder: Path) -> "Part":  # noqa: ARG002
        """Returns an equal part that reads ``rows`` quickly in any order, using ``folder``."""
        return self


@dataclass(frozen=True)
class Source:
    """A data set: its name, class names, training part and test part.

    ``test`` is None when the source has no test images; :func:`prepare` then holds some out.
    """

    name: str
    classes: tuple[str, ...]
    train: Part
    test: Part | None


class Rows(Part):
    """Some rows of another part."""

    def __init__(self, part: Part, rows: Tensor) -> None:
        self.part = part
        self.rows = rows
        self.labels = part.labels[rows]
        self.fingerprint = part.fingerprint
        self.encoded = part.encoded

    def read(self, row: int) -> bytes | Pixels:
        """Returns one image of the part behind."""
        return self.part.read(int(self.rows[row]))

    def where(self, row: int) -> str:
        """Names an image of the part behind."""
        return self.part.where(int(self.rows[row]))
