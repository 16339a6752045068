"""What the losses of this room share: their conventions, checks, soft targets and reductions."""

import math
from typing import Literal, TypedDict, get_args

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot

from convprior.errors import InputError

Reduction = Literal["mean", "sum", "none"]


class Conventions(TypedDict, total=False):
    """What every loss takes as :func:`torch.nn.functional.cross_entropy` does.

    Attributes:
        reduction: ``mean`` over the examples that count (default), ``sum`` or ``none``.
        label_smoothing: share of the uniform distribution in the target, default 0.
        ignore_index: class of the examples that do not count, default -100.
    """

    reduction: Reduction
    label_smoothing: float
    ignore_index: int


def check_reduction(reduction: str, label_smoothing: float) -> None:
    """Raises an InputError unless both are what torch's cross-entropy takes."""
    if reduction not in get_args(Reduction):
        raise InputError(f"reduction is {reduction!r}; choose 'mean', 'sum' or 'none'")
    check_range("label_smoothing", label_smoothing, 0.0, 1.0)


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises an InputError unless ``low <= value <= high`` and ``value`` is finite."""
    if not (low <= value <= high and math.isfinite(value)):
        rule = f"finite and at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name} is {value!r}; it must be {rule}")


def check_target(logits: Tensor, target: Tensor) -> None:
    """Raises an InputError unless ``target`` holds one class, or one distribution, a row."""
    for name, value in (("logits", logits), ("target", target)):
        if not isinstance(value, Tensor):
            raise InputError(f"{name} is a {type(value).__name__}; give a tensor")
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


def prepared(
    logits: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``log p`` and ``y``, both (N, classes), and which rows count (None: all do).

    ``y = (1 - e) y + e / classes`` for the smoothing ``e``. Rows of the class ``ignore_index`` do
    not count; soft targets always do.
    """
    check_reduction(reduction, label_smoothing)
    check_target(logits, target)
    logits = single_precision(logits)
    counted = None
    if target.is_floating_point():
        y = target.to(logits.dtype)
    else:
        counted = target != ignore_index
        y = one_hot(target.long() * counted, logits.shape[1]).to(logits.dtype)
    if label_smoothing:
        y = y * (1.0 - label_smoothing) + label_smoothing / logits.shape[1]
    # A class masked by a logit of -inf has no part in a target without it: 0 log 0 = 0.
    log_p = log_softmax(logits, 1).clamp(min=torch.finfo(logits.dtype).min)
    return log_p, y, counted


def reduced(
    terms: Tensor,
    counted: Tensor | None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,  # noqa: ARG001  (already in the terms)
    ignore_index: int = -100,  # noqa: ARG001  (already in counted)
) -> Tensor:
    """Sums (N, classes) over classes; then mean, sum or none over the rows that count."""
    losses = terms.sum(1)
    if counted is not None:
        losses = losses.masked_fill(~counted, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.mean() if counted is None else losses.sum() / counted.sum()
