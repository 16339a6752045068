"""VGG-11 and VGG-16 with batch normalization.

Paper: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015 (arXiv 1409.1556), table 1, columns A and D.

Reference code: torchvision ``vgg11_bn`` and ``vgg16_bn``; names and shapes of the parameters are
theirs, so state dicts move both ways in the standard form. The small form's ``features`` are the
same too.

Differences: weights start from He's law with ``fan_in`` (the reference: ``fan_out``, and
``N(0, 0.01)`` for linear layers). ``small_input=True`` is the form used on CIFAR: the trunk, a
global mean pool and one linear layer. Its max pools round up (28 px: 14, 7, 4, 2, 1), so that the
same five pools serve every input size and at 32 px nothing is left to average.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.models.he import HeConv2d, HeLinear

_STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}  # convolutions before each max pool
_MULTIPLES = (1, 2, 4, 8, 8)  # channels of the stages, in those of the first
_SMALLEST = 32  # five halvings that round down leave one pixel


class VGG(nn.Module):
    """VGG with batch normalization.

    Args:
        stages: convolutions in each of the five stages.
        num_classes: number of logits.
        in_chans: channels of the images.
        small_input: trunk and linear head for images from 28 px; otherwise the ImageNet form
            with two hidden layers of 4096 and dropout, for images from 32 px.
        width: channels of the first stage; the hidden layers keep their 4096.
    """

    def __init__(
        self,
        stages: Sequence[int],
        num_classes: int = 1000,
        in_chans: int = 3,
        small_input: bool = False,
        *,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.small_input = small_input
        self.features = _trunk(stages, in_chans, width, ceil_mode=small_input)
        channels = _MULTIPLES[-1] * width
        self.avgpool = nn.AdaptiveAvgPool2d(1 if small_input else 7)
        self.classifier = (
            nn.Linear(channels, num_classes)
            if small_input
            else nn.Sequential(
                HeLinear(channels * 7 * 7, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                HeLinear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(4096, num_classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, in_chans, h, w) to logits (n, num_classes).

        Raises:
            InputError: the image is smaller than 32 px and the form is the standard one.
        """
        if not self.small_input and min(x.shape[-2:]) < _SMALLEST:
            raise InputError(
                f"an image of {x.shape[-2]}x{x.shape[-1]} px vanishes in five max pools; "
                f"give at least {_SMALLEST} px or build the network with small_input=True"
            )
        x = self.avgpool(self.features(x))
        return cast("Tensor", self.classifier(torch.flatten(x, 1)))


def _trunk(stages: Sequence[int], in_chans: int, width: int, ceil_mode: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for depth, multiple in zip(stages, _MULTIPLES, strict=True):
        channels = multiple * width
        for _ in range(depth):
            layers += [
                HeConv2d(in_chans, channels, 3, padding=1),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            in_chans = channels
        layers.append(nn.MaxPool2d(2, ceil_mode=ceil_mode))
    return nn.Sequential(*layers)


def vgg11_bn(
    num_classes: int = 1000, in_chans: int = 3, small_input: bool = False, *, width: int = 64
) -> VGG:
    """VGG-11: 132,868,840 parameters at 1000 classes."""
    return VGG(_STAGES[11], num_classes, in_chans, small_input, width=width)


def vgg16_bn(
    num_classes: int = 1000, in_chans: int = 3, small_input: bool = False, *, width: int = 64
) -> VGG:
    """VGG-16: 138,365,992 parameters at 1000 classes."""
    return VGG(_STAGES[16], num_classes, in_chans, small_input, width=width)
