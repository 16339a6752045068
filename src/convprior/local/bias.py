"""Biases of channels and of positions, added in one pass over the output."""

from torch import Tensor

from convprior.local.paths.dispatch import needs_plain


def add_bias(y: Tensor, bias: Tensor | None, spatial_bias: Tensor | None) -> Tensor:
    """``y + bias + spatial_bias``; ``y`` may be overwritten.

    Args:
        y: (N, F, H', W'), which nobody else needs.
        bias: (F,), or (F, H', W').
        spatial_bias: broadcastable to (H', W').

    Returns:
        (N, F, H', W') in the dtype and memory format of ``y``.
    """
    if bias is not None and bias.dim() == 1:
        bias = bias[:, None, None]
    total = spatial_bias if bias is None else bias if spatial_bias is None else bias + spatial_bias
    if total is None:
        return y
    total = total.to(y.dtype)
    if needs_plain(y, total):
        return y + total
    if total.shape[-2:] == (1, 1):
        return y.add_(total)
    # As rows in the order of memory, a sample each: torch sums gradients over the samples of such
    # a matrix ten times faster than over those of a channels_last image.
    order = (0, 2, 3, 1) if y.stride(1) == 1 else (0, 1, 2, 3)
    whole = total.expand(y.shape[1:]).unsqueeze(0).permute(order)
    rows = y.permute(order)
    shape = rows.shape
    rows = rows.reshape(len(y), -1).add_(whole.reshape(1, -1)).view(shape)
    back = (0, 3, 1, 2) if y.stride(1) == 1 else (0, 1, 2, 3)
    return rows.permute(back)
