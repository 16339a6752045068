"""Data sets of the Hugging Face Hub, through its own library."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import torch

from convprior._optional import require
from convprior.errors import InputError
from convprior.lab.data.layout import TEST_NAMES, TRAIN_NAMES
from convprior.lab.data.parquet import find_columns
from convprior.lab.data.source import Part, Source


class NotLoadedError(InputError):
    """The Hub has no such data set, or cannot be reached."""


@lru_cache(maxsize=8)
def open_hub(name: str) -> Source:
    """Opens ``OWNER/NAME``, or ``OWNER/NAME:CONFIGURATION``, with ``datasets.load_dataset``.

    Once a process: asking the Hub takes seconds, and the cells of a study ask for the same data.

    Raises:
        NotLoadedError: the library cannot load it.
        InputError: it has no image or no label column.
        MissingExtraError: the library is not installed.
    """
    datasets = require("datasets", "lab")
    path, _, configuration = name.partition(":")
    try:
        with _offline_if_unreachable(datasets):
            splits = datasets.load_dataset(path, configuration or None)
    except Exception as error:  # The library raises errors of a dozen packages.
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise NotLoadedError(f"{name!r} could not be loaded: {reason}") from error
    train = next((splits[split] for split in TRAIN_NAMES if split in splits), None)
    if train is None:
        raise InputError(
            f"{name!r} has the splits {', '.join(splits)} but no split 'train': choose another set"
        )
    image, label = find_columns(train.column_names, name)
    classes = getattr(train.features[label], "names", None)
    if classes is None:
        classes = [str(value) for value in sorted(set(train[label]))]
        splits = splits.cast_column(label, datasets.ClassLabel(names=classes))
    splits = splits.cast_column(image, datasets.Image(decode=False))
    train = next(splits[split] for split in TRAIN_NAMES if split in splits)
    test = next((splits[split] for split in TEST_NAMES if split in splits), None)
    return Source(
        name,
        tuple(classes),
        HubPart(train, image, label, f"{name} (train)"),
        None if test is None else HubPart(test, image, label, f"{name} (test)"),
    )


class HubPart(Part):
    """One split of a data set, mapped from the library's cache on disk."""

    def __init__(self, dataset: Any, image: str, label: str, name: str) -> None:
        self.dataset = dataset
        self.image = image
        self.name = name
        self.labels = torch.tensor(list(dataset[label]), dtype=torch.int64)
        # The library's hash of the files and of every change since they were read.
        self.fingerprint = f"{name} {dataset._fingerprint}"

    def read(self, row: int) -> bytes:
        """Returns the bytes of one image file."""
        value = self.dataset[row][self.image]
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if content is None and value.get("path") and Path(value["path"]).is_file():
            content = Path(value["path"]).read_bytes()
        if not isinstance(content, bytes):
            raise InputError(f"{self.where(row)} holds no image bytes: choose another data set")
        return content

    def where(self, row: int) -> str:
        """Names the data set and the row."""
        return f"row {row} of {self.name}"


@contextmanager
def _offline_if_unreachable(datasets: Any) -> Iterator[None]:
    """Tells the library that there is no network, where there is none.

    It would try for half a minute before it says so; offline it still finds what it downloaded.
    """
    constants: Any = require("huggingface_hub.constants", "lab")
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not (getproxies() or _has_address(urlparse(constants.ENDPOINT).hostname)):
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _has_address(host: str | None) -> bool:
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False
