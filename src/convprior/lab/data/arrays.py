"""Images that are decoded already."""

from torch import Tensor

from convprior.lab.data.source import Part, Pixels


class ArrayPart(Part):
    """Images in one (N, H, W, C) uint8 tensor, in memory or mapped from a file."""

    encoded = False

    def __init__(self, images: Tensor, labels: Tensor, name: str, fingerprint: str) -> None:
        self.images = images
        self.labels = labels
        self.name = name
        self.fingerprint = fingerprint

    def read(self, row: int) -> Pixels:
        """Returns one image."""
        return self.images[row].numpy()

    def where(self, row: int) -> str:
        """Names the data set and the row."""
        return f"image {row} of {self.name}"
