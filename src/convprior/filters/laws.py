"""Locality laws: how much a filter's tap costs, given its distance from the filter's center.

The idea is that of J. Schneider, "Locality-Promoting Representation Learning" (arXiv 1905.10661):
weights far from the center should pay more. The paper's formula is not known to us, so the laws
and the normalization here are our choice, and none of them is "the paper's".
"""

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import count
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from convprior._random import mix
from convprior.errors import InputError

KernelSize = int | Sequence[int]
Law = Literal["quadratic", "linear", "geometric", "gaussian", "two_level"]
Control = Literal["reversed", "permuted"]
Normalize = Literal["mean", "geomean"]

# Growth per tap of the geometric law and width in taps of the gaussian one: our choice.
_DEFAULT_PARAMETER = {"geometric": 2.0, "gaussian": 1.0}

_WIDEST = 1e100  # of the gaussian law: its square must be a float64
_LARGEST = 1 << 25  # of a kernel, in pixels: below it squared distances are exact in float64


def tap_costs(
    kernel_size: KernelSize,
    law: Law = "quadratic",
    floor: float = 0.0,
    *,
    parameter: float | None = None,
    normalize: Normalize = "mean",
    control: Control | None = None,
    seed: int = 0,
    dilation: KernelSize = 1,
) -> Tensor:
    r"""The cost ``c`` of every tap of a filter, by which a penalty ``sum c w^2`` multiplies it.

    With ``d`` the Euclidean distance of a tap from the filter's center ``((k_h-1)/2, (k_w-1)/2)``
    and ``h(d)`` the law, ``c = floor + (1 - floor) * h / mean(h)``. Laws:

    - ``quadratic``: ``d^2``; ``linear``: ``d``;
    - ``geometric``: ``g^d - 1`` with ``g = parameter`` (2; tends to ``linear`` as ``g -> 1``);
    - ``gaussian``: ``1 - exp(-d^2 / (2 s^2))`` with ``s = parameter`` (1 tap);
    - ``two_level``: 0 for the nearest tap or taps, 1 for all others.

    The mean is 1 for every law and floor, so a strength means the same as with plain L2
    (``floor = 1``). With ``floor = 0`` the center of an odd kernel is free. Where all taps are
    equally far (1x1, 2x2) ``c = 1``: plain L2, never no penalty.

    Args:
        kernel_size: an int means a square, as in ``nn.Conv2d``; otherwise one to three sizes.
        law: one of the five above.
        floor: share of plain L2, in [0, 1].
        parameter: of ``geometric`` (> 1) or ``gaussian`` (> 0); the other laws have none.
        normalize: ``mean`` makes the mean cost 1; ``geomean`` the geometric mean (determinant 1,
            as Feinman and Lake, arXiv 1903.01882), which needs every cost > 0.
        control: what a fair comparison must beat. ``reversed`` turns the order around (``max h -
            h``: the center is the dearest tap, the corners are the cheapest); ``permuted`` puts
            the same costs in other places, the same ones for every filter. Both have mean 1.
        seed: of the permutation.
        dilation: spacing of the taps; 1 measures distance in taps, a layer's own dilation in
            pixels (with one spacing on all axes only ``geometric`` and ``gaussian`` change).

    Returns:
        float64 tensor of the kernel's shape on the CPU.

    Raises:
        InputError: an argument is out of its range.

    Example:
        >>> tap_costs(3)[0].tolist()
        [1.5, 0.75, 1.5]

    Source: our choice, with the value table of the laws held by the tests.
    """
    squared = _squared_distances(kernel_size, dilation)
    shape = _law(law, parameter)(squared)
    if not bool(torch.isfinite(shape).all()):
        raise InputError(f"parameter {parameter} overflows {law!r}; choose a smaller one")
    return costs_of_shape(shape, floor, normalize=normalize, control=control, seed=seed)


def costs_of_shape(
    shape: Tensor,
    floor: float = 0.0,
    *,
    normalize: Normalize = "mean",
    control: Control | None = None,
    seed: int = 0,
) -> Tensor:
    """Turns any non-negative shape ``h`` into costs: control, then mean 1, then the floor.

    Args:
        shape: (k_h, k_w) or another kernel's shape, all entries >= 0.
        floor: share of plain L2, in [0, 1].
        normalize: ``mean`` or ``geomean``, as in :func:`tap_costs`.
        control: None, ``reversed`` or ``permuted``, as in :func:`tap_costs`.
        seed: of the permutation.

    Returns:
        ``floor + (1 - floor) * h / mean(h)``, float64, or 1 where all ``h`` are equal.

    Raises:
        InputError: ``floor``, ``control`` or ``normalize`` is none of the above, or ``geomean``
            is asked of costs that contain 0.

    Source: our choice.
    """
    check_floor(floor)
    shape = _controlled(shape.to(torch.float64), control, seed)
    if bool(shape.min() == shape.max()):
        return torch.ones_like(shape)
    costs = floor + (1.0 - floor) * (shape / shape.mean())
    if normalize == "mean":
        return costs
    if normalize != "geomean":
        raise InputError(f"normalize is {normalize!r}; choose one of {get_args(Normalize)}")
    if bool(costs.min() <= 0):
        raise InputError("normalize='geomean' needs every cost > 0 and one is 0; give a floor > 0")
    return costs / costs.log().mean().exp()


