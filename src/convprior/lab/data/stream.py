"""Image sets larger than memory: worker processes decode each batch when it is needed."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from convprior.errors import InputError
from convprior.lab.data.decode import Format, check_shape, decode
from convprior.lab.data.source import Part


@dataclass(frozen=True, eq=False)
class StreamedSet:
    """Images that stay on disk; batches of them equal those of an ImageSet bit for bit.

    Only reading and decoding happens in the workers; order, augmentation and normalization are
    the same functions of (seed, epoch, sample) as in memory.
    """

    part: Part
    labels: Tensor
    """(N,) int64 on the CPU."""
    classes: tuple[str, ...]
    name: str
    shape: torch.Size
    """(H, W, C) of every image."""
    wanted: Format
    workers: int
    device: torch.device
    key: str
    """Names the images, their form and their order."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, also of those without an image."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.shape[2]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.shape[0], self.shape[1]

    def to(self, device: torch.device | str) -> "StreamedSet":
        """Returns the set with its batches on ``device``."""
        return replace(self, device=torch.device(device))

    def read(
        self, parts: Iterator[tuple[Tensor, Tensor | None]]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yields (pixels (n, H, W, C) uint8, index, draws) for each (index, draws), in order.

        Raises:
            InputError: an image cannot be decoded or has another shape than the first.
        """
        sampler = _Indices(parts)
        loader = DataLoader(
            _Decoder(self.part, self.wanted, self.shape),
            batch_sampler=sampler,
            num_workers=self.workers,
            collate_fn=_unchanged,
            prefetch_factor=2 if self.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        for pixels in loader:
            if isinstance(pixels, str):
                raise InputError(pixels)
            yield pixels, *sampler.sent.popleft()


def default_workers() -> int:
    """Returns how many processes decode: one a core, at most 8, leaving one core to training."""
    return max(1, min(8, len(os.sched_getaffinity(0)) - 1))


class _Indices(Sampler[list[int]]):
    """Hands the rows of each batch to the workers and remembers what belongs to them."""

    def __init__(self, parts: Iterator[tuple[Tensor, Tensor | None]]) -> None:
        self.parts = parts
        self.sent: deque[tuple[Tensor, Tensor | None]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        for index, draws in self.parts:
            self.sent.append((index, draws))
            yield index.tolist()


class _Decoder(Dataset[Tensor | str]):
    """Decodes whole batches; an error travels as its message, not as a worker's traceback."""

    def __init__(self, part: Part, wanted: Format, shape: torch.Size) -> None:
        self.part = part
        self.wanted = wanted
        self.shape = shape

    def __getitems__(self, rows: Sequence[int]) -> Tensor | str:
        batch = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        try:
            for position, row in enumerate(rows):
                where = self.part.where(row)
                image = decode(self.part.read(row), where, self.wanted)
                check_shape(image, where, self.shape, self.part.where(0))
                batch[position] = image
        except InputError as error:
            return str(error)
        return batch


def _unchanged(batch: Any) -> Any:
    return batch
