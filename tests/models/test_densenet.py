"""DenseNet: the counts of the paper and of the reference codes, depth, sizes."""

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.models import DenseNet, create_model


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "small_input", "count"),
    [
        ("densenet121", 1000, False, 7_978_856),  # torchvision
        ("densenet121", 10, True, 6_956_298),  # kuangliu/pytorch-cifar
        ("densenet_bc100_12", 10, True, 769_162),  # 0.8 million in the paper's table 2
    ],
)
def test_parameter_count(name: str, classes: int, small_input: bool, count: int) -> None:
    with torch.device("meta"):
        assert parameters(create_model(name, classes, small_input=small_input)) == count


@pytest.mark.parametrize(
    ("depth", "growth", "millions"), [(100, 12, 0.8), (250, 24, 15.3), (190, 40, 25.6)]
)
def test_counts_and_depths_of_the_paper(depth: int, growth: int, millions: float) -> None:
    with torch.device("meta"):
        model = create_model(f"densenet_bc{depth}_{growth}", 10, small_input=True)
    assert round(parameters(model) / 1e6, 1) == millions
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth


def test_a_dense_layer_reads_all_maps_before_it() -> None:
    model = DenseNet((3, 2), 4, 10, small_input=True).eval()
    block = model.features.denseblock1
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first = block.denselayer1(x)
        second = block.denselayer2(torch.cat((x, first), 1))
        third = block.denselayer3(torch.cat((x, first, second), 1))
        assert torch.equal(block(x), torch.cat((x, first, second, third), 1))
    assert model.classifier.in_features == (8 + 3 * 4) // 2 + 2 * 4


@pytest.mark.parametrize(
    ("blocks", "small_input", "smallest"),
    [((1, 1, 1, 1), False, 29), ((1, 1, 1), False, 13), ((1, 1, 1, 1), True, 8)],
)
def test_the_smallest_image(blocks: tuple[int, ...], small_input: bool, smallest: int) -> None:
    model = DenseNet(blocks, 4, 10, 3, small_input).eval()
    assert model(torch.zeros(1, 3, smallest, 40)).isfinite().all()
    with pytest.raises(InputError, match=f"{smallest - 1}x40 px vanishes.*at least {smallest} px"):
        model(torch.zeros(1, 3, smallest - 1, 40))
