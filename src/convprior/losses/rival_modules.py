"""The losses of :mod:`convprior.losses.rivals` as modules."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from convprior.losses.rivals import (
    focal_loss,
    generalized_cross_entropy,
    poly1_loss,
    symmetric_cross_entropy,
    taylor_cross_entropy,
)
from convprior.losses.targets import Reduction, check_reduction


class _Rival(nn.Module):
    """Calls a function with what the module was built with."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        own: dict[str, Any],
        reduction: Reduction,
        label_smoothing: float,
        ignore_index: int,
    ) -> None:
        super().__init__()
        check_reduction(reduction, label_smoothing)
        self.function = function
        self.own = own
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, classes) and targets (N,) or (N, classes)."""
        result: Tensor = self.function(
            logits,
            target,
            **self.own,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )
        return result

    def extra_repr(self) -> str:
        """The loss's own arguments, and the reduction."""
        shown = {**self.own, "reduction": self.reduction}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


class FocalLoss(_Rival):
    """:func:`~convprior.losses.focal_loss` as a module."""

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(focal_loss, {"gamma": gamma}, reduction, label_smoothing, ignore_index)


class Poly1Loss(_Rival):
    """:func:`~convprior.losses.poly1_loss` as a module."""

    def __init__(
        self,
        epsilon: float = 1.0,
        *,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
    ) -> None:
        own = {"epsilon": epsilon}
        super().__init__(poly1_loss, own, reduction, label_smoothing, ignore_index)


class GeneralizedCrossEntropy(_Rival):
    """:func:`~convprior.losses.generalized_cross_entropy` as a module."""

    def __init__(
        self,
        q: float = 0.7,
        *,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
    ) -> None:
        own = {"q": q}
        super().__init__(generalized_cross_entropy, own, reduction, label_smoothing, ignore_index)


class SymmetricCrossEntropy(_Rival):
    """:func:`~convprior.losses.symmetric_cross_entropy` as a module."""

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 1.0,
        *,
        log_zero: float = -4.0,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
    ) -> None:
        own = {"alpha": alpha, "beta": beta, "log_zero": log_zero}
        super().__init__(symmetric_cross_entropy, own, reduction, label_smoothing, ignore_index)


class TaylorCrossEntropy(_Rival):
    """:func:`~convprior.losses.taylor_cross_entropy` as a module."""

    def __init__(
        self,
        order: int = 2,
        *,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
    ) -> None:
        own = {"order": order}
        super().__init__(taylor_cross_entropy, own, reduction, label_smoothing, ignore_index)
