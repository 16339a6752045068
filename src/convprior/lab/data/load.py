"""Decodes the needed images once, and keeps them where the next worker process finds them."""

import hashlib
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from convprior._files import load_tensors, save_tensors
from convprior.errors import InputError, RunError
from convprior.lab.data.arrays import ArrayPart
from convprior.lab.data.decode import Format, decode, decode_rows
from convprior.lab.data.images import ImageSet
from convprior.lab.data.source import Part, Rows
from convprior.lab.data.spool import SpooledPart
from convprior.lab.data.stream import StreamedSet, default_workers

_VERSION = 1
"""Increased when decoding changes, so that old decoded copies are not used."""

_MEMORY_GB = 4.0
"""Default of CONVPRIOR_MEMORY_LIMIT."""

_kept: dict[str, Tensor] = {}
"""Decoded images of this process by key, the least recently used first."""


def cache_folder() -> Path:
    """Returns where decoded copies are kept: ``CONVPRIOR_CACHE``, or ``~/.cache/convprior``."""
    named = os.environ.get("CONVPRIOR_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "convprior"


def memory_limit() -> int:
    """Returns the bytes one decoded set may take: ``CONVPRIOR_MEMORY_LIMIT`` GB, or 4 GB.

    Raises:
        InputError: the variable is not a positive number.
    """
    text = os.environ.get("CONVPRIOR_MEMORY_LIMIT", str(_MEMORY_GB))
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 < gigabytes < float("inf"):
        raise InputError(
            f"CONVPRIOR_MEMORY_LIMIT (={text!r}) must be a number of gigabytes above 0"
        )
    return int(gigabytes * 1e9)


def load(
    part: Part,
    rows: Tensor,
    classes: tuple[str, ...],
    name: str,
    wanted: Format,
    device: torch.device | str = "cpu",
    limit: int | None = None,
    workers: int | None = None,
) -> ImageSet | StreamedSet:
    """Loads ``rows`` of a part: in memory if they fit into ``limit`` bytes, else streamed.

    Args:
        part: training or test part of a source.
        rows: (N,) int64 in file order.
        classes: the class names.
        name: of the set, for messages.
        wanted: size and channels.
        device: where the images (or the batches of a streamed set) go.
        limit: largest decoded size in bytes; None: :func:`memory_limit`. It changes no result.
        workers: decoding processes of a streamed set; None: one a core, 0: none.

    Raises:
        InputError: there is no image, an image cannot be decoded, or images differ in shape.
    """
    if len(rows) == 0:
        raise InputError(f"{name} has no image: choose another source or split")
    chosen = Rows(part, rows)
    key = _key(chosen, wanted)
    kept = _kept.get(key)
    if kept is None:
        first = decode(chosen.read(0), chosen.where(0), wanted)
        if first.numel() * len(rows) > (memory_limit() if limit is None else limit):
            reader = SpooledPart(chosen, key, cache_folder()) if chosen.sequential else chosen
            count = default_workers() if workers is None else workers
            return StreamedSet(
                reader, chosen.labels, classes, name, first.shape, wanted, count,
                torch.device(device), key,
            )  # fmt: skip
        kept = _decoded(chosen, wanted, key)
    _remember(key, kept)
    return ImageSet(kept, chosen.labels, classes, name).to(device)


def _decoded(chosen: Rows, wanted: Format, key: str) -> Tensor:
    if isinstance(chosen.part, ArrayPart) and wanted == Format():
        return chosen.part.images[chosen.rows]
    path = cache_folder() / f"decoded-{key}.safetensors"
    if chosen.encoded and path.exists():
        try:
            return load_tensors(path)[0]["images"]
        except (RunError, KeyError):
            path.unlink(missing_ok=True)
    images: Tensor | None = None
    for position, image in enumerate(decode_rows(chosen, range(len(chosen)), wanted)):
        if images is None:
            images = torch.empty((len(chosen), *image.shape), dtype=torch.uint8)
        images[position] = image
    assert images is not None
    if chosen.encoded:
        try:
            save_tensors(path, {"images": images})
        except RunError as error:
            warnings.warn(f"images are decoded again in every process: {error}", stacklevel=2)
    return images


def _remember(key: str, images: Tensor) -> None:
    _kept[key] = _kept.pop(key, images)
    while len(_kept) > 2 and sum(kept.numel() for kept in _kept.values()) > memory_limit():
        del _kept[next(iter(_kept))]


def _key(chosen: Rows, wanted: Format) -> str:
    identity = f"{_VERSION} {chosen.fingerprint} {wanted.image_size} {wanted.channels} "
    return hashlib.sha256(identity.encode() + chosen.rows.numpy().tobytes()).hexdigest()[:32]
