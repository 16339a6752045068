"""The folder of a study: the only memory there is, so a status is what the files say.

``study.json`` is the study as written; ``cells/KEY/`` holds one run each, named by the hash of its
recipe: ``metrics.json`` when finished, ``state.safetensors`` when it can go on, ``error.json``
when it ended otherwise. A process that works on a cell holds the lock of ``cells/KEY/lock``, which
the operating system drops when the process ends in whatever way.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from convprior._files import read_json, write_json
from convprior._version import __version__
from convprior.errors import InputError, RunError
from convprior.lab.study.design import Cell
from convprior.lab.study.rows import Row, Status
from convprior.lab.train.run import FORMAT as METRICS_FORMAT

FORMAT = 1
"""Of everything in a study's folder but the cells' metrics, which have their own."""

_FAILURES = ("crashed", "diverged", "interrupted")
_NUMBERS = (
    "accuracy", "balanced_accuracy", "loss", "train_accuracy", "seconds", "evaluated_images",
)  # fmt: skip


class Store:
    """The folder of one study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._finished: dict[str, dict[str, Any]] = {}

    def exists(self) -> bool:
        """Whether the folder holds a study."""
        return self._file().exists()

    def begin(self, document: Mapping[str, Any]) -> None:
        """Makes the folder this study's: a new or empty one, or one that was before.

        Raises:
            InputError: it holds something else, which is left alone.
            RunError: another format version of convprior wrote it; it is left alone.
        """
        if self.exists():
            if self.document() != document:
                self._write(document)
            return
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; choose another folder")
        if self.folder.exists() and any(e.name[0] != "." for e in self.folder.iterdir()):
            raise InputError(
                f"{self.folder} has files but no study.json, so it is no study's folder; "
                "choose a new or an empty one"
            )
        self._write(document)

    def document(self) -> dict[str, Any]:
        """The study as written.

        Raises:
            RunError: there is none, or another format version wrote it.
        """
        if not self.exists():
            raise RunError(f"{self.folder} holds no study (no study.json); name a study's folder")
        found = read_json(self._file())
        form = found.get("format") if isinstance(found, dict) else None
        if form != FORMAT:
            wrote = found.get("version", "unknown") if isinstance(found, dict) else "unknown"
            raise RunError(
                f"{self.folder} was written in format {form} by convprior {wrote}, and this "
                f"convprior {__version__} reads format {FORMAT}; use that version, "
                "or choose another folder"
            )
        if not isinstance(found.get("study"), dict):
            raise _damaged(self._file(), "it has no study")
        return cast("dict[str, Any]", found["study"])

    def cell(self, key: str) -> Path:
        """The folder of a cell."""
        return self.folder / "cells" / key

    def status(self, key: str) -> tuple[Status, dict[str, Any] | None, str | None]:
        """Status, metrics and error of a cell."""
        if key in self._finished:
            return "finished", self._finished[key], None
        found = read_status(self.cell(key))
        if found[1] is not None:
            self._finished[key] = found[1]
        return found

    def rows(self, cells: Iterable[Cell]) -> list[Row]:
        """One row a cell."""
        return [
            Row(*cell.slot, cell.split, cell.seed, cell.key, *self.status(cell.key))
            for cell in cells
        ]

    def _file(self) -> Path:
        return self.folder / "study.json"

    def _write(self, document: Mapping[str, Any]) -> None:
        content = {"format": FORMAT, "version": __version__, "study": document}
        write_json(self._file(), content)


def read_status(folder: Path) -> tuple[Status, dict[str, Any] | None, str | None]:
    """Status, metrics and error of the cell in ``folder``, from its files alone.

    Raises:
        RunError: another format version wrote it, or a file is damaged.
    """
    if (folder / "metrics.json").exists():
        metrics = read_json(folder / "metrics.json")
        _same_format(folder / "metrics.json", metrics, METRICS_FORMAT)
        _check_metrics(folder / "metrics.json", metrics)
        return "finished", metrics, None
    try:
        failure = read_json(folder / "error.json")
    except RunError:
        if (folder / "error.json").exists():
            raise
    else:
        _same_format(folder / "error.json", failure, FORMAT)
        if failure.get("status") not in _FAILURES or not isinstance(failure.get("error"), str):
            raise _damaged(folder / "error.json", "it names no failure")
        return failure["status"], None, failure["error"]
    if (folder / "state.safetensors").exists():
        return "interrupted", None, "stopped; the same command goes on from its saved state"
    return "waiting", None, None


def write_failure(folder: Path, status: Status, error: str, detail: str = "") -> None:
    """Records that the cell in ``folder`` ended without a result."""
    content = {"format": FORMAT, "status": status, "error": error, "detail": detail}
    write_json(folder / "error.json", content)


def clear_failure(folder: Path) -> None:
    """Forgets a failure: the cell is to be run again."""
    (folder / "error.json").unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Holds the lock of a cell, if no other process does.

    Yields:
        Whether the lock was free.

    Raises:
        RunError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a")
    except OSError as error:
        raise RunError(
            f"could not make {folder}: {error.strerror or error}; free some space or choose "
            "another folder, then run the same command again"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            # For people who wonder who it is.
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield True


def _same_format(path: Path, found: Any, expected: int) -> None:
    form = found.get("format") if isinstance(found, dict) else None
    if form != expected:
        raise RunError(
            f"{path} was written in format {form}, and this convprior {__version__} reads format "
            f"{expected}; use the version that wrote it, or choose another folder"
        )


def _check_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Refuses what statistics and reports would stumble over.

    Raises:
        RunError: a number or a list is none.
    """
    for name in _NUMBERS:
        value = metrics.get(name, 0.0)
        if value is None and name == "seconds":  # not measured
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _damaged(path, f"its {name} is no number")
    if not isinstance(metrics.get("per_class_accuracy", []), list):
        raise _damaged(path, "its per_class_accuracy is no list")
    if "accuracy" not in metrics:
        raise _damaged(path, "it has no accuracy")


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"{path} is damaged ({why}); delete it to have it made again")
