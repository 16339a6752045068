"""What the losses of this room share: their arguments, soft targets and reductions."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from convprior.errors import InputError

Reduction = Literal["mean", "sum", "none"]


def check_reduction(reduction: str, label_smoothing: float) -> None:
    """Raises an InputError unless both are what torch's cross-entropy takes."""
    if reduction not in get_args(Reduction):
        raise InputError(f"reduction is {reduction!r}; choose 'mean', 'sum' or 'none'")
    if not 0.0 <= label_smoothing <= 1.0:
        raise InputError(f"label_smoothing is {label_smoothing!r}; it must be between 0 and 1")


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises an InputError unless ``low <= value <= high`` and ``value`` is finite."""
    if not (low <= value <= high and math.isfinite(value)):
        rule = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise InputError(f"{name} is {value!r}; it must be finite and {rule}")


def check_target(logits: Tensor, target: Tensor) -> None:
    """Raises an InputError unless ``target`` holds one class, or one distribution, a row."""
    shape, given = tuple(logits.shape), tuple(target.shape)
    if logits.ndim != 2:
        raise InputError(f"logits have shape {shape}; they must be (N, classes)")
    if given != (shape if target.is_floating_point() else shape[:1]):
        raise InputError(
            f"target is {target.dtype} of shape {given} beside logits of shape {shape}; give "
            "integer classes (N,) or probabilities (N, classes)"
        )


def single_precision(logits: Tensor) -> Tensor:
    """``logits`` in float32, whatever autocast made of them; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


def distributions(
    logits: Tensor, target: Tensor, label_smoothing: float, ignore_index: int
) -> tuple[Tensor, Tensor | None]:
    """Targets as (N, classes) in the logits' dtype, and which rows count (None: all do).

    ``y = (1 - e) y + e / classes`` for the smoothing ``e``. Rows of the class ``ignore_index``
    do not count; soft targets always do.
    """
    check_target(logits, target)
    classes = logits.shape[1]
    counted = None
    if target.is_floating_point():
        soft = target.to(logits.dtype)
    else:
        counted = target != ignore_index
        soft = one_hot(target.long() * counted, classes).to(logits.dtype)
    if label_smoothing:
        soft = soft * (1.0 - label_smoothing) + label_smoothing / classes
    return soft, counted


def reduced(losses: Tensor, counted: Tensor | None, reduction: str) -> Tensor:
    """Mean, sum or none of the (N,) losses, where those that do not count are 0."""
    if counted is not None:
        losses = torch.where(counted, losses, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum" or counted is None:
        return losses.sum() if reduction == "sum" else losses.mean()
    return losses.sum() / counted.sum()
