"""Learning rates of the decoupled form: which one each weight has, and how much it shrinks."""

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from convprior.errors import InputError
from convprior.filters.locoreg.coverage import Covered
from convprior.filters.locoreg.double_decay import refuse_double_decay

Rate = float | Tensor


def rates_of(lr: Rate | Optimizer, members: Sequence[tuple[Covered, Tensor]]) -> list[Rate]:
    """The learning rate of each weight: one for all, or that of its group in an optimizer.

    A step that the optimizer will skip, since a GradScaler found an overflow, has the rate 0.

    Raises:
        InputError: the optimizer does not hold one of the weights, or decays one itself.
    """
    if not isinstance(lr, Optimizer):
        return [_number(lr)] * len(members)
    refuse_double_decay(lr, [item.layer for item, _ in members])
    # Fused optimizers are stepped in any case and skip inside, as this attribute tells them.
    skipped = getattr(lr, "found_inf", None)
    rate_of: dict[int, Rate] = {}
    for group in lr.param_groups:
        rate = _unless(skipped, _number(group["lr"]))
        rate_of.update((id(parameter), rate) for parameter in group["params"])
    rates = []
    for item, weight in members:
        if id(weight) not in rate_of:
            raise InputError(
                f"the optimizer does not hold the weight of {item.layer.name!r}, so its learning "
                "rate is unknown; pass a rate instead, or exclude the layer"
            )
        rates.append(rate_of[id(weight)])
    return rates


def shrinkage(item: Covered, strength: float, rate: Rate) -> Tensor:
    """``1 - rate * 2 strength * costs``, float64 of the kernel's shape.

    The product is taken in AdamW's order, so that costs of 1 give its factor bit for bit.

    Raises:
        InputError: a factor would be 0 or negative, or the rate is negative.
    """
    if isinstance(rate, Tensor):
        return 1.0 - rate * (2.0 * strength) * item.costs.to(rate.device)
    _check(item, strength, rate)
    return 1.0 - rate * (2.0 * strength) * item.costs


def amount(item: Covered, strength: float, rate: Rate) -> Rate:
    """``2 rate strength``, the share of ``A w`` that a step takes off.

    Raises:
        InputError: it reaches 1 in the direction of the largest eigenvalue, or the rate is
            negative.
    """
    if not isinstance(rate, Tensor):
        _check(item, strength, rate)
    return rate * (2.0 * strength)


def _check(item: Covered, strength: float, rate: float) -> None:
    product = rate * 2.0 * strength * item.largest
    largest, part = ("max(c)", "a tap") if item.matrix is None else ("max eig(A)", "a filter")
    if not 0.0 <= product < 1.0:
        raise InputError(
            f"lr * 2 * strength * {largest} is {product:.4g} for {item.layer.name!r} (lr={rate:g}, "
            f"strength={strength:g}, {largest}={item.largest:g}); it must be in [0, 1), or {part} "
            "changes its sign; lower one of them"
        )


def _unless(skipped: Tensor | None, rate: Rate) -> Rate:
    if skipped is None:
        return rate
    if skipped.device.type == "cpu":
        return 0.0 if float(skipped) else rate
    return rate * (1.0 - skipped.double())


def _number(lr: Rate) -> Rate:
    # Reading a tensor on an accelerator would make the host wait for it.
    return lr if isinstance(lr, Tensor) and lr.device.type != "cpu" else float(lr)
