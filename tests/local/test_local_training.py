"""Training: optimizer groups, and several processes."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from convprior.errors import InputError
from convprior.filters import LocoReg
from convprior.local import LocalConv2d, LowRankLocalConv2d, param_groups

TABLES = ["row_logits", "column_logits", "row_bias", "column_bias"]


def network(**changed):
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 3),
            "low": LowRankLocalConv2d(4, 6, 3, input_size=8, rank=3, **changed),
            "gated": LowRankLocalConv2d(6, 6, 3, input_size=6, rank=2, weights="input"),
            "local": LocalConv2d(6, 2, 3, input_size=4),
        }
    )


def named(model, group):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in group["params"]]


def test_tables_are_not_decayed():
    model = network()
    ordinary, tables = param_groups(model, 0.1)
    assert named(model, tables) == [*(f"low.{name}" for name in TABLES), "gated.map_bias"]
    assert (ordinary["weight_decay"], tables["weight_decay"]) == (0.1, 0.0)
    assert len(ordinary["params"]) + len(tables["params"]) == len(list(model.parameters()))
    assert model["low"].no_weight_decay() == set(TABLES)
    assert model["gated"].no_weight_decay() == {"map_bias"}
    assert LowRankLocalConv2d(
        4, 6, 3, input_size=8, rank=3, weights="map", spatial_bias=False
    ).no_weight_decay() == {"map_logits"}


def test_networks_without_local_layers_have_one_group():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert param_groups(model, 0.1) == [{"params": list(model.parameters()), "weight_decay": 0.1}]
    assert len(LocoReg.param_groups(model, 0.1)) == 2


def test_bases_get_their_own_rate():
    model = network()
    _, _, threes, twos = param_groups(model, 0.6, lr=0.1, basis_lr_scale="rank")
    assert named(model, threes) == ["low.weight"]
    assert named(model, twos) == ["gated.weight"]
    assert (threes["lr"], twos["lr"]) == (pytest.approx(0.3), 0.2)
    assert (threes["weight_decay"], twos["weight_decay"]) == (pytest.approx(0.2), 0.3)
    (_, _, both) = param_groups(model, 0.6, lr=0.1, basis_lr_scale=2.0)
    assert named(model, both) == ["low.weight", "gated.weight"]
    assert len(param_groups(network(normalize=None), 0.6, lr=0.1, basis_lr_scale="rank")) == 3


def test_wrong_scales_are_refused():
    with pytest.raises(InputError, match="without lr"):
        param_groups(network(), 0.1, basis_lr_scale="rank")
    with pytest.raises(InputError, match="basis_lr_scale is 0"):
        param_groups(network(), 0.1, lr=0.1, basis_lr_scale=0)
    with pytest.raises(InputError, match="'ranks'"):
        param_groups(network(), 0.1, lr=0.1, basis_lr_scale="ranks")


@pytest.mark.parametrize("normalize", ["softmax", None])
def test_with_the_scale_the_mean_kernel_learns_as_a_convolution_does(normalize):
    """Exactly, in SGD with momentum and decay, while the tables are held."""
    torch.manual_seed(0)
    layer = LowRankLocalConv2d(
        *(2, 3, 3), input_size=6, rank=4, normalize=normalize, spatial_bias=False
    ).double()
    conv = nn.Conv2d(2, 3, 3).double()
    with torch.no_grad():
        conv.weight.copy_(layer.combined_kernels()[0, 0])
        conv.bias.copy_(layer.bias)
    layer.row_logits.requires_grad_(False)
    layer.column_logits.requires_grad_(False)
    groups = param_groups(layer, 0.2, lr=0.05, basis_lr_scale="rank")
    ours = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    theirs = torch.optim.SGD(conv.parameters(), lr=0.05, momentum=0.9, weight_decay=0.2)
    for _ in range(4):
        x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
        for model, optimizer in ((layer, ours), (conv, theirs)):
            optimizer.zero_grad()
            model(x).tanh().sum().backward()
            optimizer.step()
    torch.testing.assert_close(layer.combined_kernels()[0, 0], conv.weight)
    torch.testing.assert_close(layer.bias, conv.bias)


def test_locoreg_leaves_tables_out_of_every_decay():
    model = network()
    covered, rest, tables = LocoReg.param_groups(model, 0.1)
    assert named(model, covered) == ["conv.weight", "low.weight", "gated.weight"]
    assert named(model, tables) == [*(f"low.{name}" for name in TABLES), "gated.map_bias"]
    assert (covered["weight_decay"], rest["weight_decay"], tables["weight_decay"]) == (0, 0.1, 0)
    assert "gated.gate.merge_weight" in named(model, rest)
    optimizer = torch.optim.SGD([covered, rest, tables], lr=0.1)
    LocoReg(model, 1e-3).check_optimizer(optimizer)


def test_two_data_parallel_processes_train_as_one(tmp_path):
    script = Path(__file__).with_name("two_processes_local.py")
    meeting = f"file://{tmp_path / 'meeting'}"
    processes = [
        subprocess.Popen(
            [sys.executable, script, meeting, str(rank), "2", tmp_path / f"{rank}.safetensors"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    one = runpy.run_path(str(script))["weights_after"](0, 1)
    assert set(one) == set(first)
    for name, weight in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], weight, rtol=0, atol=1e-13)
