"""Which path computes a layer: the one that was asked for, or the cheapest that can."""

import contextlib
import importlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from convprior.errors import InputError
from convprior.local import engine
from convprior.local.geometry import Geometry
from convprior.local.paths.cost import Problem, seconds

PATHS = ("plain", "conv", "lines", "kernels_first", "recompute", "compiled", "triton")

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_asked: ContextVar[str] = ContextVar("path", default="auto")


@contextlib.contextmanager
def use_path(path: str) -> Iterator[None]:
    """Inside, local layers take this path, except where a call names one itself.

    Args:
        path: one of ``PATHS``, or "auto" for the cheapest.

    Raises:
        InputError: there is no such path. A layer that the path cannot compute raises one when it
            is called.

    Example:
        >>> from convprior.local import use_path
        >>> with use_path("recompute"):
        ...     pass
    """
    token = _asked.set(_checked(path))
    try:
        yield
    finally:
        _asked.reset(token)


def choose(
    x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry, path: str = "auto"
) -> str:
    """The path for ``sum_k w_k * conv(x, B_k)``.

    Args:
        x: (N, C, H, W).
        bases: (K, F, C / groups, kh, kw).
        weights: (K, H', W'), (K, H', 1), (K, 1, W') or (N, K, H', W').
        geometry: of the convolution.
        path: one of ``PATHS``, or "auto": what ``use_path`` says, or else the cheapest by
            ``cost.seconds``.

    Returns:
        One of ``PATHS``; "plain" whatever was asked for where tracing, a transform or a second
        derivative needs ordinary operations.

    Raises:
        InputError: there is no such path, or it cannot compute this.
    """
    path = _checked(path)
    path = _asked.get() if path == "auto" else path
    if needs_plain(x, bases, weights):
        return "plain"
    if path != "auto":
        reason = why_not(path, x, bases, weights, geometry)
        if reason is not None:
            raise InputError(f"path is {path!r}, which cannot compute this layer: {reason}")
        return path
    problem = Problem.of(x, bases, weights, geometry)
    able = [name for name in PATHS if why_not(name, x, bases, weights, geometry) is None]
    return min(able, key=lambda name: seconds(name, problem))


def choose_given(x: Tensor, weight: Tensor, path: str = "auto") -> str:
    """The path for a kernel given at each position: "plain" or "kernels_first".

    Raises:
        InputError: another one was asked for by name.
    """
    given = _checked(path)
    if given not in ("auto", "plain", "kernels_first"):
        raise InputError(
            f"path is {path!r}; with a kernel for each position give 'plain' or 'kernels_first'"
        )
    asked = _asked.get() if given == "auto" else given
    return "plain" if asked == "plain" or needs_plain(x, weight) else "kernels_first"


def why_not(path: str, x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> str | None:
    """Why a path cannot compute it, or None if it can."""
    lines = weights.dim() == 3 and 1 in weights.shape[1:]
    if path == "conv" and bases.shape[0] != 1:
        return f"its rank is {bases.shape[0]}, not 1"
    if path == "lines" and not lines:
        return "its weights depend on more than rows or columns alone"
    if path == "kernels_first" and weights.dim() == 4:
        return "each sample has combining weights of its own"
    if path == "compiled":
        return engine.why_not(x, bases, weights, geometry)
    if path == "triton":
        if x.device.type != "cuda":
            return f"the input is on {x.device}, not on a GPU"
        triton = importlib.import_module("convprior.local.triton")
        reason: str | None = triton.why_not(x, bases, weights, geometry)
        return reason
    return None


def needs_plain(*tensors: Tensor) -> bool:
    """Whether something looks into the computation, or there is nothing to compute."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    if torch._C._are_functorch_transforms_active():
        return True
    return any(
        type(tensor) not in (Tensor, torch.nn.Parameter)
        or tensor.layout != torch.strided
        or tensor.dtype not in _FLOATS
        or tensor.device.type == "meta"
        or tensor.numel() == 0
        or forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
        for tensor in tensors
    )


def _checked(path: str) -> str:
    if path != "auto" and path not in PATHS:
        known = ", ".join(map(repr, PATHS))
        raise InputError(f"path is {path!r}; give 'auto' or one of {known}")
    return path
