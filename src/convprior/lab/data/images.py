"""Decoded images with their labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convprior.errors import InputError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels as two tensors on one device; the images are made contiguous.

    Raises:
        InputError: the tensors do not fit together, or a label names no class.
    """

    images: Tensor
    """(N, H, W, C) uint8."""
    labels: Tensor
    """(N,) int64, each in [0, number of classes)."""
    classes: tuple[str, ...]
    name: str = "images"

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise InputError(
                f"images ({self.images.dtype}, {tuple(self.images.shape)}) must be uint8 with "
                "shape (N, H, W, C): convert with .to(torch.uint8) and .permute(0, 2, 3, 1)"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise InputError(
                f"labels ({self.labels.dtype}, {tuple(self.labels.shape)}) must be int64 with "
                f"shape ({len(self.images)},): one for each image"
            )
        if (
            len(self)
            and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.num_classes
        ):
            raise InputError(
                f"labels run from {int(self.labels.min())} to {int(self.labels.max())}, but "
                f"{self.num_classes} classes allow 0 to {self.num_classes - 1}: correct the labels"
            )

        object.__setattr__(self, "images", self.images.contiguous())

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def num_classes(self) -> int:
        """Number of classes, also of those without an image."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.images.shape[3]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def to(self, device: torch.device | str) -> "ImageSet":
        """Returns the set with its tensors on ``device``."""
        images, labels = self.images.to(device), self.labels.to(device)
        return ImageSet(images, labels, self.classes, self.name)
