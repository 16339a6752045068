"""Losses that people would try instead of Bias Loss, each in a few lines.

All take logits (N, classes) and targets, integers (N,) or probabilities (N, classes), and reduce,
smooth and ignore as :func:`torch.nn.functional.cross_entropy` does (:class:`Conventions`); they
compute in float32 at least. For a smoothed or soft target ``y`` a loss ``l(p_y)`` of the
probability of the right class becomes ``sum_j y_j l(p_j)``, as in cross-entropy. Label smoothing
itself is ``torch.nn.CrossEntropyLoss(label_smoothing=0.1)``.

>>> logits, target = torch.zeros(3, 10), torch.tensor([0, 1, -100])
>>> focal_loss(logits, target, gamma=2.0)
tensor(1.8651)
>>> FocalLoss(gamma=2.0, reduction="none")(logits, target)
tensor([1.8651, 1.8651, 0.0000])
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, expm1, nn

from convprior.errors import InputError
from convprior.losses.targets import Conventions, check_range, prepared, reduced

# Below this the power of a certain prediction is held: its slope would be infinite at 0.
_NEVER_CERTAIN = 1e-12


def focal_loss(
    logits: Tensor, target: Tensor, gamma: float = 2.0, **conventions: Unpack[Conventions]
) -> Tensor:
    """``-(1 - p_y)^gamma log p_y`` with softmax: hard examples count more.

    Args:
        logits: (N, classes).
        target: (N,) or (N, classes).
        gamma: >= 0; 0 is cross-entropy.
        conventions: ``reduction``, ``label_smoothing``, ``ignore_index``.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017, arXiv 1708.02002).
    """
    check_range("gamma", gamma, 0.0)
    log_p, y, counted = prepared(logits, target, **conventions)
    rest = (-expm1(log_p)).clamp(min=_NEVER_CERTAIN)
    return reduced(-y * rest**gamma * log_p, counted, **conventions)


def poly1_loss(
    logits: Tensor, target: Tensor, epsilon: float = 1.0, **conventions: Unpack[Conventions]
) -> Tensor:
    """``-log p_y + epsilon (1 - p_y)``: the first term of cross-entropy's series weighs more.

    Args:
        logits: (N, classes).
        target: (N,) or (N, classes).
        epsilon: >= -1; 0 is cross-entropy.
        conventions: as :func:`focal_loss`.

    Source: Leng et al., "PolyLoss" (ICLR 2022, arXiv 2204.12511).
    """
    check_range("epsilon", epsilon, -1.0)
    log_p, y, counted = prepared(logits, target, **conventions)
    return reduced(-y * (log_p + epsilon * expm1(log_p)), counted, **conventions)


def generalized_cross_entropy(
    logits: Tensor, target: Tensor, q: float = 0.7, **conventions: Unpack[Conventions]
) -> Tensor:
    """``(1 - p_y^q) / q``: between cross-entropy (q to 0) and the mean absolute error (q = 1).

    Args:
        logits: (N, classes).
        target: (N,) or (N, classes).
        q: in (0, 1]; the larger, the less wrong labels harm and the slower it learns.
        conventions: as :func:`focal_loss`.

    Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks
    with Noisy Labels" (NeurIPS 2018, arXiv 1805.07836), whose q is 0.7.
    """
    if not 0.0 < q <= 1.0:
        raise InputError(f"q is {q!r}; it must be above 0 and at most 1")
    log_p, y, counted = prepared(logits, target, **conventions)
    return reduced(-y * expm1(q * log_p) / q, counted, **conventions)


def symmetric_cross_entropy(
    logits: Tensor,
    target: Tensor,
    alpha: float = 0.1,
    beta: float = 1.0,
    *,
    log_zero: float = -4.0,
    **conventions: Unpack[Conventions],
) -> Tensor:
    """``-alpha sum_j y_j log p_j - beta sum_j p_j max(log y_j, log_zero)``.

    For a hard label the second term is ``-beta log_zero (1 - p_y)``.

    Args:
        logits: (N, classes).
        target: (N,) or (N, classes).
        alpha: of cross-entropy, >= 0.
        beta: of the reverse cross-entropy, >= 0.
        log_zero: what stands for log 0, < 0.
        conventions: as :func:`focal_loss`.

    Source: Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels" (ICCV 2019,
    arXiv 1908.06112): alpha 0.1 and beta 1 for CIFAR-10, 6 and 0.1 for CIFAR-100. Their text has
    log_zero = -4, their code log 1e-4.
    """
    check_range("alpha", alpha, 0.0)
    check_range("beta", beta, 0.0)
    if not log_zero < 0.0:
        raise InputError(f"log_zero is {log_zero!r}; it stands for log 0 and must be below 0")
    log_p, y, counted = prepared(logits, target, **conventions)
    reverse = log_p.exp() * y.log().clamp(min=log_zero)
    return reduced(-alpha * y * log_p - beta * reverse, counted, **conventions)


def taylor_cross_entropy(
    logits: Tensor, target: Tensor, order: int = 2, **conventions: Unpack[Conventions]
) -> Tensor:
    """``sum_{k=1..order} (1 - p_y)^k / k``: the beginning of the series of ``-log p_y``.

    Args:
        logits: (N, classes).
        target: (N,) or (N, classes).
        order: >= 1; 1 is the mean absolute error, infinity cross-entropy.
        conventions: as :func:`focal_loss`.

    Source: Feng et al., "Can Cross Entropy Loss Be Robust to Label Noise?" (IJCAI 2020).
    """
    if not (order >= 1 and math.isfinite(order) and order == int(order)):
        raise InputError(f"order is {order!r}; it must be an integer of at least 1")
    log_p, y, counted = prepared(logits, target, **conventions)
    rest = -expm1(log_p)
    series = torch.zeros_like(rest)
    for k in range(int(order), 0, -1):  # Horner
        series = rest * (1.0 / k + series)
    return reduced(y * series, counted, **conventions)


class _Rival(nn.Module):
    """One of the functions above with its arguments."""

    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, own: dict[str, Any], conventions: Conventions) -> None:
        super().__init__()
        unknown = conventions.keys() - Conventions.__annotations__.keys()
        if unknown:
            raise InputError(
                f"{type(self).__name__} has no argument {sorted(unknown)[0]!r}; beside "
                f"{', '.join(own)} it has {', '.join(Conventions.__annotations__)} (for class "
                "weights take reduction='none' and weigh the examples)"
            )
        self.arguments = {**own, **conventions}
        # Here rather than in the first step: the function says what is wrong with its arguments.
        example = torch.ones(1, 1, device="cpu")
        self.function(example, example, **self.arguments)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, classes) and targets (N,) or (N, classes)."""
        return self.function(logits, target, **self.arguments)

    def extra_repr(self) -> str:
        """The arguments."""
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())


