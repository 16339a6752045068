"""A copy of encoded images that can be read in any order."""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from convprior._files import load_tensors, replacing, save_tensors
from convprior.errors import RunError
from convprior.lab.data.source import Part


class SpooledPart(Part):
    """The images of another part, one after the other in one file, and where each begins.

    Parquet is compressed in groups of thousands of rows, and random access to one row unpacks its
    whole group. A streamed set therefore copies its encoded images once into the cache folder.

    Raises:
        RunError: the copy cannot be written.
    """

    def __init__(self, part: Part, key: str, folder: Path) -> None:
        self.part = part
        self.labels = part.labels
        name = hashlib.sha256(f"{part.fingerprint} {key}".encode()).hexdigest()[:32]
        self.fingerprint = name
        self.path = folder / f"encoded-{name}.bin"
        offsets = folder / f"encoded-{name}.safetensors"
        if not (self.path.exists() and offsets.exists()):
            save_tensors(offsets, {"offsets": self._write()})
        self.offsets = load_tensors(offsets)[0]["offsets"].tolist()

    def read(self, row: int) -> bytes:
        """Returns the bytes of one image file."""
        with self.path.open("rb", buffering=0) as file:
            begin, end = self.offsets[row], self.offsets[row + 1]
            return os.pread(file.fileno(), end - begin, begin)

    def where(self, row: int) -> str:
        """Names the image where it came from."""
        return self.part.where(row)

    def _write(self) -> Tensor:
        offsets = [0]
        try:
            with replacing(self.path) as file:
                for row in range(len(self.part)):
                    content = self.part.read(row)
                    assert isinstance(content, bytes)
                    file.write(content)
                    offsets.append(offsets[-1] + len(content))
        except OSError as error:
            raise RunError(
                f"could not write {self.path} ({error.strerror or error}), the copy from which "
                "images are streamed: free some space or set CONVPRIOR_CACHE to another folder"
            ) from error
        return torch.tensor(offsets, dtype=torch.int64)
