"""MobileNetV2: inverted residuals with depthwise convolutions and linear bottlenecks.

Paper: M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals
and Linear Bottlenecks", CVPR 2018 (arXiv 1801.04381), tables 1 and 2.

Reference code: torchvision ``mobilenet_v2``; names and shapes of the parameters are its own, for
every width, so state dicts move both ways.

Differences: weights start from He's law with ``fan_in`` (the reference: ``fan_out``, a much
smaller law for depthwise convolutions). The small form takes the strides of github.com/kuangliu/
pytorch-cifar, 1 in the stem and in the second stage, and no dropout, but keeps the paper's
blocks: pytorch-cifar also expands the first block, adds 1x1 convolutions as shortcuts where a
block of stride 1 changes the number of channels, and clips no ReLU at 6; that is 60,240
parameters more (2,296,922 at 10 classes).
"""

from typing import cast

import torch
from torch import Tensor, nn

from convprior.models.channels import scaled
from convprior.models.he import HeConv2d

_STEM = 32
_HEAD = 1280
# Expansion, output channels, blocks, stride of the first: the paper's table 2.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection; plus ``x`` where it fits.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the depthwise convolution.
        expansion: channels of the depthwise convolution, in input channels; 1 leaves the
            expansion out.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * in_channels
        expand = [_unit(in_channels, inner, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            _unit(inner, inner, 3, stride, groups=inner),
            HeConv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        out = self.conv(x)
        return cast("Tensor", x + out if self.residual else out)


class MobileNetV2(nn.Module):
    """MobileNetV2: 3,504,872 parameters at 1000 classes; small form 2,236,682 at 10.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        small_input: stride 1 in the stem and in the second stage (32 px: maps of 32, 16, 8 and
            4 px), no dropout, for 8 to 64 px; otherwise the paper's strides and torchvision's
            dropout of 0.2. The parameters are the same, so weights move between the two forms.
        width: channels of the stem, 32; all others scale with it, rounded to multiples of 8, but
            the last convolution never has fewer than 1280.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        small_input: bool = False,
        *,
        width: int = _STEM,
    ) -> None:
        super().__init__()
        ratio = width / _STEM
        channels = scaled(_STEM, ratio)
        layers: list[nn.Module] = [_unit(in_chans, channels, 3, stride=1 if small_input else 2)]
        for stage, (expansion, out, blocks, stride) in enumerate(_STAGES, start=1):
            for block in range(blocks):
                first = block == 0 and not (small_input and stage == 2)
                layers.append(
                    InvertedResidual(
                        channels, scaled(out, ratio), stride if first else 1, expansion
                    )
                )
                channels = scaled(out, ratio)
        head = scaled(_HEAD, max(1.0, ratio))
        self.features = nn.Sequential(*layers, _unit(channels, head, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        dropout = nn.Identity() if small_input else nn.Dropout(0.2)
        self.classifier = nn.Sequential(dropout, nn.Linear(head, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, in_chans, h, w) to logits (n, num_classes)."""
        x = self.avgpool(self.features(x))
        return cast("Tensor", self.classifier(torch.flatten(x, 1)))


def _unit(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = HeConv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=False,
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True))
