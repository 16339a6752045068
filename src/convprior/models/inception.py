"""GoogLeNet, the first Inception network, with batch normalization and without auxiliary heads.

Paper: C. Szegedy, W. Liu, Y. Jia, P. Sermanet, S. Reed, D. Anguelov, D. Erhan, V. Vanhoucke,
A. Rabinovich, "Going Deeper with Convolutions", CVPR 2015 (arXiv 1409.4842), table 1.

Reference code: torchvision ``googlenet``; names of the parameters are its own, and so are all
shapes but those of the nine 5x5 filter banks: torchvision has 3x3 filters there by mistake
(pytorch/vision issue 906), and so has, twice in a row, github.com/kuangliu/pytorch-cifar. The
small form's stem is that of pytorch-cifar: one 3x3 convolution of stride 1 instead of two
convolutions, two pools and a reduction.

Differences: batch normalization after each convolution, instead of its bias and of the paper's
local response normalization. No auxiliary heads, which normalization makes needless (S. Ioffe,
C. Szegedy, arXiv 1502.03167). Max pools pad by one pixel, so that no map vanishes; sizes are the
paper's. Weights start from He's law. Dropout of 0.4 before the last layer, as in the paper, but
none in the small form, as in pytorch-cifar.
"""

import torch
from torch import Tensor, nn

from convprior.models.channels import scaled
from convprior.models.he import HeConv2d

_STEM = 64
# Output channels: 1x1, 3x3 reduction, 3x3, 5x5 reduction, 5x5, pool projection.
_BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class ConvUnit(nn.Module):
    """``relu(bn(conv(x)))`` with padding that keeps the size at stride 1."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = HeConv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        return nn.functional.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """1x1, 3x3, 5x5 and pooled branches side by side, their channels concatenated.

    Args:
        in_channels: channels of the input.
        channels: 1x1, 3x3 reduction, 3x3, 5x5 reduction, 5x5 and pool projection.
    """

    def __init__(self, in_channels: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = channels
        self.branch1 = ConvUnit(in_channels, one, 1)
        self.branch2 = nn.Sequential(ConvUnit(in_channels, reduce3, 1), ConvUnit(reduce3, three, 3))
        self.branch3 = nn.Sequential(ConvUnit(in_channels, reduce5, 1), ConvUnit(reduce5, five, 5))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), ConvUnit(in_channels, pooled, 1)
        )
        self.out_channels = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, in_channels, h, w) to (n, out_channels, h, w)."""
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), 1)


class GoogLeNet(nn.Module):
    """GoogLeNet: nine Inception blocks in three stages.

    7,005,832 parameters at 1000 classes; small form 5,871,914 at 10.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        small_input: 3x3 stem of stride 1 without pools, for 8 to 64 px (blocks at 32, 16 and
            8 px for 32 px); otherwise the paper's stem, which reduces by eight.
        width: channels of the paper's first convolution, 64; all other channels scale with it,
            rounded to multiples of 8, at least 8. The small form's stem has three times as many.
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
        stem, channels = scaled(_STEM, ratio), scaled(3 * _STEM, ratio)
        if small_input:
            self.conv1 = ConvUnit(in_chans, channels, 3)
        else:
            self.conv1 = ConvUnit(in_chans, stem, 7, stride=2)
            self.maxpool1 = _pool()
            self.conv2 = ConvUnit(stem, stem, 1)
            self.conv3 = ConvUnit(stem, channels, 3)
            self.maxpool2 = _pool()
        for name, (one, reduce3, three, reduce5, five, pooled) in _BLOCKS.items():
            if name in ("4a", "5a"):
                self.add_module(f"maxpool{int(name[0]) - 1}", _pool())
            block = Inception(
                channels,
                (
                    scaled(one, ratio),
                    scaled(reduce3, ratio),
                    scaled(three, ratio),
                    scaled(reduce5, ratio),
                    scaled(five, ratio),
                    scaled(pooled, ratio),
                ),
            )
            self.add_module(f"inception{name}", block)
            channels = block.out_channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Identity() if small_input else nn.Dropout(0.4)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, in_chans, h, w) to logits (n, num_classes)."""
        for layer in self.children():
            x = layer(x)
        return x


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, padding=1)
