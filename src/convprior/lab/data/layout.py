"""Which files of a folder belong to which split, and whether they changed."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from convprior.errors import InputError

TEST_NAMES = ("test", "testing", "validation", "valid", "val", "dev", "eval")
"""Names of a split used for the test, the first one present."""

TRAIN_NAMES = ("train", "training")

_WORD = re.compile(
    rf"(?:^|[/\-_.])({'|'.join(TRAIN_NAMES + TEST_NAMES)})(?=[/\-_.\d]|$)", re.IGNORECASE
)


def split_files(path: Path, suffix: str) -> tuple[list[Path], list[Path]]:
    """Sorts the files below ``path`` (or the file ``path``) into training and test files.

    Files that name no split are for training, if no file is named so.

    Raises:
        InputError: no file is left for training.
    """
    if path.is_file():
        return [path], []
    files = find_files(path, suffix)
    split: dict[str, list[Path]] = {}
    for file in files:
        words = _WORD.findall(file.relative_to(path).as_posix()[: -len(suffix)])
        split.setdefault(words[-1].lower() if words else "", []).append(file)
    train = next((split[name] for name in (*TRAIN_NAMES, "") if name in split), [])
    test = next((split[name] for name in TEST_NAMES if name in split), [])
    if not train:
        raise InputError(
            f"{path} has {len(files)} {suffix} files but none for training: name one "
            f"train{suffix} or train-00000-of-00001{suffix}"
        )
    return train, test


def find_files(path: Path, suffix: str) -> list[Path]:
    """Returns the visible files with ``suffix`` in ``path`` and one folder below, sorted."""
    found = [*path.glob(f"*{suffix}"), *path.glob(f"*/*{suffix}")]
    return sorted(f for f in found if not any(p.startswith(".") for p in f.relative_to(path).parts))


def files_fingerprint(files: Sequence[Path]) -> str:
    """Returns a hash of the paths, sizes and times of change of ``files``.

    Raises:
        InputError: a file is a link to nothing, or its folder cannot be entered.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            state = file.stat()
        except OSError as error:
            raise InputError(
                f"{file} cannot be read ({error.strerror}): replace or remove it"
            ) from error
        # A path is bytes on disk, not always UTF-8.
        digest.update(os.fsencode(f"{file.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0"))
    return digest.hexdigest()
