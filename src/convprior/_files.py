"""Files that are old or new, never torn: write beside, flush, then rename."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from convprior.errors import RunError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write beside ``path``, which it replaces in one step when the block ends well.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the old file is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replaces ``path`` by ``data`` in one step: a reader sees the old file or the new one.

    Raises:
        RunError: the disk is full, or the folder cannot be written; the old file is intact.
    """
    try:
        with replacing(path) as file:
            file.write(data.encode() if isinstance(data, str) else data)
    except OSError as error:
        raise RunError(
            f"could not save {path}: {error.strerror or error}; "
            "free some space or choose another folder, then run the same command again"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        RunError: the file is absent or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Any = None) -> None:
    """Writes tensors, and ``header`` as JSON in the metadata, to one safetensors file."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"convprior": json.dumps(header, allow_nan=False)}
    write_atomic(path, save(contiguous, metadata=metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Reads what :func:`save_tensors` wrote: the tensors and the header.

    Raises:
        RunError: the file is absent or is not a whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads((file.metadata() or {}).get("convprior", "null"))
    except (OSError, SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise _unreadable(path, error) from error
    return tensors, header


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(f"could not read {path}: {error}; delete it to have it made again")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
