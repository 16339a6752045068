"""One safetensors file with decoded images: for machines without an image decoder."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from convprior._files import load_tensors, save_tensors
from convprior.errors import InputError, RunError
from convprior.lab.data.arrays import ArrayPart
from convprior.lab.data.images import ImageSet
from convprior.lab.data.layout import files_fingerprint
from convprior.lab.data.source import Source


def save_decoded(path: Path | str, train: ImageSet, test: ImageSet | None = None) -> None:
    """Writes images and labels to ``path``, which is then a data source itself.

    The file holds ``train_images`` (N, H, W, C) uint8 and ``train_labels`` (N,) int64, the same
    for ``test``, and the class names in its header.

    Raises:
        InputError: the name does not end in .safetensors, or the class names differ.
        RunError: the disk is full.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"path (={str(path)!r}) must end in .safetensors")
    tensors = {"train_images": _own(train.images), "train_labels": _own(train.labels)}
    if test is not None:
        if test.classes != train.classes:
            raise InputError(
                f"test has the classes {test.classes[:3]}... and train {train.classes[:3]}...: "
                "give both the same classes"
            )
        tensors |= {"test_images": _own(test.images), "test_labels": _own(test.labels)}
    save_tensors(path, tensors, {"classes": list(train.classes)})


def _own(tensor: Tensor) -> Tensor:
    """Returns a copy of a view: safetensors refuses tensors that share memory."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def open_decoded(path: Path) -> Source:
    """Opens a file that :func:`save_decoded` wrote; images stay on disk until they are used.

    Raises:
        InputError: the file is damaged or holds something else.
    """
    try:
        tensors, header = load_tensors(path)
    except RunError as error:
        raise InputError(f"{path} is not a whole safetensors file: copy it again") from error
    classes = tuple(header["classes"]) if isinstance(header, dict) and "classes" in header else ()
    if not classes or not {"train_images", "train_labels"} <= set(tensors):
        raise InputError(
            f"{path} holds {', '.join(sorted(tensors)) or 'nothing'}, but needs train_images, "
            "train_labels and class names: write it with convprior.lab.data.save_decoded"
        )
    fingerprint = files_fingerprint([path])
    test = None
    if "test_images" in tensors:
        test = _part(tensors, "test", path, fingerprint)
    return Source(path.stem, classes, _part(tensors, "train", path, fingerprint), test)


def _part(tensors: dict[str, Tensor], split: str, path: Path, fingerprint: str) -> ArrayPart:
    images, labels = tensors[f"{split}_images"], tensors.get(f"{split}_labels", torch.empty(0))
    if images.dtype != torch.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        raise InputError(
            f"{path}: {split}_images is {images.dtype} {tuple(images.shape)} with labels "
            f"{tuple(labels.shape)}, but must be uint8 (N, H, W, C) with N labels"
        )
    identity = hashlib.sha256(f"{fingerprint} {split}".encode()).hexdigest()
    return ArrayPart(images, labels.to(torch.int64), f"{split}_images in {path}", identity)
