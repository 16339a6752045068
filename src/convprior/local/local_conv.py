"""LocalConv2d: a kernel for each position."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.local import functional
from convprior.local.geometry import Geometry, Padding, Pair


class LocalConv2d(nn.Module):
    """A convolution whose kernel is another one at each position."""

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
        padding_mode: functional.PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        input_size: Pair,
        init: Literal["fan_in", "keras"] = "fan_in",
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.geometry = Geometry.of_conv(input_size, kernel_size, stride, padding, dilation, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = self.geometry.kernel_size, self.geometry.stride
        self.padding, self.dilation, self.padding_mode = (
            padding,
            self.geometry.dilation,
            padding_mode,
        )
        self.init = init
        shape = (*self.geometry.output_size, out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        self.bias = (
            nn.Parameter(torch.empty(out_channels, *self.geometry.output_size, **factory))
            if bias
            else None
        )
        self.reset_parameters()

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) of the inputs."""
        return self.geometry.input_size

    def reset_parameters(self) -> None:
        """Draws the kernels again."""
        fan_in = self.weight[0, 0, 0].numel()
        nn.init.normal_(self.weight, std=math.sqrt(2.0 / fan_in))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, F, H', W')."""
        if tuple(x.shape[-2:]) != self.input_size:
            raise InputError(
                f"the input is {tuple(x.shape[-2:])} and this layer was made for {self.input_size}"
            )
        return functional.gather(
            x, self.weight, self.bias, self.geometry, self.padding_mode, "auto"
        )
