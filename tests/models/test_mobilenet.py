"""MobileNetV2: the counts of the reference codes, widths, the strides of both forms."""

import pytest
import torch
import torchvision
from torch import nn

from convprior.models import MobileNetV2, create_model
from convprior.models.channels import scaled


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameter_count() -> None:
    with torch.device("meta"):
        assert parameters(MobileNetV2(1000)) == 3_504_872  # torchvision
        ours = parameters(MobileNetV2(10, small_input=True))
    # What github.com/kuangliu/pytorch-cifar has on top: a 1x1 convolution and its normalization
    # in the first block and wherever a block of stride 1 changes the number of channels.
    first = 32 * 32 + 2 * 32
    shortcuts = sum(i * o + 2 * o for i, o in ((32, 16), (16, 24), (64, 96), (160, 320)))
    assert ours + first + shortcuts == 2_296_922


@pytest.mark.parametrize("multiple", [0.25, 0.5, 0.75, 1.0, 1.25, 2.0])
def test_shapes_of_torchvision_at_every_width(multiple: float) -> None:
    with torch.device("meta"):
        ours = MobileNetV2(width=int(32 * multiple)).state_dict()
        theirs = torchvision.models.mobilenet_v2(width_mult=multiple).state_dict()
    assert [(k, v.shape) for k, v in ours.items()] == [(k, v.shape) for k, v in theirs.items()]


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.55, 1.0, 1.37])
def test_scaled_channels_are_those_of_torchvision(ratio: float) -> None:
    divisible = torchvision.models.mobilenetv2._make_divisible
    for channels in range(1, 200):
        assert scaled(channels, ratio) == divisible(channels * ratio, 8)


@pytest.mark.parametrize(
    ("small_input", "size", "sizes"),
    [(False, 224, [112, 56, 28, 14, 7]), (True, 32, [32, 32, 16, 8, 4])],
)
def test_strides(small_input: bool, size: int, sizes: list[int]) -> None:
    seen = []
    with torch.device("meta"):
        model = MobileNetV2(small_input=small_input)
        for i in (0, 2, 4, 7, 17):
            model.features[i].register_forward_hook(lambda _m, _i, out: seen.append(out.shape[-1]))
        model(torch.empty(1, 3, size, size))
    assert seen == sizes


def test_weights_move_between_the_forms() -> None:
    large = create_model("mobilenet_v2", width=8, seed=0)
    small = create_model("mobilenet_v2", width=8, small_input=True, seed=1)
    small.load_state_dict(large.state_dict(), strict=True)
    assert torch.equal(small.classifier[1].weight, large.classifier[1].weight)
