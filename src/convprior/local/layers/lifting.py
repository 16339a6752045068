"""One dimension as two: a sequence of length L is an image of size (1, L)."""

from collections.abc import Sequence

from torch import Tensor

from convprior.errors import InputError
from convprior.local.geometry import Geometry, whole_number, whole_numbers


def lift(x: Tensor, in_channels: int, input_size: tuple[int, ...]) -> Tensor:
    """A batch or one sample, 1-d or 2-d, as (N, C, H, W).

    Raises:
        InputError: ``x`` is not (N, C, *input_size) or (C, *input_size).
    """
    size, axes = tuple(x.shape[-len(input_size) :]), len(input_size) + 1
    if x.dim() not in (axes, axes + 1) or x.shape[-axes] != in_channels:
        raise InputError(
            f"the input has shape {tuple(x.shape)}; this layer takes "
            f"(N, {in_channels}, {', '.join(map(str, input_size))}), with or without N"
        )
    if size != input_size:
        raise InputError(
            f"the input is of size {size} and this layer has tables for {input_size}; give it "
            f"that, or call resize_positions({size}) once to interpolate the tables"
        )
    if x.dim() == axes:
        x = x.unsqueeze(0)
    return x.unsqueeze(-2) if axes == 2 else x


def lower(y: Tensor, x: Tensor, input_size: tuple[int, ...]) -> Tensor:
    """(N, F, H', W') with as many axes as the layer's input ``x`` had."""
    if len(input_size) == 1:
        y = y.squeeze(-2)
    return y.squeeze(0) if x.dim() == len(input_size) + 1 else y


def as_size(value: int | Sequence[int], axes: int) -> tuple[int, int]:
    """The (H, W) of a new input size, one int for all axes.

    Raises:
        InputError: it is no int, nor one for each axis.
    """
    rows, columns = (1, *whole_numbers(value, "input_size", 1, axes))[-2:]
    return rows, columns


def line_geometry(
    input_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    groups: int,
) -> Geometry:
    """The geometry of a 1-d convolution, as one of height 1.

    Raises:
        InputError: as :meth:`Geometry.of_conv`.
    """
    return Geometry.of_conv(
        (1, whole_number(input_size, "input_size")),
        (1, whole_number(kernel_size, "kernel_size")),
        (1, whole_number(stride, "stride")),
        padding if isinstance(padding, str) else (0, whole_number(padding, "padding", 0)),
        (1, whole_number(dilation, "dilation")),
        groups,
    )
