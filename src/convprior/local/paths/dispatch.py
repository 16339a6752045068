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

KEPT_BYTES = 1 << 18
"""Outputs that "auto" lets a layer keep for its backward pass, as "plain" keeps all K.

A training step by the best other path, which calls the library more often, takes two to three times
as long at N = 1, K = 2 and 4 channels of 8x8 (CPU), and 1.2 to 1.5 times at this limit.
"""

SMALL_GIVEN = 1 << 20
"""Multiplications up to which a kernel for each position is not worth the pieces of a fast path.

"plain" keeps the patches, so at most as many numbers as this divided by F.
"""

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
    kept = problem.rank * problem.images * problem.filters * geometry.positions * x.element_size()
    if problem.training and kept > KEPT_BYTES:
        able.remove("plain")
    return min(able, key=lambda name: seconds(name, problem))


def choose_given(x: Tensor, weight: Tensor, geometry: Geometry, path: str = "auto") -> str:
    """The path for a kernel given at each position: the first that can of a fixed order.

    Raises:
        InputError: there is no such path, or it cannot compute this.
    """
    path = _checked(path)
    path = _asked.get() if path == "auto" else path
    if needs_plain(x, weight):
        return "plain"
    if path != "auto":
        reason = why_not_given(path, x, weight, geometry)
        if reason is not None:
            raise InputError(f"path is {path!r}, which cannot compute this layer: {reason}")
        return path
    small = weight.numel() * x.shape[0] < SMALL_GIVEN
    order = ("plain",) if small else ("triton", "compiled", "kernels_first")
    return next(name for name in order if why_not_given(name, x, weight, geometry) is None)


def why_not_given(path: str, x: Tensor, weight: Tensor, geometry: Geometry) -> str | None:
    """Why a path cannot compute a layer with a kernel for each position, or None if it can."""
    if path in ("conv", "lines", "recompute"):
        return "its kernels are no mixtures"
    if path == "compiled":
        return engine.why_not_given(x, weight, geometry)
    if path == "triton":
        if x.device.type != "cuda":
            return f"the input is on {x.device}, not on a GPU"
        gpu = importlib.import_module("convprior.local.gpu")
        reason: str | None = gpu.why_not_given(x, weight, geometry)
        return reason
    return None


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
        gpu = importlib.import_module("convprior.local.gpu")
        reason: str | None = gpu.why_not(x, bases, weights, geometry)
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
