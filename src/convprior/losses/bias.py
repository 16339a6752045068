"""Bias Loss: cross-entropy weighed by the variance of each example's features."""

import math
import operator
from collections.abc import Callable
from typing import Literal, Protocol, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from convprior.errors import InputError
from convprior.losses.processes import (
    Group,
    gather,
    gather_rows,
    largest_of_all,
    number_of_processes,
)
from convprior.losses.shuffling import shuffled
from convprior.losses.targets import (
    Reduction,
    check_range,
    check_reduction,
    check_target,
    single_precision,
)
from convprior.losses.variance import feature_variance
from convprior.losses.weights import (
    Control,
    check_shape_of_weights,
    extremes,
    finite,
    formula,
    scaled,
)

_DEFAULTS = {
    "label_smoothing": 0.0,
    "ignore_index": -100,
    "mean_one": False,
    "max_weight": None,
    "control": None,
    "seed": 0,
    "synchronize": True,
    "process_group": None,
}


class HasFeatures(Protocol):
    """What BiasLoss needs of a :class:`~convprior.losses.FeatureTap`."""

    @property
    def features(self) -> Tensor:
        """The feature maps of the last forward pass, (N, ...)."""


class BiasLoss(nn.Module):
    r"""Cross-entropy in which examples with diverse features count more.

    ``loss = sum_i z_i w_{y_i} CE_i / sum_i w_{y_i}`` with ``z_i = exp(alpha s_i) - beta`` and
    ``s_i = (v_i - min v) / (max v - min v)`` over the batch, where ``v_i`` is the variance of the
    features of example ``i`` (:func:`~convprior.losses.feature_variance`) and ``w`` the class
    weights, if any. The weights ``z`` are between 0.7 and 1.05 by default, and carry no gradient.
    They do not stand in the denominator: their mean, 0.8 to 0.9 in practice, also scales the
    gradient. ``mean_one`` removes that, and ``control="constant"`` shows what it alone does.

    Equal variances, as in a batch of one, give weights of 1. A sample with a NaN or an infinity
    among its features weighs 1 and takes no part in minimum and maximum. Computed in float32
    whatever autocast says; float64 stays.

    In training with ``torch.distributed`` the weights are those of the global batch and ``mean``
    divides by its denominator over the number of processes, so that the average of the gradients,
    as DistributedDataParallel takes it, is that of one process, even if shares differ in size or
    are empty. Every process has to call the loss equally often. In eval mode nothing is exchanged.
    Nothing waits for the device but ``shuffled`` over several processes, which gathers all weights.

    With gradient accumulation the range is that of each micro-batch. For the range of all of them
    take two passes: :func:`~convprior.losses.bias_weights` of all features, then ``(z *
    cross_entropy(logits, target, reduction="none")).mean()``.

    Args:
        alpha: spread of the weights, 0 to 20.
        beta: what is subtracted, < 1. ``alpha = beta = 0`` is cross-entropy.
        normalize: ``batch``, the paper's; or ``running``, the default of the authors' code: ``s``
            subtracts the smallest variance ever seen in training, so it can exceed 1 by far (the
            exponent is held at 20, so that no weight is infinite).
        reduction: ``mean``, ``sum`` or ``none``, as in :class:`torch.nn.CrossEntropyLoss`.
        label_smoothing: as there.
        weight: (classes,), as there.
        ignore_index: as there. Ignored examples take no part in minimum, maximum and means.
        mean_one: divide the weights by their mean over the batch.
        max_weight: the largest weight allowed (before ``mean_one``); tames ``running``.
        control: what a fair comparison needs beside it. ``constant``: each example gets the mean
            weight of its batch; ``shuffled``: the same weights on other examples; ``inverted``:
            low variance counts more (``1 - s``); ``2021``: ``exp(beta s) - 1 + alpha``, the
            formula in the authors' code until September 2022.
        seed: of ``shuffled``. Its order is a function of seed, number of the training call and
            position in the global batch.
        synchronize: whether the weights in training are those of the global batch.
        process_group: the processes that share a batch; None: all.

    Attributes:
        mean_weight: of the last batch, over the examples that count; detached, 0-d.
        largest_weight: likewise.
        smallest: the smallest variance seen in training, with ``normalize="running"`` in the
            ``state_dict``.
        calls: of the loss in training, with ``control="shuffled"`` in the ``state_dict``.

    Shapes:
        logits (N, classes); target (N,) integers or (N, classes) probabilities; features (N, ...),
        or a :class:`~convprior.losses.FeatureTap`, whose last features are taken.

    Source: Abrahamyan et al., "Bias Loss for Mobile Neural Networks" (ICCV 2021, arXiv
    2107.11170). Soft targets, class weights, ``mean_one``, ``max_weight`` and all corner cases
    are our choice.

    >>> loss = BiasLoss()
    >>> logits, features = torch.zeros(3, 10), torch.tensor([[0.0, 1], [0, 2], [0, 3]])
    >>> loss(logits, torch.tensor([0, 1, 2]), features), loss.mean_weight
    (tensor(1.9717), tensor(0.8563))
    """

    smallest: Tensor
    calls: Tensor
    weight: Tensor | None

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.3,
        normalize: Literal["batch", "running"] = "batch",
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        mean_one: bool = False,
        max_weight: float | None = None,
        control: Control | None = None,
        seed: int = 0,
        synchronize: bool = True,
        process_group: Group = None,
    ) -> None:
        super().__init__()
        check_reduction(reduction, label_smoothing)
        check_shape_of_weights(alpha, beta, control)
        if normalize not in ("batch", "running"):
            raise InputError(f"normalize is {normalize!r}; choose 'batch' or 'running'")
        if control not in (None, *get_args(Control)):
            raise InputError(
                f"control is {control!r}; choose None, 'constant', 'shuffled', 'inverted' or '2021'"
            )
        if max_weight is not None:
            check_range("max_weight", max_weight, 1.0)
        if weight is not None and not isinstance(weight, Tensor):
            raise InputError(f"weight is a {type(weight).__name__}; give a tensor (classes,)")
        self.alpha = alpha
        self.beta = beta
        self.normalize = normalize
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.ignore_index = operator.index(ignore_index)
        self.mean_one = mean_one
        self.max_weight = max_weight
        self.control = control
        self.seed = operator.index(seed)
        self.synchronize = synchronize
        self.process_group = process_group
        self.register_buffer("weight", weight)
        # Whatever the default device: the first call takes them where the features are.
        smallest, calls = torch.tensor(math.inf, device="cpu"), torch.tensor(0, device="cpu")
        self.register_buffer("smallest", smallest, normalize == "running")
        self.register_buffer("calls", calls, control == "shuffled")
        self.mean_weight = self.largest_weight = torch.tensor(1.0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What ``.to()`` calls: half precision would round the smallest variance."""
        smallest = self.smallest
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.smallest = smallest.to(self.smallest.device)
        return self

    def reset(self) -> None:
        """Forgets the smallest variance and the number of calls."""
        self.smallest.fill_(math.inf)
        self.calls.zero_()

    def forward(self, logits: Tensor, target: Tensor, features: Tensor | HasFeatures) -> Tensor:
        """The loss; shapes as in the class.

        Raises:
            InputError: shapes do not fit, or there is one feature a sample.
        """
        check_target(logits, target)
        variance = _variance(features, len(logits))
        if self.smallest.device != variance.device:  # or each call would wait for the device
            self.to(variance.device)
        logits = single_precision(logits)
        if not target.is_floating_point():
            target = target.long()
        losses = cross_entropy(
            logits,
            target,
            None if self.weight is None else self.weight.to(logits.dtype),
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        group = self.process_group
        world = number_of_processes(group) if self.training and self.synchronize else 1
        with torch.no_grad():
            z, denominator = self._weigh(variance, target, world)
        losses = z.to(losses.dtype) * losses
        if self.reduction == "none":
            return losses
        total = losses.sum()
        return total if self.reduction == "sum" else total * (world / denominator.to(total.dtype))

    def _weigh(self, variance: Tensor, target: Tensor, world: int) -> tuple[Tensor, Tensor]:
        """The weights (N,), and what the mean divides by, over the batch of all processes."""
        if target.is_floating_point():
            counted = torch.ones_like(variance, dtype=torch.bool)
        else:
            counted = target != self.ignore_index
        low, high = extremes(variance, counted & finite(variance))
        if world > 1:
            low, high = largest_of_all(torch.stack([-low, high]), self.process_group).unbind()
            low = -low
        z = self._weights(variance, low, high)
        z = z.masked_fill(~counted, 0.0)  # outside the range it could be infinite

        ones = counted.to(z.dtype)
        class_weights = ones
        if self.weight is not None and not target.is_floating_point():
            class_weights = ones * self.weight.to(z.dtype)[target * counted]
        sums = torch.stack([z, ones, class_weights]).sum(1)
        largest = pad(z, (0, 1)).amax()
        if world > 1:
            shares = gather(torch.cat([sums, largest[None]]), self.process_group)
            sums, largest = shares[:, :3].sum(0), shares[:, 3].amax()
        total, count, denominator = sums.unbind()
        mean = (total / count).masked_fill(count == 0, 1.0)

        if self.mean_one:
            z, largest, mean = z / mean, largest / mean, torch.ones_like(mean)
        if self.control == "constant":
            z, largest = mean.expand_as(z), mean
        if self.control == "shuffled":
            z = self._shuffle(z, counted, world)
        self.mean_weight, self.largest_weight = mean, largest
        return z, denominator

    def _weights(self, variance: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The weights (N,) before what compares them with each other."""
        origin = low
        if self.normalize == "running":
            origin = torch.minimum(self.smallest.to(low.dtype), low)
            if self.training:
                self.smallest.copy_(origin)
        if self.control == "inverted":  # mirrored within the batch: 1 - s
            variance = low + high - variance
        z = scaled(variance, low, high, origin, formula(self.alpha, self.beta, self.control))
        return z if self.max_weight is None else z.clamp(max=self.max_weight)

    def _shuffle(self, z: Tensor, counted: Tensor, world: int) -> Tensor:
        if world == 1:
            z = shuffled(z, counted, self.seed, self.calls)
        else:
            rows = torch.stack([z, counted.to(z.dtype)], 1)
            everything, begin = gather_rows(rows, self.process_group)
            every_z, every_counted = everything.unbind(1)
            every_z = shuffled(every_z, every_counted > 0, self.seed, self.calls)
            z = every_z[begin : begin + len(z)]
        if self.training:
            self.calls.add_(1)
        return z

    def extra_repr(self) -> str:
        """alpha, beta, normalize and reduction, then what is not its default."""
        shown = [f"alpha={self.alpha}", f"beta={self.beta}", f"normalize={self.normalize!r}"]
        shown.append(f"reduction={self.reduction!r}")
        for name, default in _DEFAULTS.items():
            if (value := getattr(self, name)) != default:
                shown.append(f"{name}={value!r}")
        return ", ".join([*shown, *(["weight"] if self.weight is not None else [])])


def _variance(features: Tensor | HasFeatures, count: int) -> Tensor:
    """Of the features given or tapped, after a look at their number."""
    layer = None
    if not isinstance(features, Tensor):
        if not hasattr(features, "features"):
            raise InputError(
                f"features is a {type(features).__name__}; give a tensor (N, ...) or a FeatureTap "
                "of the network"
            )
        layer = getattr(features, "layer", None)
        features = features.features
    if features.shape[:1] != (count,):
        raise InputError(
            f"features have shape {tuple(features.shape)} beside {count} logits; give the features "
            "of the same batch (with a FeatureTap: did the network run again since? see paused())"
        )
    return feature_variance(features, layer=layer)
