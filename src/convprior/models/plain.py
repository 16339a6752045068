"""A plain convolutional network: four 3x3 convolutions, no shortcut.

Paper: none; the shape is the lower half of VGG (K. Simonyan, A. Zisserman, arXiv 1409.1556) with
a global mean pool, our choice. It is the network in which weight decay means what it says: with
``batch_norm=False`` no normalization makes the filters' scale immaterial.

Reference code: none.

Differences: max pools round up, so that no map vanishes whatever the input's size.
"""

from typing import cast

import torch
from torch import Tensor, nn

from convprior.models.he import HeConv2d


class PlainCNN(nn.Module):
    """``conv w, conv 2w, pool, conv 4w, pool, conv 4w, mean, linear`` for images from 8 px.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        small_input: ``True`` keeps the first map at the image's size (8 to 64 px). ``False``
            lets the first convolution and a max pool each halve it, for larger images; the
            parameters are the same.
        width: channels ``w`` of the first convolution.
        batch_norm: batch normalization after each convolution, instead of its bias.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        small_input: bool = False,
        *,
        width: int = 32,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        channels = [in_chans, width, 2 * width, 4 * width, 4 * width]
        self.conv1 = _unit(channels[0], channels[1], batch_norm, stride=1 if small_input else 2)
        self.reduce = nn.Identity() if small_input else _pool()
        self.conv2 = _unit(channels[1], channels[2], batch_norm)
        self.pool2 = _pool()
        self.conv3 = _unit(channels[2], channels[3], batch_norm)
        self.pool3 = _pool()
        self.conv4 = _unit(channels[3], channels[4], batch_norm)
        self.fc = nn.Linear(channels[4], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, in_chans, h, w) to logits (n, num_classes)."""
        x = self.pool2(self.conv2(self.reduce(self.conv1(x))))
        x = self.conv4(self.pool3(self.conv3(x)))
        return cast("Tensor", self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)))


def _unit(in_channels: int, out_channels: int, batch_norm: bool, stride: int = 1) -> nn.Sequential:
    conv = HeConv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=not batch_norm)
    norm = [nn.BatchNorm2d(out_channels)] if batch_norm else []
    return nn.Sequential(conv, *norm, nn.ReLU(inplace=True))


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(2, ceil_mode=True)
