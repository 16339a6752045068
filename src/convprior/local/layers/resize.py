"""Tables over positions for another input size: linear interpolation."""

import torch
from torch import Tensor


@torch.no_grad()
def resize_(table: Tensor, axes: tuple[int, ...], size: tuple[int, ...]) -> None:
    """Interpolates a parameter linearly along ``axes``, in place: it stays the same object.

    The first and the last position stay what they are, since the border is where padding is felt.

    Args:
        table: any shape.
        axes: one or two axes over positions, not negative.
        size: their new sizes.
    """
    values = table.detach()
    for axis, length in zip(axes, size, strict=True):
        values = _along(values, axis, length)
    table.data = values.contiguous()
    table.grad = None


def _along(values: Tensor, axis: int, length: int) -> Tensor:
    old = values.shape[axis]
    if old == length:
        return values
    place = torch.linspace(0.0, old - 1.0, length, dtype=torch.float64, device=values.device)
    left = place.long().clamp(max=max(old - 2, 0))
    share = (place - left).to(values.dtype)
    share = share.view(-1, *[1] * (values.dim() - axis - 1))
    right = (left + 1).clamp(max=old - 1)
    return torch.lerp(values.index_select(axis, left), values.index_select(axis, right), share)