class FocalLoss(_Rival):
    """:func:`focal_loss` as a module."""

    function = staticmethod(focal_loss)

    def __init__(self, gamma: float = 2.0, **conventions: Unpack[Conventions]) -> None:
        super().__init__({"gamma": gamma}, conventions)


class Poly1Loss(_Rival):
    """:func:`poly1_loss` as a module."""

    function = staticmethod(poly1_loss)

    def __init__(self, epsilon: float = 1.0, **conventions: Unpack[Conventions]) -> None:
        super().__init__({"epsilon": epsilon}, conventions)


class GeneralizedCrossEntropy(_Rival):
    """:func:`generalized_cross_entropy` as a module."""

    function = staticmethod(generalized_cross_entropy)

    def __init__(self, q: float = 0.7, **conventions: Unpack[Conventions]) -> None:
        super().__init__({"q": q}, conventions)


class SymmetricCrossEntropy(_Rival):
    """:func:`symmetric_cross_entropy` as a module."""

    function = staticmethod(symmetric_cross_entropy)

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 1.0,
        *,
        log_zero: float = -4.0,
        **conventions: Unpack[Conventions],
    ) -> None:
        super().__init__({"alpha": alpha, "beta": beta, "log_zero": log_zero}, conventions)


class TaylorCrossEntropy(_Rival):
    """:func:`taylor_cross_entropy` as a module."""

    function = staticmethod(taylor_cross_entropy)

    def __init__(self, order: int = 2, **conventions: Unpack[Conventions]) -> None:
        super().__init__({"order": order}, conventions)
