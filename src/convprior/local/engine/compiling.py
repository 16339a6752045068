"""Numba's compiler as this package uses it: without the interpreter's lock, cached on disk."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import cfunc, njit, types

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compiles at the first call; kept on disk where a folder for it can be written."""
    try:
        dispatcher = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        return cast(Function, njit(nogil=True)(function))
    _forgive(dispatcher)
    folder = dispatcher.stats.cache_path
    if folder is not None:
        forget_older(Path(folder))
    return cast(Function, dispatcher)


def compiled_callback(function: Callable[..., None], arguments: int) -> Any:
    """Compiles now, to something with an ``address``, from so many integers to nothing."""
    kind = types.void(*[types.int64] * arguments)
    try:
        return cfunc(kind, cache=True)(function)
    except Exception:  # no folder, or one that cannot be read or written
        return cfunc(kind)(function)


def _forgive(dispatcher: Any) -> None:
    """Lets it compile where what is on disk cannot be read, or nothing be written.

    Unpickling raises whatever it likes; Numba passes it on.
    """
    kept = getattr(dispatcher, "_cache", None)
    if kept is None:
        return
    load, save = kept.load_overload, kept.save_overload

    def load_or_forget(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:
            with suppress(Exception):
                kept.flush()
            return None

    def save_or_not(*arguments: Any) -> None:
        with suppress(Exception):
            save(*arguments)

    kept.load_overload, kept.save_overload = load_or_forget, save_or_not


@cache
def forget_older(folder: Path) -> None:
    """Deletes what was compiled from other sources than these.

    Numba itself compiles a function again when its own file has changed, but not when a file that
    it calls has, which here would mean writing to wrong addresses.
    """
    digest = _sources()
    mark = folder / "convprior-engine.txt"
    with suppress(OSError):
        if mark.is_file() and mark.read_text() == digest:
            return
        for index in folder.glob("*.nbi"):
            index.unlink(missing_ok=True)
        mark.write_text(digest)


@cache
def _sources() -> str:
    """A digest of the files of this folder."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
