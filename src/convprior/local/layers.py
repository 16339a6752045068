"""LowRankLocalConv2d: between a convolution and a locally connected layer."""

import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from convprior.errors import InputError
from convprior.local import functional, plain
from convprior.local.combining import Normalize, WeightsMode, normalized
from convprior.local.geometry import Geometry, Padding, Pair, pair
from convprior.local.local_conv import LocalConv2d

Init = Literal["variance", "authors"]


class LowRankLocalConv2d(_ConvNd):
    """K filter banks mixed with weights that depend on the position."""

    __constants__ = [*_ConvNd.__constants__, "input_size", "rank"]  # noqa: RUF012

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
        rank: int,
        weights: WeightsMode = "separable",
        normalize: Normalize = "softmax",
        spatial_bias: bool = True,
        init: Init = "variance",
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        geometry = Geometry.of_conv(input_size, kernel_size, stride, padding, dilation, groups)
        super().__init__(
            in_channels,
            rank * out_channels,
            geometry.kernel_size,
            geometry.stride,
            padding if isinstance(padding, str) else pair(padding, "padding", 0),
            geometry.dilation,
            False,
            (0, 0),
            groups,
            False,
            padding_mode,
            **factory,
        )
        self.out_channels = out_channels
        self.geometry = geometry
        self.rank, self.weights, self.normalize, self.init = rank, weights, normalize, init
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, **factory))
        rows, columns = geometry.output_size
        if weights == "separable":
            self.row_logits = nn.Parameter(torch.empty(rank, rows, **factory))
            self.column_logits = nn.Parameter(torch.empty(rank, columns, **factory))
        else:
            raise NotImplementedError
        if spatial_bias:
            self.row_bias = nn.Parameter(torch.empty(rows, **factory))
            self.column_bias = nn.Parameter(torch.empty(columns, **factory))
        else:
            self.row_bias = self.column_bias = None
        if rank > geometry.positions:
            warnings.warn(
                f"rank is {rank} and there are {geometry.positions} positions", stacklevel=2
            )
        self.reset_parameters()

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) of the inputs."""
        return self.geometry.input_size

    @property
    def bases(self) -> Tensor:
        """The filter banks, (rank, F, C / groups, kh, kw): a view of ``weight``."""
        return self.weight.unflatten(0, (self.rank, self.out_channels))

    def reset_parameters(self) -> None:
        """Draws the bases again; tables and biases start as those of a convolution."""
        if not hasattr(self, "row_logits"):  # _ConvNd calls this before the tables exist
            return
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        with torch.no_grad():
            self.weight.mul_(math.sqrt(self.rank))
        nn.init.constant_(self.row_logits, 0.5 / math.sqrt(self.rank))
        nn.init.constant_(self.column_logits, 0.5 / math.sqrt(self.rank))
        for bias in (self.bias, self.row_bias, self.column_bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def combining_weights(self, x: Tensor | None = None) -> Tensor:
        """(rank, H', W')."""
        logits = self.row_logits[:, :, None] + self.column_logits[:, None, :]
        return normalized(logits, self.normalize, 0)

    def spatial_bias(self) -> Tensor | None:
        """(H', W')."""
        if self.row_bias is None or self.column_bias is None:
            return None
        return self.row_bias[:, None] + self.column_bias

    def combined_kernels(self) -> Tensor:
        """(H', W', F, C / groups, kh, kw)."""
        return plain.gather_kernels(self.bases, self.combining_weights())

    def to_local(self) -> LocalConv2d:
        """The same function as a locally connected layer."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, F, H', W')."""
        if tuple(x.shape[-2:]) != self.input_size:
            raise InputError(
                f"the input is {tuple(x.shape[-2:])} and this layer was made for "
                f"{self.input_size}; call resize_positions({tuple(x.shape[-2:])}) first"
            )
        return functional.mix(
            x,
            self.bases,
            self.combining_weights(x),
            self.bias,
            self.spatial_bias(),
            self.geometry,
            self.padding_mode,
            "auto",
        )
