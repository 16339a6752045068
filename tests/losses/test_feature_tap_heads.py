"""The feature map of heads that are written with functions."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from convprior.errors import InputError
from convprior.losses import FeatureTap


def tapped(network: nn.Module, *shape: int) -> FeatureTap:
    """A tap after one pass, in evaluation mode."""
    tap = FeatureTap(network.eval())
    with torch.no_grad():
        network(torch.zeros(*shape))
    return tap


class Built(nn.Module):
    """A small network whose head is a function of its own convolutions."""

    def __init__(self, head, features: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(features, 5)
        self.last = nn.Linear(5, 4)
        self.head = head

    def forward(self, x):
        return self.head(self, x)


def excited(net, x):
    x = net.relu(net.first(x))
    x = x * functional.adaptive_avg_pool2d(x, 1).sigmoid()
    x = net.second(x)
    return net.fc(x.mean((2, 3)))


HEADS = {
    "mean": (lambda net, x: net.fc(net.second(net.first(x)).mean((-2, -1))), "second", False),
    "two steps": (
        lambda net, x: net.fc(net.second(net.first(x)).flatten(2).amax(-1)),
        "second",
        True,
    ),
    "residual": (
        lambda net, x: net.fc(functional.relu(net.second(h := net.first(x)) + h).mean((2, 3))),
        "second",
        True,
    ),
    "a module shared with the classifier": (
        lambda net, x: net.last(net.relu(net.fc(net.relu(net.second(net.first(x))).mean((2, 3))))),
        "second",
        True,
    ),
    "squeeze and excitation": (excited, "second", False),
    "window": (
        lambda net, x: net.fc(functional.avg_pool2d(net.second(net.first(x)), 8).flatten(1)),
        "second",
        False,
    ),
    "a maximum": (
        lambda net, x: net.fc(functional.max_pool2d(net.second(net.first(x)), 8).flatten(1)),
        "second",
        False,
    ),
    "a power mean": (
        lambda net, x: net.fc(functional.lp_pool2d(net.second(net.first(x)), 2.0, 8).flatten(1)),
        "second",
        False,
    ),
    "an auxiliary output first": (
        lambda net, x: (
            [net.fc(h.mean((2, 3))), net.fc(net.second(h).mean((2, 3)))]
            if (h := net.first(x)) is not None
            else None
        ),
        "second",
        False,
    ),
    "a convolution along the channels": (
        lambda net, x: functional.conv1d(
            net.second(net.first(x)).mean((2, 3)).unsqueeze(1), torch.ones(1, 1, 3)
        ).flatten(1),
        "second",
        False,
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        "mean",
        "two steps",
        "residual",
        "squeeze and excitation",
        "window",
        "a maximum",
        "a power mean",
        "an auxiliary output first",
        "a convolution along the channels",
    ],
)
def test_heads_written_with_functions(name: str) -> None:
    head, layer, approximate = HEADS[name]
    network = Built(head)
    tap = tapped(network, 2, 3, 8, 8)
    assert (tap.layer, tap.side, tap.features.shape) == (layer, "output", (2, 6, 8, 8))
    assert ("the module output nearest to" in repr(tap)) is approximate


def test_a_module_that_runs_again_in_the_classifier_is_not_tapped() -> None:
    network = Built(HEADS["a module shared with the classifier"][0])
    with pytest.raises(InputError, match=r"from layer 'relu', which runs again .* give layer="):
        FeatureTap(network, example_input=torch.zeros(2, 3, 8, 8))
    with FeatureTap(network, "second") as tap:
        network(torch.zeros(2, 3, 8, 8))
        assert tap.features.shape == (2, 6, 8, 8)


def test_a_flattening_without_pooling() -> None:
    def head(net, x):
        x = functional.max_pool2d(functional.relu(net.first(x)), 2)
        return net.fc(x.view(len(x), -1))

    tap = tapped(Built(head, 96), 2, 3, 8, 8)
    assert tap.layer == "first"
    assert "between: relu, max_pool2d" in repr(tap)


class Interrupted(nn.Module):
    """Ctrl-C in the middle of a pass, once."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)
        self.first = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        if self.first:
            self.first = False
            raise KeyboardInterrupt
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("close", [True, False])
def test_an_interrupted_pass_leaves_nothing_behind(close: bool) -> None:
    network, x = Interrupted(), torch.zeros(1, 3, 8, 8)
    tap = FeatureTap(network)
    with pytest.raises(KeyboardInterrupt):
        network(x)
    if close:
        tap.close()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    else:
        network(x)
        assert tap.layer == "body"
    assert torch.overrides._get_current_function_mode() is None
