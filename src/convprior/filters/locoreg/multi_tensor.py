"""The fast paths of LocoReg: many weights, each multiplied by the costs of its taps.

Multiplying an (out, in, 3, 3) weight by a (3, 3) tensor runs in strides of nine numbers. So the
costs are laid out once in the weight's own memory format: as one row (1, in, 3, 3), which stays in
a CPU's cache while the weight streams past, or in full on an accelerator, where the multi-tensor
kernels want equal shapes. Weights of equal shape share one tile.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_SHORT_ROW = 512  # numbers: below it a row no longer hides the loop overhead (measured on a CPU)
HALF = (torch.float16, torch.bfloat16)


def tile_key(weight: Tensor) -> tuple[Any, ...]:
    """What a tile depends on beside the costs: shape, memory format, dtype and device."""
    return (weight.shape, weight.stride(), weight.dtype, weight.device)


def local(tensor: Tensor) -> Tensor:
    """This process's filters of a weight that FSDP has sharded; any other tensor as it is."""
    # Asked by name: importing DTensor would cost everybody two seconds.
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def tile(costs: Tensor, weight: Tensor) -> Tensor:
    """Lays ``costs`` (the kernel's shape) out so that ``weight * tile`` streams.

    Args:
        costs: float64, shape of the last axes of ``weight``, any device.
        weight: ``(out, in, *kernel_size)``.

    Returns:
        ``(1 or out, in, *kernel_size)`` in the memory format of ``weight``; half-precision weights
        get float32 costs, since ``1 - 1e-4`` is 1 in bfloat16.
    """
    whole = weight.device.type != "cpu" or weight.shape[1:].numel() < _SHORT_ROW
    model = weight.detach() if whole else weight.detach()[:1]
    dtype = torch.float32 if weight.dtype in HALF else weight.dtype
    return torch.empty_like(model, dtype=dtype).copy_(costs)


def weighted_squares(weights: Sequence[Tensor], tiles: list[Tensor], roots: list[Tensor]) -> Tensor:
    """``sum over weights of sum c w^2``, differentiable, with one graph node for all weights.

    Args:
        weights: of one dtype and device.
        tiles: ``c``, from :func:`tile`.
        roots: ``sqrt(c)``, from :func:`tile`.

    Returns:
        Scalar; float32 for half-precision weights. Nothing weight-sized is kept for backward
        except the weights themselves.
    """
    total: Tensor = _WeightedSquares.apply(tiles, roots, *weights)
    return total


class _WeightedSquares(torch.autograd.Function):
    @staticmethod
    def forward(_tiles: list[Tensor], roots: list[Tensor], *weights: Tensor) -> Tensor:
        if weights[0].device.type == "cpu":
            # One product at a time stays in memory the allocator already has; all at once cost
            # four times as much in page faults, and multi-tensor calls are loops here anyway.
            pairs = zip(weights, roots, strict=True)
            norms = [torch.linalg.vector_norm(weight * root) for weight, root in pairs]
        else:
            norms = list(torch._foreach_norm(torch._foreach_mul(weights, roots)))
        return torch.stack(norms).square().sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:  # torch.func's
        ctx.tiles, _, *weights = inputs
        ctx.save_for_backward(*weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        weights: list[Tensor] = list(ctx.saved_tensors)
        if torch.is_grad_enabled():  # a second derivative is wanted; multi-tensor calls have none
            pairs = zip(weights, ctx.tiles, strict=True)
            return None, None, *(2.0 * grads[0] * tile * weight for weight, tile in pairs)
        # The scalar goes into the small tiles first, so that each weight is read once.
        scaled = torch._foreach_mul(ctx.tiles, 2.0 * grads[0])
        return None, None, *torch._foreach_mul(weights, scaled)
