"""Numba's compiler as this package uses it: without the interpreter's lock, cached on disk."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import cfunc, njit, types

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compiles at the first call; kept on disk where a folder for it can be written."""
    try:
        return cast(Function, njit(nogil=True, cache=True)(function))
    except RuntimeError:  # no folder to keep it in
        return cast(Function, njit(nogil=True)(function))


def compiled_callback(function: Callable[..., None], arguments: int) -> Any:
    """Compiles now, to something with an ``address``, from so many integers to nothing."""
    kind = types.void(*[types.int64] * arguments)
    try:
        return cfunc(kind, cache=True)(function)
    except RuntimeError:
        return cfunc(kind)(function)
