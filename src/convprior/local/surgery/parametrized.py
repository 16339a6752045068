"""A convolution's parametrization, on each basis of the local layer that takes its place."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convprior.errors import InputError
from convprior.filters.selection import ConvLayer

_OLDER = ("weight_g", "weight_v", "weight_u", "weight_orig", "weight_mask")
"""What the older functions compute a weight from."""


class OnEachBasis(nn.Module):
    """Applies the steps of a parametrization to each basis, with tensors of its own.

    The weight of the local layer is ``cat_k step(...step(original[k]))``. Each basis has copies of
    the steps, since some have a state (spectral norm's singular vectors).

    Args:
        steps: the parametrizations of the convolution's weight, first to last.
        originals: the tensors they start from; each basis starts with these.
        rank: number of bases.
    """

    def __init__(self, steps: Sequence[nn.Module], originals: Sequence[Tensor], rank: int) -> None:
        super().__init__()
        self.bases = nn.ModuleList(copy.deepcopy(nn.ModuleList(steps)) for _ in range(rank))
        self._originals: list[Tensor] | None = [
            torch.stack([original.detach()] * rank) for original in originals
        ]

    def forward(self, *originals: Tensor) -> Tensor:
        """The weight, (rank * F, ...), of originals (rank, ...)."""
        weights = []
        for k, steps in enumerate(self.bases):
            assert isinstance(steps, nn.ModuleList)
            weight: Any = [original[k] for original in originals]
            for step in steps:
                weight = [step(*weight)]
            weights += weight
        return torch.cat(weights)

    def right_inverse(self, weight: Tensor) -> Tensor | list[Tensor]:
        """Originals of a weight, if the convolution's parametrizations know them."""
        originals, self._originals = self._originals, None
        # PyTorch asks for them when a parametrization is registered: then they are those given.
        if originals is None:
            each = []
            for steps, basis in zip(self.bases, weight.chunk(len(self.bases)), strict=True):
                assert isinstance(steps, nn.ModuleList)
                inverse: Any = basis
                for step in reversed(list[Any](steps)):
                    inverse = step.right_inverse(inverse)
                each.append([inverse] if isinstance(inverse, Tensor) else inverse)
            originals = [torch.stack(list(parts)) for parts in zip(*each, strict=True)]
        return originals[0] if len(originals) == 1 else originals


class Masked(nn.Module):
    """``weight * mask``: what pruning leaves.

    Args:
        mask: of the weight's shape.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.detach().clone())

    def forward(self, weight: Tensor) -> Tensor:
        """The weight without the pruned entries."""
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The weight itself."""
        return weight


def parametrize_bases_(local: nn.Module, layer: ConvLayer, rank: int) -> None:
    """Gives every basis of a local layer the parametrization and the weight of a convolution.

    Also those of the older functions ``weight_norm``, ``spectral_norm`` and ``prune``, which work
    by hooks: they become what ``torch.nn.utils.parametrize`` has for them.

    Raises:
        InputError: it is none of these.
    """
    steps, originals = _steps(layer)
    chain = OnEachBasis(steps, originals, rank)
    parametrize.register_parametrization(local, "weight", chain, unsafe=True)
    new: Any = local
    kept = new.parametrizations.weight
    names = ["original"] if kept.is_tensor else [f"original{i}" for i in range(kept.ntensors)]
    for name, original in zip(names, originals, strict=True):
        getattr(kept, name).requires_grad_(original.requires_grad)


def computes_weight(hook: object) -> bool:
    """Whether a hook is one that the older functions leave on a convolution."""
    hook = getattr(hook, "hook", hook)
    module = type(hook).__module__
    return isinstance(hook, BasePruningMethod) or module in (
        "torch.nn.utils.spectral_norm",
        "torch.nn.utils.weight_norm",
    )


def parts_besides(conv: nn.Module) -> list[str]:
    """Parameters, buffers and modules of a convolution besides bias, weight and its parts."""
    parts = conv._parameters | conv._buffers | conv._modules
    usual = ("weight", "bias", "parametrizations", *_OLDER)
    return [name for name, part in parts.items() if part is not None and name not in usual]


def _steps(layer: ConvLayer) -> tuple[list[nn.Module], list[Tensor]]:
    conv: Any = layer.module
    if parametrize.is_parametrized(conv, "weight"):
        steps = conv.parametrizations.weight
        if steps.is_tensor:
            return list(steps), [steps.original]
        return list(steps), [getattr(steps, f"original{i}") for i in range(steps.ntensors)]
    for hook in conv._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            originals = [conv.weight_g, conv.weight_v]
            return _registered(parametrizations.weight_norm, conv.weight_v, dim=hook.dim), originals
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            norm = _registered(
                parametrizations.spectral_norm,
                conv.weight_orig,
                n_power_iterations=hook.n_power_iterations,
                eps=hook.eps,
                dim=hook.dim,
            )
            state = norm[0].state_dict()
            norm[0].load_state_dict(dict(zip(state, (conv.weight_u, conv.weight_v), strict=True)))
            return norm, [conv.weight_orig]
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == "weight":
            return [Masked(conv.weight_mask)], [conv.weight_orig]
    raise InputError(
        f"the weight of {layer.name!r} is computed in a way that no local layer can take over; "
        "make it a parameter first, or leave the layer out through layers="
    )


def _registered(register: Any, weight: Tensor, **options: Any) -> list[nn.Module]:
    """The steps that one of PyTorch's functions registers on a weight."""
    holder: Any = nn.Module()
    holder.weight = nn.Parameter(weight.detach().clone())
    register(holder, **options)
    return list(holder.parametrizations.weight)
