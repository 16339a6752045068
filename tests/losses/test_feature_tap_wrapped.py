"""A tap on networks that are compiled, or that several processes train together."""

import copy
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.losses import FeatureTap

PROGRAM = Path(__file__).with_name("two_processes_tap.py")


def small() -> nn.Sequential:
    """A body, global pooling and a linear layer, in evaluation mode."""
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
    parts = {"body": body, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    return nn.Sequential(OrderedDict(**parts, fc=nn.Linear(6, 4))).eval()


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_data_parallel_is_refused_before_and_after() -> None:
    network = small()
    with pytest.raises(InputError, match="DistributedDataParallel instead"):
        FeatureTap(nn.DataParallel(network), "body")
    tap = FeatureTap(network.body, "2")
    replica = network.body[2]._replicate_for_data_parallel()
    with pytest.raises(InputError, match="DistributedDataParallel instead"):
        replica(images())
    assert tap.layer == "2"


@pytest.fixture
def compiling():
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield {"backend": "aot_eager", "fullgraph": True}
    torch.compiler.reset()


@pytest.mark.parametrize("arguments", [{"layer": "body"}, {"example_input": images()}])
def test_compiled_without_a_break_or_a_second_compilation(compiling, arguments) -> None:
    network = small()
    tap = FeatureTap(network, **arguments)
    compiled = torch.compile(network, **compiling)
    for seed in range(4):
        compiled(images(seed)).sum().backward()
        features = tap.pop() if seed % 2 else tap.features
        torch.testing.assert_close(features, copy.deepcopy(network).body(images(seed)))
        assert not features.requires_grad
    with tap.paused():
        compiled(images(9))
    with pytest.raises(InputError, match="no forward pass"):  # it was emptied before
        _ = tap.features


def test_compiled_before_the_tap() -> None:
    torch.compiler.reset()
    network = small()
    compiled = torch.compile(network, backend="aot_eager")
    compiled(images(0))
    tap = FeatureTap(compiled, example_input=images(0))
    network(images(1))
    assert tap.features is not None
    compiled(images(2))
    with pytest.raises(InputError, match=r"needs torch\.compiler\.reset\(\)"):
        _ = tap.features
    torch.compiler.reset()
    compiled(images(2))
    torch.testing.assert_close(tap.features, network.body(images(2)))
    torch.compiler.reset()


@pytest.mark.parametrize("fullgraph", [False, True])
def test_the_search_is_not_compiled(fullgraph: bool) -> None:
    torch.compiler.reset()
    network = small()
    tap = FeatureTap(network)
    with pytest.raises(Exception, match="give it layer= or example_input= before") as info:
        torch.compile(network, backend="aot_eager", fullgraph=fullgraph)(images())
    assert fullgraph or isinstance(info.value, InputError)
    network(images())
    assert tap.layer == "body"
    torch.compiler.reset()


def test_the_search_sees_into_compiled_parts() -> None:
    network = small()
    network.body = torch.compile(network.body, backend="aot_eager")
    tap = FeatureTap(network, example_input=images())
    network(images())
    assert tap.features.shape == (4, 6, 6, 6)
    torch.compiler.reset()


def test_two_processes(tmp_path: Path) -> None:
    """Wrapped before or after the tap, each process has the features of its own share."""
    meeting = f"file://{tmp_path / 'meeting'}"
    processes = [
        subprocess.Popen([sys.executable, PROGRAM, meeting, str(rank)]) for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
