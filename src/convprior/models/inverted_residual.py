"""Blocks of the compact networks after MobileNetV2: squeeze-excitation, hard swish, early skips.

Papers: A. Howard et al., "Searching for MobileNetV3", ICCV 2019 (arXiv 1905.02244), section 5;
J. Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018 (arXiv 1709.01507); L. Abrahamyan,
V. Ziatchin, Y. Chen, N. Deligiannis, "Bias Loss for Mobile Neural Networks", ICCV 2021
(arXiv 2107.11170) for the early skips.

Reference code: torchvision's ``mobilenetv3`` (its names of parameters), the authors'
``skipblocknet``.

Differences: weights start from He's law with ``fan_in``, as everywhere here; torchvision takes
``fan_out``. The gates of a squeeze-excitation are 1x1 convolutions, as torchvision's; the same
function as the authors' linear layers.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from convprior.models.channels import scaled
from convprior.models.he import HeConv2d


class Row(NamedTuple):
    """One block, as the papers' tables print it.

    Attributes:
        kernel_size: of the depthwise convolution.
        expansion: its channels, in input channels; ``None`` leaves the 1x1 expansion out.
        channels: output channels at ratio 1.
        squeeze: whether a squeeze-excitation follows the depthwise convolution.
        activation: after the expansion and after the depthwise convolution.
        stride: of the depthwise convolution.
    """

    kernel_size: int
    expansion: float | None
    channels: int
    squeeze: bool
    activation: type[nn.Module]
    stride: int


def unit(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    activation: type[nn.Module] | None = None,
    *,
    stride: int = 1,
    depthwise: bool = False,
) -> nn.Sequential:
    """Convolution without bias, batch normalization and, if given, an activation in place."""
    conv = HeConv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=kernel_size // 2,
        groups=in_channels if depthwise else 1,
        bias=False,
    )
    layers = [conv, nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


class SqueezeExcitation(nn.Module):
    """Scales each channel by ``hardsigmoid(fc2(relu(fc1(mean of the map))))``, within [0, 1].

    Args:
        channels: of the map; a quarter of them, rounded to a multiple of 8, between the two layers.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = scaled(channels, 0.25)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = HeConv2d(channels, hidden, 1)
        self.activation = nn.ReLU(inplace=True)
        self.fc2 = HeConv2d(hidden, channels, 1)
        self.scale_activation = nn.Hardsigmoid(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, channels, h, w) to the same shape."""
        hidden = self.activation(self.fc1(self.avgpool(x)))
        gates: Tensor = self.scale_activation(self.fc2(hidden))
        return x * gates


class SqueezedInvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, gates, linear 1x1 projection; plus ``x`` where it fits.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        row: the other sizes.
    """

    def __init__(self, in_channels: int, out_channels: int, row: Row) -> None:
        super().__init__()
        act = row.activation
        inner = scaled(in_channels, row.expansion or 1.0)
        expand = [] if row.expansion is None else [unit(in_channels, inner, 1, act)]
        self.block = nn.Sequential(
            *expand,
            unit(inner, inner, row.kernel_size, act, stride=row.stride, depthwise=True),
            *([SqueezeExcitation(inner)] if row.squeeze else []),
            unit(inner, out_channels),
        )
        self.residual = row.stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        out: Tensor = self.block(x)
        return x + out if self.residual else out


class EarlySkip(nn.Module):
    """Adds a block's output, computed from an early map that is pooled to the size of ``x``.

    ``x + project(depthwise(expand(mean pool(early))))``, a batch normalization after each and a
    ReLU after the first two.

    Args:
        in_channels: channels of the early map.
        out_channels: channels of the receiving map.
        kernel_size: of the depthwise convolution.
        expansion: its channels, in input channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, expansion: float
    ) -> None:
        super().__init__()
        inner = scaled(in_channels, expansion)
        self.block = nn.Sequential(
            unit(in_channels, inner, 1, nn.ReLU),
            unit(inner, inner, kernel_size, nn.ReLU, depthwise=True),
            unit(inner, out_channels),
        )

    def forward(self, x: Tensor, early: Tensor) -> Tensor:
        """Maps (n, out_channels, h, w) and (n, in_channels, any, any) to the shape of ``x``."""
        out: Tensor = self.block(adaptive_avg_pool2d(early, (x.shape[2], x.shape[3])))
        return x + out