def tap_distances(kernel_size: KernelSize, dilation: KernelSize = 1) -> Tensor:
    """Euclidean distance of every tap from the geometric center of its filter.

    Args:
        kernel_size: as in :func:`tap_costs`.
        dilation: spacing of the taps (1: the result is in taps).

    Returns:
        float64 tensor of the kernel's shape; an even kernel has no tap at distance 0.

    Raises:
        InputError: a size or spacing is not a positive int.

    Source: our choice of center, ``(k - 1) / 2``. With stride 2 and asymmetric ("same") padding
    the image position below it is half a pixel off; nothing here corrects that.
    """
    return _squared_distances(kernel_size, dilation).sqrt()


def as_kernel_size(size: KernelSize, name: str = "kernel_size") -> tuple[int, ...]:
    """Checks a kernel size: an int is a square of ``nn.Conv2d``, a sequence has one to three.

    Raises:
        InputError: a size is not a positive int, or there are not one to three of them.
    """
    given: Any = size  # NumPy's integers are Integral, but no int
    try:
        sizes = (given, given) if isinstance(given, Integral) else tuple(given)
    except TypeError:
        sizes = ()
    if not 1 <= len(sizes) <= 3 or not all(_is_positive(k) for k in sizes):
        raise InputError(f"{name} is {size!r}; give an int >= 1 or one to three of them")
    return tuple(int(k) for k in sizes)


def check_floor(floor: float) -> None:
    """Raises unless ``floor`` is a number in [0, 1].

    Raises:
        InputError: it is not.
    """
    if not is_number(floor) or not 0.0 <= floor <= 1.0:
        raise InputError(f"floor is {floor!r}; it is the share of plain L2, so give 0 to 1")


def check_law(law: object, otherwise: str = "") -> None:
    """Raises unless ``law`` is a law's name; the message adds what else may be given.

    Raises:
        InputError: it is not; the message names the one that was probably meant.
    """
    if law in get_args(Law):
        return
    near = get_close_matches(law, get_args(Law), 1) if isinstance(law, str) else []
    guess = f"did you mean {near[0]!r}? Else " if near else ""
    raise InputError(f"law is {law!r}; {guess}choose one of {', '.join(get_args(Law))}{otherwise}")


def changing_permutation(taps: int, seed: int, changes: Callable[[Tensor], bool]) -> Tensor:
    """The order of the taps that all permuted controls share: the first that changes something.

    A shuffle that maps the costs onto themselves (one in three for a 1x3 kernel) controls nothing.

    Args:
        taps: how many there are to shuffle.
        seed: of the permutation.
        changes: whether an order changes what is permuted; some order must.

    Returns:
        int64 (taps,), a pure function of the arguments.

    Source: our choice.
    """
    for attempt in count():
        generator = torch.Generator().manual_seed(mix(seed, taps, attempt))
        order = torch.randperm(taps, generator=generator)
        if changes(order):
            break
    return order


def is_number(value: object) -> bool:
    """Whether this is a real number, or a tensor of one; ``"1e-4"`` is not."""
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def _is_positive(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1


def _squared_distances(kernel_size: KernelSize, dilation: KernelSize) -> Tensor:
    sizes = as_kernel_size(kernel_size)
    given: Any = dilation
    single = isinstance(given, Integral)
    spacing = as_kernel_size((given,) * len(sizes) if single else given, "dilation")
    if len(spacing) != len(sizes):
        raise InputError(f"dilation {dilation!r} and kernel_size {kernel_size!r} differ in length")
    if max(sizes) * max(spacing) > _LARGEST:
        raise InputError(
            f"a kernel of size {kernel_size!r} with dilation {dilation!r} is too large for exact "
            f"distances; give sizes whose product is at most {_LARGEST}"
        )
    # Twice the offset is an integer also for even kernels, so equal distances are equal exactly.
    squared = torch.zeros(sizes, dtype=torch.int64)
    for axis, (size, step) in enumerate(zip(sizes, spacing, strict=True)):
        offset = (2 * torch.arange(size) - (size - 1)) * step
        squared += (offset**2).view([-1 if i == axis else 1 for i in range(len(sizes))])
    return squared.to(torch.float64) / 4


def _law(law: str, parameter: float | None) -> Callable[[Tensor], Tensor]:
    check_law(law)
    if law not in _DEFAULT_PARAMETER:
        if parameter is not None:
            raise InputError(
                f"law {law!r} has no parameter and {parameter} was given; leave it out"
            )
        if law == "quadratic":
            return lambda squared: squared
        if law == "linear":
            return torch.sqrt
        return lambda squared: (squared > squared.min()).to(torch.float64)
    least, most = (1.0, math.inf) if law == "geometric" else (0.0, _WIDEST)
    given = _DEFAULT_PARAMETER[law] if parameter is None else parameter
    value = float(given) if is_number(given) else math.nan
    if not least < value < most or value < 1.0 / _WIDEST:
        limit = "" if most == math.inf else f", and between {1 / most:g} and {most:g}"
        raise InputError(f"parameter of {law!r} is {parameter!r}; give a number > {least:g}{limit}")
    if law == "geometric":
        return lambda squared: torch.expm1(squared.sqrt() * math.log(value))
    return lambda squared: -torch.expm1(-squared / (2.0 * value**2))


def _controlled(shape: Tensor, control: Control | None, seed: int) -> Tensor:
    if control not in (None, *get_args(Control)):
        raise InputError(f"control is {control!r}; choose None, 'reversed' or 'permuted'")
    if control is None or bool(shape.min() == shape.max()):
        return shape
    if control == "reversed":
        return shape.max() - shape
    flat = shape.flatten()
    order = changing_permutation(len(flat), seed, lambda o: not torch.equal(flat[o], flat))
    return flat[order].view_as(shape)
