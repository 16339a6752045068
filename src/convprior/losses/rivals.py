"""Losses that people would try instead of Bias Loss, each in a few lines.

All take logits (N, classes) and targets, integers (N,) or probabilities (N, classes), and reduce,
smooth and ignore as :func:`torch.nn.functional.cross_entropy` does; they compute in float32 at
least. For a smoothed or soft target ``y`` a loss ``l(p_y)`` of the probability of the right class
becomes ``sum_j y_j l(p_j)``, as in cross-entropy. :mod:`convprior.losses.rival_modules` has them
as modules. Label smoothing itself is ``torch.nn.CrossEntropyLoss(label_smoothing=0.1)``.
"""

from torch import Tensor, expm1
from torch.nn.functional import log_softmax

from convprior.errors import InputError
from convprior.losses.targets import (
    Reduction,
    check_range,
    check_reduction,
    distributions,
    reduced,
    single_precision,
)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    *,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Tensor:
    """``-(1 - p_y)^gamma log p_y`` with softmax: hard examples count more.

    Args:
        logits: (N, classes).
        target: (N,) classes or (N, classes) probabilities.
        gamma: >= 0; 0 is cross-entropy.
        reduction: ``mean`` over the examples that count, ``sum`` or ``none``.
        label_smoothing: share of the uniform distribution in the target.
        ignore_index: class of the examples that do not count.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017, arXiv 1708.02002).
    """
    check_range("gamma", gamma, 0.0)
    log_p, y, counted = _prepare(logits, target, reduction, label_smoothing, ignore_index)
    # The slope of a power below 1 is infinite at 0.
    rest = (-expm1(log_p)).clamp(min=1e-12)
    return reduced(-(y * rest**gamma * log_p).sum(1), counted, reduction)


def poly1_loss(
    logits: Tensor,
    target: Tensor,
    epsilon: float = 1.0,
    *,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Tensor:
    """``-log p_y + epsilon (1 - p_y)``: the first term of cross-entropy's series weighs more.

    Args:
        logits: (N, classes).
        target: (N,) classes or (N, classes) probabilities.
        epsilon: >= -1; 0 is cross-entropy.
        reduction: ``mean`` over the examples that count, ``sum`` or ``none``.
        label_smoothing: share of the uniform distribution in the target.
        ignore_index: class of the examples that do not count.

    Source: Leng et al., "PolyLoss" (ICLR 2022, arXiv 2204.12511).
    """
    check_range("epsilon", epsilon, -1.0)
    log_p, y, counted = _prepare(logits, target, reduction, label_smoothing, ignore_index)
    return reduced((y * (-log_p - epsilon * expm1(log_p))).sum(1), counted, reduction)


def generalized_cross_entropy(
    logits: Tensor,
    target: Tensor,
    q: float = 0.7,
    *,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Tensor:
    """``(1 - p_y^q) / q``: between cross-entropy (q to 0) and the mean absolute error (q = 1).

    Args:
        logits: (N, classes).
        target: (N,) classes or (N, classes) probabilities.
        q: in (0, 1]; larger is more robust to wrong labels and slower to learn.
        reduction: ``mean`` over the examples that count, ``sum`` or ``none``.
        label_smoothing: share of the uniform distribution in the target.
        ignore_index: class of the examples that do not count.

    Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks
    with Noisy Labels" (NeurIPS 2018, arXiv 1805.07836); their q is 0.7.
    """
    if not 0.0 < q <= 1.0:
        raise InputError(f"q is {q!r}; it must be above 0 and at most 1")
    log_p, y, counted = _prepare(logits, target, reduction, label_smoothing, ignore_index)
    return reduced(-(y * expm1(q * log_p)).sum(1) / q, counted, reduction)


def symmetric_cross_entropy(
    logits: Tensor,
    target: Tensor,
    alpha: float = 0.1,
    beta: float = 1.0,
    *,
    log_zero: float = -4.0,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Tensor:
    """``-alpha sum_j y_j log p_j - beta sum_j p_j max(log y_j, log_zero)``.

    For a hard label the second term is ``-beta log_zero (1 - p_y)``.

    Args:
        logits: (N, classes).
        target: (N,) classes or (N, classes) probabilities.
        alpha: of cross-entropy, >= 0.
        beta: of the reverse cross-entropy, >= 0.
        log_zero: what stands for log 0, < 0.
        reduction: ``mean`` over the examples that count, ``sum`` or ``none``.
        label_smoothing: share of the uniform distribution in the target.
        ignore_index: class of the examples that do not count.

    Source: Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels" (ICCV 2019,
    arXiv 1908.06112): alpha 0.1, beta 1 and log_zero -4 for CIFAR-10, alpha 6, beta 0.1 for
    CIFAR-100. Their code has log_zero = log 1e-4.
    """
    check_range("alpha", alpha, 0.0)
    check_range("beta", beta, 0.0)
    if not log_zero < 0.0:
        raise InputError(f"log_zero is {log_zero!r}; it stands for log 0 and must be below 0")
    log_p, y, counted = _prepare(logits, target, reduction, label_smoothing, ignore_index)
    reverse = log_p.exp() * y.log().clamp(min=log_zero)
    return reduced(-(alpha * y * log_p + beta * reverse).sum(1), counted, reduction)


def taylor_cross_entropy(
    logits: Tensor,
    target: Tensor,
    order: int = 2,
    *,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Tensor:
    """``sum_{k=1..order} (1 - p_y)^k / k``: the beginning of the series of ``-log p_y``.

    Args:
        logits: (N, classes).
        target: (N,) classes or (N, classes) probabilities.
        order: >= 1; 1 is the mean absolute error, infinity cross-entropy.
        reduction: ``mean`` over the examples that count, ``sum`` or ``none``.
        label_smoothing: share of the uniform distribution in the target.
        ignore_index: class of the examples that do not count.

    Source: Feng et al., "Can Cross Entropy Loss Be Robust to Label Noise?" (IJCAI 2020).
    """
    if order < 1 or order != int(order):
        raise InputError(f"order is {order!r}; it must be an integer of at least 1")
    log_p, y, counted = _prepare(logits, target, reduction, label_smoothing, ignore_index)
    rest = -expm1(log_p)
    series = rest * 0.0
    for k in range(int(order), 0, -1):  # Horner
        series = rest * (1.0 / k + series)
    return reduced((y * series).sum(1), counted, reduction)


def _prepare(
    logits: Tensor, target: Tensor, reduction: Reduction, label_smoothing: float, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``log p`` and ``y``, both (N, classes), and which rows count."""
    check_reduction(reduction, label_smoothing)
    logits = single_precision(logits)
    y, counted = distributions(logits, target, label_smoothing, ignore_index)
    return log_softmax(logits, 1), y, counted
