"""ResNet-18.

Paper: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016
(arXiv 1512.03385), table 1.

Reference code: torchvision ``resnet18``; names and shapes of the parameters are its own, so state
dicts move both ways in the standard form. The small form is the one of github.com/kuangliu/
pytorch-cifar: a 3x3 stem of stride 1 and no max pool.

Differences: weights start from He's law with ``fan_in`` (the reference: ``fan_out``).
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from convprior.models.he import HeConv2d


class BasicBlock(nn.Module):
    """``relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))``, both convolutions 3x3."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = HeConv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = HeConv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                HeConv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return cast("Tensor", self.relu(out + self.downsample(x)))


class ResNet(nn.Module):
    """Residual network of basic blocks.

    Args:
        blocks: number of blocks in each stage; a stage doubles the channels of the last.
        num_classes: number of logits.
        in_chans: channels of the images.
        small_input: 3x3 stem of stride 1 without a pool, for 28 to 64 px; otherwise the 7x7
            stem of stride 2 and the max pool of the ImageNet form.
        width: channels of the stem and of the first stage.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int = 1000,
        in_chans: int = 3,
        small_input: bool = False,
        *,
        width: int = 64,
    ) -> None:
        super().__init__()
        if small_input:
            self.conv1 = HeConv2d(in_chans, width, 3, padding=1, bias=False)
        else:
            self.conv1 = HeConv2d(in_chans, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_input else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, blocks[0], stride=1)
        self.layer2 = _stage(width, 2 * width, blocks[1], stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks[2], stride=2)
        self.layer4 = _stage(4 * width, 8 * width, blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, in_chans, h, w) to logits (n, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return cast("Tensor", self.fc(torch.flatten(self.avgpool(x), 1)))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(
        first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
    )


def resnet18(
    num_classes: int = 1000, in_chans: int = 3, small_input: bool = False, *, width: int = 64
) -> ResNet:
    """ResNet-18: 11,689,512 parameters at 1000 classes; small form 11,173,962 at 10."""
    return ResNet((2, 2, 2, 2), num_classes, in_chans, small_input, width=width)
