"""Wide residual networks of any depth and width.

Paper: S. Zagoruyko, N. Komodakis, "Wide Residual Networks", BMVC 2016 (arXiv 1605.07146),
table 1; "pre-activation" blocks after K. He et al., arXiv 1603.05027.

Reference code: github.com/xternalz/WideResNet-pytorch, which the small-data benchmark
github.com/lorenzobrigato/gem uses; the counts are its own (wrn16_8 at 10 classes: 10,961,370). The
1x1 shortcut stands where the number of channels changes and reads the normalized input.

Differences: weights start from He's law with ``fan_in`` (the reference: ``fan_out``); blocks are
named ``layer1.0`` as in ResNet, not ``block1.layer.0``. ``small_input=False``, which the reference
does not have, is for large images.
"""

from typing import cast

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.models.he import HeConv2d


class PreActivationBlock(nn.Module):
    """``shortcut + conv(dropout(relu(bn(conv(relu(bn(x)))))))``, both convolutions 3x3."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = HeConv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv2 = HeConv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = (
            HeConv2d(in_channels, out_channels, 1, stride, bias=False)
            if in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        active = self.relu(self.bn1(x))
        out = self.conv2(self.dropout(self.relu(self.bn2(self.conv1(active)))))
        return cast("Tensor", out + (x if self.shortcut is None else self.shortcut(active)))


class WideResNet(nn.Module):
    """WRN-depth-width.

    Args:
        depth: 6 n + 4, n blocks in each of the three stages.
        width: multiplier of the stages' 16, 32 and 64 channels.
        num_classes: number of logits.
        in_chans: channels of the images.
        small_input: ``True`` is the paper's network, for 8 to 64 px. ``False`` lets the 3x3
            stem take stride 2 and puts a 3x3 max pool of stride 2 behind it, the reduction by
            four of an ImageNet network (224 px: stages at 56, 28 and 14 px), our choice; the
            parameters are the same, so weights move between the two forms.
        dropout: probability of dropping an activation between a block's convolutions.

    Raises:
        InputError: the depth is not 6 n + 4 or the width is not positive.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int = 10,
        in_chans: int = 3,
        small_input: bool = False,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            near = max(10, 6 * round((depth - 4) / 6) + 4)
            raise InputError(
                f"depth {depth} is not of the form 6n + 4 with n >= 1, which three stages of n "
                f"blocks need; the nearest is {near}: wrn{near}_{width}"
            )
        if width < 1:
            raise InputError(f"width {width} is not positive; give wrn{depth}_1 or wider")
        blocks = (depth - 4) // 6
        self.conv1 = HeConv2d(
            in_chans, 16, 3, stride=1 if small_input else 2, padding=1, bias=False
        )
        self.maxpool = nn.Identity() if small_input else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(16, 16 * width, blocks, 1, dropout)
        self.layer2 = _stage(16 * width, 32 * width, blocks, 2, dropout)
        self.layer3 = _stage(32 * width, 64 * width, blocks, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, in_chans, h, w) to logits (n, num_classes)."""
        x = self.layer3(self.layer2(self.layer1(self.maxpool(self.conv1(x)))))
        x = self.avgpool(self.relu(self.bn(x)))
        return cast("Tensor", self.fc(torch.flatten(x, 1)))


def _stage(
    in_channels: int, out_channels: int, blocks: int, stride: int, dropout: float
) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride, dropout)
    rest = (PreActivationBlock(out_channels, out_channels, 1, dropout) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
