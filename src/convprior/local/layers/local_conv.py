"""LocalConv2d: a convolution without weight sharing, one kernel for each position.

Paper: none; the layer that Torch7, Keras 2 and Lasagne had.

Reference code: Keras 2's ``LocallyConnected2D``.

Differences: any stride, padding, dilation and groups; the fan-in of a filter is what it sees
(``init="keras"`` counts the positions too).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.local import functional
from convprior.local.geometry import Geometry, Padding, PaddingMode, Pair, check_channels
from convprior.local.layers.initialization import LocalInit, draw_local_
from convprior.local.layers.lifting import as_size, lift, lower
from convprior.local.layers.resize import resize_


class LocalConvNd(nn.Module):
    """Everything but the arguments' forms; a sequence is an image of one row here.

    Args:
        in_channels: C.
        out_channels: F.
        geometry: of the 2-d convolution.
        axes: 1 or 2, the input's.
        padding: as the user gave it, for ``repr``.
        bias: one a channel and position.
        padding_mode: as in ``nn.Conv2d``.
        init: the law of a fresh layer.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        geometry: Geometry,
        axes: int,
        padding: Any,
        bias: bool,
        padding_mode: PaddingMode,
        *,
        init: LocalInit,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        in_channels, out_channels = check_channels(
            in_channels, out_channels, geometry.groups, padding_mode
        )
        if init not in get_args(LocalInit):
            raise InputError(f"init is {init!r}; choose of {get_args(LocalInit)}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.groups, self.padding_mode = geometry.groups, padding_mode
        self.kernel_size, self.stride = geometry.kernel_size[-axes:], geometry.stride[-axes:]
        self.padding: Any = padding
        if not isinstance(padding, str):
            self.padding = (geometry.padding[0], geometry.padding[2])[-axes:]
        self.dilation = geometry.dilation[-axes:]
        self.geometry, self.init = geometry, init
        positions = geometry.output_size[-axes:]
        shape = (*positions, out_channels, in_channels // self.groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias: Tensor | None
        values = nn.Parameter(self.weight.new_empty(out_channels, *positions)) if bias else None
        self.register_parameter("bias", values)
        self.reset_parameters()

    @property
    def input_size(self) -> tuple[int, ...]:
        """(H, W), or (L,): the size of the inputs this layer has kernels for."""
        return self.geometry.input_size[-self._axes :]

    def reset_parameters(self) -> None:
        """Draws the kernels again; the bias becomes zero."""
        draw_local_(self.weight, self.init, self._axes)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @torch.no_grad()
    def resize_positions(self, input_size: int | Sequence[int]) -> None:
        """Makes the layer one for inputs of another size, in place.

        Kernels and bias are interpolated linearly over the positions, first and last kept.
        Parameters stay the same objects, with another shape: an optimizer that keeps averages of
        their gradients must be made anew.

        Args:
            input_size: (H, W) or one int for both; in 1-d the length.

        Raises:
            InputError: the kernel does not fit into it.
        """
        size = as_size(input_size, self._axes)
        self.geometry = replace(self.geometry, input_size=size)
        positions = self.geometry.output_size[-self._axes :]
        resize_(self.weight, tuple(range(self._axes)), positions)
        if self.bias is not None:
            resize_(self.bias, tuple(range(1, self._axes + 1)), positions)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Conv2d has
        """(N, C, H, W) to (N, F, H', W'), in 1-d (N, C, L) to (N, F, L'); N may be missing."""
        lifted = lift(input, self.in_channels, self.input_size)
        weight: Tensor = self.weight
        bias = self.bias
        if self._axes == 1:
            weight, bias = weight[None].unsqueeze(-2), None if bias is None else bias[:, None]
        y = functional.gather(lifted, weight, bias, self.geometry, self.padding_mode, "auto")
        return lower(y, input, self.input_size)

    def extra_repr(self) -> str:
        """Arguments as given, defaults of ``nn.Conv2d`` left out."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != (0,) * self._axes:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._axes:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return f"{text}, input_size={self.input_size}"

    @property
    def _axes(self) -> int:
        return len(self.kernel_size)


class LocalConv2d(LocalConvNd):
    """A convolution with a kernel of its own at each position.

    ``y[n, :, i, j] = W(i, j) . patch(n, i, j) + bias[:, i, j]``.

    It has H' W' times the weights of a convolution; :class:`LowRankLocalConv2d` is the way in
    between.

    Args:
        in_channels: C.
        out_channels: F.
        kernel_size: as in ``nn.Conv2d``, like the arguments up to ``dtype``.
        stride: positions follow the output's size.
        padding: an int, a pair, "same" or "valid".
        dilation: as in ``nn.Conv2d``.
        groups: as in ``nn.Conv2d``.
        bias: whether there is one a channel and position.
        padding_mode: as in ``nn.Conv2d``.
        device: of the parameters.
        dtype: of the parameters.
        input_size: (H, W) of the inputs, or one int for both.
        init: "fan_in", ``N(0, 2 / fan_in)`` with what a filter sees; or "keras", he_uniform with
            Keras' fan-in, ``sqrt(H' W')`` smaller, to reproduce published baselines.

    Shape:
        input (N, C, H, W) or (C, H, W), output (N, F, H', W') or (F, H', W'). ``weight`` is
        (H', W', F, C / groups, kh, kw), ``bias`` (F, H', W').

    Raises:
        InputError: an argument is out of its range; in ``forward``, an input of another size.

    Example:
        >>> layer = LocalConv2d(3, 8, 3, input_size=16)
        >>> layer.weight.shape
        torch.Size([14, 14, 8, 3, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        input_size: Pair,
        init: LocalInit = "fan_in",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            Geometry.of_conv(input_size, kernel_size, stride, padding, dilation, groups),
            2,
            padding,
            bias,
            padding_mode,
            init=init,
            device=device,
            dtype=dtype,
        )
