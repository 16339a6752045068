"""Densely connected networks: DenseNet-121 and DenseNet-BC of any depth and growth rate.

Paper: G. Huang, Z. Liu, L. van der Maaten, K. Q. Weinberger, "Densely Connected Convolutional
Networks", CVPR 2017 (arXiv 1608.06993), table 1 and section 3.

Reference code: torchvision ``densenet121``; names and shapes of the parameters are its own, so
state dicts move both ways in the standard form. The small forms are those of the authors
(github.com/liuzhuang13/DenseNet) and of github.com/kuangliu/pytorch-cifar: the stem is one 3x3
convolution of stride 1, which the first layer's own normalization follows.

Differences: a block concatenates each layer's maps to all before them once, instead of
concatenating the whole list in front of each layer: the same numbers, fewer copies. DenseNet-BC
for large images, which the paper does not have, takes DenseNet-121's stem.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.models.he import HeConv2d

_BOTTLENECK = 4  # channels of the 1x1 convolution, in growth rates


class DenseLayer(nn.Module):
    """``conv(relu(bn(conv(relu(bn(x))))))``, a 1x1 convolution and a 3x3 one."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        inner = _BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = HeConv2d(in_channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = HeConv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, in_channels, h, w) to (n, growth, h, w)."""
        x = self.conv1(self.relu(self.norm1(x)))
        return cast("Tensor", self.conv2(self.relu(self.norm2(x))))


class DenseBlock(nn.Module):
    """Dense layers ``denselayer1``, ..., each of which reads the maps of all before it."""

    def __init__(self, layers: int, in_channels: int, growth: int) -> None:
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(in_channels + i * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, in_channels, h, w) to (n, in_channels + layers * growth, h, w)."""
        for layer in self.children():
            x = torch.cat((x, layer(x)), 1)
        return x


class Transition(nn.Sequential):
    """``mean_pool(conv(relu(bn(x))))``: half the size and half the channels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = HeConv2d(in_channels, in_channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)


class DenseNet(nn.Module):
    """DenseNet-BC: bottlenecks of four growth rates, compression 0.5, stem of two growth rates.

    Args:
        blocks: number of dense layers in each block.
        growth: channels ``k`` that each dense layer adds.
        num_classes: number of logits.
        in_chans: channels of the images.
        small_input: 3x3 stem of stride 1, without normalization or pool, for 8 to 64 px;
            otherwise the 7x7 stem of stride 2, normalization and max pool of the ImageNet form.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        growth: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        small_input: bool = False,
    ) -> None:
        super().__init__()
        halvings = 2 ** (len(blocks) - 1)
        self.smallest = halvings if small_input else 4 * (halvings - 1) + 1
        channels = 2 * growth
        self.features = _stem(in_chans, channels, small_input)
        for i, layers in enumerate(blocks, start=1):
            self.features.add_module(f"denseblock{i}", DenseBlock(layers, channels, growth))
            channels += layers * growth
            if i < len(blocks):
                self.features.add_module(f"transition{i}", Transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, in_chans, h, w) to logits (n, num_classes).

        Raises:
            InputError: the image is so small that a transition leaves nothing of it.
        """
        if min(x.shape[-2:]) < self.smallest:
            raise InputError(
                f"an image of {x.shape[-2]}x{x.shape[-1]} px vanishes in the transitions; "
                f"give at least {self.smallest} px or build the network with small_input=True"
            )
        x = self.avgpool(self.relu(self.features(x)))
        return cast("Tensor", self.classifier(torch.flatten(x, 1)))


def _stem(in_chans: int, channels: int, small_input: bool) -> nn.Sequential:
    stem = nn.Sequential()
    if small_input:
        stem.add_module("conv0", HeConv2d(in_chans, channels, 3, padding=1, bias=False))
        return stem
    stem.add_module("conv0", HeConv2d(in_chans, channels, 7, stride=2, padding=3, bias=False))
    stem.add_module("norm0", nn.BatchNorm2d(channels))
    stem.add_module("relu0", nn.ReLU(inplace=True))
    stem.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
    return stem


def densenet121(num_classes: int = 1000, in_chans: int = 3, small_input: bool = False) -> DenseNet:
    """DenseNet-121: 7,978,856 parameters at 1000 classes; small form 6,956,298 at 10."""
    return DenseNet((6, 12, 24, 16), 32, num_classes, in_chans, small_input)


def densenet_bc(
    depth: int, growth: int, num_classes: int = 10, in_chans: int = 3, small_input: bool = False
) -> DenseNet:
    """DenseNet-BC of the paper's CIFAR tables: three blocks of n layers, depth = 6 n + 4.

    Raises:
        InputError: the depth is not 6 n + 4 or the growth rate is not positive.
    """
    if depth < 10 or depth % 6 != 4:
        near = max(10, 6 * round((depth - 4) / 6) + 4)
        raise InputError(
            f"depth {depth} is not of the form 6n + 4 with n >= 1, which three blocks of n layers "
            f"need; the nearest is {near}: densenet_bc{near}_{growth}"
        )
    if growth < 1:
        raise InputError(f"growth {growth} is not positive; give densenet_bc{depth}_1 or more")
    return DenseNet((((depth - 4) // 6),) * 3, growth, num_classes, in_chans, small_input)
