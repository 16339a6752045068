"""Data sets of the Hugging Face Hub, through its own library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from convprior._optional import require
from convprior.errors import InputError
from convprior.lab.data.layout import TEST_NAMES, TRAIN_NAMES
from convprior.lab.data.parquet import find_columns
from convprior.lab.data.source import Part, Source


def open_hub(name: str) -> Source:
    """Opens ``OWNER/NAME``, or ``OWNER/NAME:CONFIGURATION``, with ``datasets.load_dataset``.

    Raises:
        InputError: the library cannot load it, or it has no image or no class column.
        MissingExtraError: the library is not installed.
    """
    datasets = require("datasets", "lab")
    path, _, configuration = name.partition(":")
    try:
        splits = datasets.load_dataset(path, configuration or None)
    except Exception as error:  # The library raises errors of a dozen packages.
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"the Hugging Face Hub gave no data set {name!r} ({reason})") from error
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
