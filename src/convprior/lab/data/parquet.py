"""Parquet files in the Hugging Face layout: an image column and a label column."""

import bisect
import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convprior._optional import require
from convprior.errors import InputError
from convprior.lab.data.layout import files_fingerprint, split_files
from convprior.lab.data.source import Part, Source

IMAGE_COLUMNS = ("image", "img", "images", "picture", "jpg", "png")
LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target", "category", "cls")


def open_parquet(path: Path) -> Source:
    """Opens one Parquet file, or a folder of them such as ``train-*.parquet, test-*.parquet``.

    Files whose name or folder says test are the test set, failing that those that say validation;
    the rest is the training set. The image column is a struct of ``bytes`` and ``path``, or
    binary; class names come from the schema metadata that Hugging Face writes, else from the
    labels.

    Raises:
        InputError: a file is damaged, or has no image or no label column.
    """
    train_files, test_files = split_files(path, ".parquet")
    columns, classes = _read_schema(train_files[0])
    values = _read_labels(train_files, columns[1])
    if classes is None:
        if not _are_text(values) and max(values, default=-1) >= max(len(values), 1):
            raise InputError(
                f"{path} has the label {max(values)} but only {len(values)} images, so some class "
                "below it has none: number the classes 0, 1, 2, ..., or write their names"
            )
        names = sorted(set(values)) if _are_text(values) else range(max(values, default=-1) + 1)
        classes = tuple(str(name) for name in names)
    train = ParquetPart(train_files, columns[0], _as_numbers(values, classes, train_files))
    test = None
    if test_files:
        labels = _as_numbers(_read_labels(test_files, columns[1]), classes, test_files)
        test = ParquetPart(test_files, columns[0], labels)
    return Source(path.stem if path.is_file() else path.resolve().name, classes, train, test)


class ParquetPart(Part):
    """Rows of Parquet files; keeps the row group that was read last."""

    sequential = True

    def __init__(self, files: Sequence[Path], column: str, labels: Tensor) -> None:
        self.files = files
        self.column = column
        self.labels = labels
        self.fingerprint = files_fingerprint(files)
        self._groups: list[tuple[Path, int, int]] = []
        sizes = []
        for file in files:
            first = 0
            metadata = _open(file).metadata
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group, first))
                sizes.append(metadata.row_group(group).num_rows)
                first += sizes[-1]
        self._starts = [0, *accumulate(sizes)]
        self._held = -1
        self._images: Any = None
        self._paths: Any = None

    def read(self, row: int) -> bytes:
        """Returns the bytes of one image file."""
        position = self._position(row)
        file, group, _ = self._groups[position]
        if position != self._held:
            table = _guarded(file, lambda: _open(file).read_row_group(group, [self.column]))
            images = table[self.column].combine_chunks()
            self._paths = None
            if hasattr(images, "field"):  # A struct: taking it apart once is 20x as quick.
                images, self._paths = images.field("bytes"), images.field("path")
            self._images, self._held = images, position
        offset = row - self._starts[position]
        content = self._images[offset].as_py()
        if content is None and self._paths is not None:
            beside = file.parent / (self._paths[offset].as_py() or "")
            content = beside.read_bytes() if beside.is_file() else None
        if not isinstance(content, bytes):
            raise InputError(f"{self.where(row)} holds no image bytes: replace or remove the row")
        return content

    def where(self, row: int) -> str:
        """Names the file and the row in it."""
        position = self._position(row)
        file, _, first = self._groups[position]
        return f"row {first + row - self._starts[position]} of {file}"

    def _position(self, row: int) -> int:
        return bisect.bisect_right(self._starts, row) - 1


def find_columns(names: Sequence[str], name: str) -> tuple[str, str]:
    """Returns the names of the image and of the label column.

    Raises:
        InputError: there is none of the usual names.
    """
    found = []
    for kind, usual in (("image", IMAGE_COLUMNS), ("label", LABEL_COLUMNS)):
        column = next((column for column in usual if column in names), None)
        if column is None:
            raise InputError(
                f"{name} has the columns {', '.join(names)} but no {kind} column: rename it to "
                f"{kind!r} (also read: {', '.join(usual[1:])})"
            )
        found.append(column)
    return found[0], found[1]


def _read_schema(file: Path) -> tuple[tuple[str, str], tuple[str, ...] | None]:
    schema = _open(file).schema_arrow
    columns = find_columns(schema.names, str(file))
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(text)["info"]["features"][columns[1]]["names"]
    except (ValueError, KeyError, TypeError):
        return columns, None
    # Older versions write {"0": "airplane", ...}.
    return columns, tuple(names.values() if isinstance(names, Mapping) else names)


def _read_labels(files: Sequence[Path], column: str) -> list[Any]:
    values: list[Any] = []
    for file in files:
        names = _open(file).schema_arrow.names
        if column not in names:
            raise InputError(
                f"{file} has the columns {', '.join(names)} but no column {column!r} as the other "
                "files of the set: write all files with the same columns"
            )
        values += _guarded(file, lambda file=file: _open(file).read([column]))[column].to_pylist()
    kind = str if _are_text(values) else int
    wrong = next((row for row, value in enumerate(values) if not isinstance(value, kind)), None)
    if wrong is not None:
        raise InputError(
            f"{files[0].parent} has the label {values[wrong]!r} at row {wrong}, but labels are "
            "all whole numbers or all texts: give every row a label"
        )
    return values


def _as_numbers(values: list[Any], classes: tuple[str, ...], files: Sequence[Path]) -> Tensor:
    if _are_text(values):
        numbers = {name: number for number, name in enumerate(classes)}
        unknown = next((value for value in values if value not in numbers), None)
        if unknown is not None:
            raise InputError(
                f"{files[0].parent} has the label {unknown!r}, which is none of the "
                f"{len(classes)} classes ({', '.join(classes[:5])}, ...): correct the label"
            )
        values = [numbers[value] for value in values]
    return torch.tensor(values, dtype=torch.int64)


def _are_text(values: list[Any]) -> bool:
    return bool(values) and isinstance(values[0], str)


def _open(file: Path) -> Any:
    parquet = require("pyarrow.parquet", "lab")
    return _guarded(file, lambda: parquet.ParquetFile(file))


def _guarded(file: Path, action: Any) -> Any:
    try:
        return action()
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these.
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{file} is not a whole Parquet file ({reason}): copy it again") from error
