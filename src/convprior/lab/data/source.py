"""What every kind of data source offers: labels at once, images on demand."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

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
        sequential: whether rows are quick to read only in file order.
    """

    labels: Tensor
    fingerprint: str
    encoded: bool = True
    sequential: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, row: int) -> bytes | Pixels:
        """Returns one image, as the bytes of an image file or decoded."""

    @abstractmethod
    def where(self, row: int) -> str:
        """Names an image for a message: its file, or its file and row."""


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
    """Some rows of another part; rows of rows refer to the part at the bottom."""

    def __init__(self, part: Part, rows: Tensor) -> None:
        base, absolute = (part.part, part.rows[rows]) if isinstance(part, Rows) else (part, rows)
        self.part: Part = base
        self.rows: Tensor = absolute
        self.labels = part.labels[rows]
        self.fingerprint = part.fingerprint
        self.encoded = part.encoded
        self.sequential = part.sequential

    def read(self, row: int) -> bytes | Pixels:
        """Returns one image of the part behind."""
        return self.part.read(int(self.rows[row]))

    def where(self, row: int) -> str:
        """Names an image of the part behind."""
        return self.part.where(int(self.rows[row]))
