"""A network's local layers for images of another size."""

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.local import LocalConv2d, LowRankLocalConv2d, localize, resize_positions
from convprior.models import create_model


def test_every_layer_takes_the_size_that_reaches_it() -> None:
    model = create_model("plain_cnn", small_input=True, seed=0, width=4).eval()
    local = localize(model, torch.zeros(1, 3, 16, 16), rank=2)
    larger = torch.randn(2, 3, 24, 24)
    with pytest.raises(InputError, match="resize_positions"):
        local(larger)
    tables = [name for name, _ in local.named_parameters()]
    changed = resize_positions(local, larger)
    assert changed == [f"conv{i}.0" for i in range(1, 5)]
    assert [name for name, _ in local.named_parameters()] == tables
    # Still a convolution, so the network with ordinary ones says what comes out.
    torch.testing.assert_close(local(larger), model(larger), rtol=1e-4, atol=1e-5)
    assert resize_positions(local, larger) == []


def test_sizes_after_a_change_are_those_of_the_changed_layers() -> None:
    network = nn.Sequential(
        LowRankLocalConv2d(1, 2, 3, stride=2, input_size=9, rank=2),
        LocalConv2d(2, 2, 3, input_size=4),
    )
    assert resize_positions(network, [torch.zeros(1, 1, 13, 11)]) == ["0", "1"]
    assert network[0].input_size == (13, 11)
    assert network[1].input_size == (6, 5)
    assert network(torch.zeros(1, 1, 13, 11)).shape == (1, 2, 4, 3)


def test_errors() -> None:
    with pytest.raises(InputError, match="no local layer"):
        resize_positions(nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 8, 8))
    layer = LowRankLocalConv2d(1, 1, 3, input_size=8, rank=2)
    with pytest.raises(InputError, match=r"example_input is \(1, 8, 8\)"):
        resize_positions(layer, (1, 8, 8))
