"""The full precision in training: optimizers, precision, wrappers, frozen and tied weights."""

import copy
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations

from convprior.errors import InputError
from convprior.filters import FilterPrior, LocoReg
from convprior.filters.locoreg.full_precision import lay_out, shrink_
from convprior.filters.reference import reference_precision_decay, reference_precision_penalty

SMOOTH = FilterPrior.correlated(3, "matern32", 1.0)
PRECISION = SMOOTH.precision * (9 / SMOOTH.precision.trace())


def small(dtype=torch.float64):
    torch.manual_seed(1)
    body = [nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
    body += [nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 3, groups=2), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(4, 3)).to(dtype)


def loss_of(model, step):
    generator = torch.Generator().manual_seed(step)
    dtype = next(model.parameters()).dtype
    x = torch.randn(8, 2, 6, 6, generator=generator, dtype=dtype)
    return nn.functional.cross_entropy(model(x), torch.randint(3, (8,), generator=generator))


def difference(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).detach().abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_gradient_in_place_is_sgd_on_the_loss_with_the_penalty(memory):
    models = [small().to(memory_format=memory) for _ in range(2)]
    for model, in_loss in zip(models, (True, False), strict=True):
        reg = LocoReg(model, 0.02, SMOOTH)
        groups = LocoReg.param_groups(model, 1e-3, law=SMOOTH)
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        reg.check_optimizer(optimizer)
        for step in range(30):
            optimizer.zero_grad()
            (loss_of(model, step) + (reg() if in_loss else 0.0)).backward()
            if not in_loss:
                reg.add_gradient_()
            optimizer.step()
    assert difference(*models) < 1e-13
    without = small().to(memory_format=memory)
    assert difference(models[0], without) > 0.1


def test_decay_with_adamw_equals_the_product_written_out():
    ours, theirs = small(), small()
    reg = LocoReg(ours, 0.05, SMOOTH)
    mine = torch.optim.AdamW(LocoReg.param_groups(ours, 0.01, law=SMOOTH), lr=1e-2)
    reference = torch.optim.AdamW(LocoReg.param_groups(theirs, 0.01, law=SMOOTH), lr=1e-2)
    step_matrix = torch.eye(9, dtype=torch.float64) - 2 * 1e-2 * 0.05 * PRECISION
    for step in range(20):
        for model, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            if model is ours:
                reg.decay_(optimizer)
            else:
                for weight in (model[0].weight, model[4].weight):
                    weight.data = (weight.data.view(-1, 9) @ step_matrix).view_as(weight)
            optimizer.step()
    assert difference(ours, theirs) < 1e-13


def test_rates_strengths_schedules_and_layouts_may_change():
    model = small()
    factors = {"0": 0.5, "4": 3.0}
    reg = LocoReg(model, 0.1, SMOOTH, schedule=factors)
    for strength, rate in ((0.1, 0.2), (0.3, 0.1), (0.3, torch.tensor(0.125))):
        reg.strength = strength
        weights = {n: model[int(n)].weight for n in factors}
        expected = {
            n: reference_precision_decay(w, f * PRECISION, strength, float(rate))
            for (n, w), f in zip(weights.items(), factors.values(), strict=True)
        }
        reg.decay_(rate)
        for name, weight in weights.items():
            torch.testing.assert_close(weight.detach(), expected[name], rtol=1e-12, atol=1e-15)
        model.to(memory_format=torch.channels_last)
    model.float()
    total = sum(
        f * reference_precision_penalty(model[int(n)].weight, SMOOTH.covariance)
        for n, f in factors.items()
    )
    assert reg().item() == pytest.approx(0.3 * total, rel=1e-5)
    rates = {"0": 0.2, "4": 0.1}
    groups = [{"params": [model[int(n)].weight], "lr": rate} for n, rate in rates.items()]
    expected = {
        n: reference_precision_decay(model[int(n)].weight, factors[n] * PRECISION, 0.3, rate)
        for n, rate in rates.items()
    }
    reg.decay_(torch.optim.SGD(groups, lr=1.0))
    for name, value in expected.items():
        torch.testing.assert_close(model[int(name)].weight.detach(), value.float())


def test_an_amount_may_be_a_tensor():
    # As decay_ has it for a rate on an accelerator, which nothing may wait for.
    weight = torch.randn(2, 3, 3, 3)
    expected = reference_precision_decay(weight, PRECISION, 0.5, 0.1)
    shrink_([weight], [lay_out(PRECISION, weight)], [torch.tensor(0.1)])
    torch.testing.assert_close(weight, expected.float())


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_large_weights_are_shrunk_in_pieces(memory, monkeypatch):
    conv = nn.Conv2d(6, 7, 3, dtype=torch.float64).to(memory_format=memory)
    expected = reference_precision_decay(conv.weight, PRECISION, 0.5, 0.1)
    monkeypatch.setattr("convprior.filters.locoreg.full_precision._PIECE", 100)
    LocoReg(conv, 0.5, SMOOTH).decay_(0.1)
    torch.testing.assert_close(conv.weight.detach(), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_half_precision_is_multiplied_in_float32_and_rounded_once(memory):
    conv = nn.Conv2d(16, 16, 3).bfloat16().to(memory_format=memory)
    before = conv.weight.detach().clone()
    LocoReg(conv, 0.5, SMOOTH).decay_(3e-3)
    expected = reference_precision_decay(before, PRECISION, 0.5, 3e-3).bfloat16()
    assert torch.equal(conv.weight.detach(), expected)
    conv.weight.grad = before.clone()
    LocoReg(conv, 1e-3, SMOOTH).add_gradient_()
    product = conv.weight.detach().double().reshape(-1, 9) @ PRECISION
    added = before.double() + 2e-3 * product.reshape(before.shape)
    torch.testing.assert_close(conv.weight.grad.double(), added, rtol=2**-8, atol=1e-6)
    assert LocoReg(conv, 0.5, SMOOTH)().dtype == torch.float32


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_autocast_changes_no_bit(memory):
    results = []
    for enabled in (False, True):
        model = small(torch.float32).to(memory_format=memory)
        reg = LocoReg(model, 0.1, SMOOTH)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            penalty = reg()
            penalty.backward()
            reg.add_gradient_()
            reg.decay_(0.1)
        assert penalty.dtype == torch.float32
        results.append([penalty, model[0].weight.grad, model[0].weight, model[4].weight])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_with_a_gradient_scaler_the_forms_agree():
    models = [small(torch.float32) for _ in range(2)]
    for model, in_loss in zip(models, (True, False), strict=True):
        reg = LocoReg(model, 0.05, SMOOTH)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(loss_of(model, 0) + (reg() if in_loss else 0.0)).backward()
        scaler.unscale_(optimizer)
        if not in_loss:
            reg.add_gradient_()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
    assert difference(*models) < 1e-7


def test_frozen_tied_and_copied():
    model = nn.ModuleList([nn.Conv2d(2, 2, 3) for _ in range(3)]).double()
    model[2].weight = model[0].weight
    reg = LocoReg(model, 0.1, SMOOTH)
    assert list(reg.precisions) == ["0", "1"]
    start = model[0].weight.detach().clone()
    model[1].weight.requires_grad_(False)
    frozen = model[1].weight.clone()
    alone = 0.1 * reference_precision_penalty(start, SMOOTH.covariance)
    assert reg().item() == pytest.approx(alone, rel=1e-12)
    reg.add_gradient_()
    reg.decay_(0.5)
    assert model[1].weight.grad is None
    assert torch.equal(model[1].weight, frozen)
    once = reference_precision_decay(start, PRECISION, 0.1, 0.5)
    torch.testing.assert_close(model[2].weight.detach(), once, rtol=1e-12, atol=1e-15)
    twins, twin = copy.deepcopy((model, reg))
    twin.decay_(0.5)
    torch.testing.assert_close(model[0].weight.detach(), once, rtol=1e-12, atol=1e-15)
    again = reference_precision_decay(once, PRECISION, 0.1, 0.5)
    torch.testing.assert_close(twins[2].weight.detach(), again, rtol=1e-12, atol=1e-15)
    model.requires_grad_(False)
    assert reg().item() == 0.0
    reg.add_gradient_()
    reg.decay_(0.5)


def test_a_parametrized_weight_takes_the_penalty_only():
    conv = nn.Conv2d(3, 4, 3, dtype=torch.float64)
    parametrizations.weight_norm(conv)
    reg = LocoReg(conv, 0.1, SMOOTH)
    expected = 0.1 * reference_precision_penalty(conv.weight, SMOOTH.covariance)
    assert reg().item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda *_: reg(), list(conv.parametrizations.parameters()))
    for change in (reg.add_gradient_, lambda: reg.decay_(0.1)):
        with pytest.raises(InputError, match=r"'' is parametrized.*add the penalty"):
            change()


@pytest.mark.parametrize("law", ["quadratic", SMOOTH], ids=["diagonal", "full"])
def test_compiled_models_and_compiled_calls(law):
    plain, twin = small(), small()
    compiled = torch.compile(plain, backend="eager")
    reg, expected = LocoReg(compiled, 0.1, law), LocoReg(twin, 0.1, law)
    assert list(reg.precisions) == list(expected.precisions)
    (loss_of(compiled, 0) + torch.compile(reg, backend="eager")()).backward()
    torch.compile(reg.add_gradient_, backend="eager")()
    torch.compile(reg.decay_, backend="eager")(0.1)
    (loss_of(twin, 0) + expected()).backward()
    expected.add_gradient_()
    expected.decay_(0.1)
    assert difference(plain, twin) < 1e-15
    torch.testing.assert_close(plain[0].weight.grad, twin[0].weight.grad)


@pytest.fixture
def one_process():
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_fully_sharded_models_train_as_plain_ones():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    sharded = fully_shard(copy.deepcopy(plain), mesh=init_device_mesh("cpu", (1,)))
    x = torch.randn(2, 3, 8, 8)
    results = []
    for network in (plain, sharded):
        reg = LocoReg(network, 0.1, SMOOTH)
        optimizer = torch.optim.SGD(LocoReg.param_groups(network, 0.1, law=SMOOTH), lr=0.1)
        (network(x).square().mean() + reg()).backward()
        reg.add_gradient_()
        reg.decay_(optimizer)
        optimizer.step()
        weight = network[0].weight
        results.append(weight.full_tensor() if network is sharded else weight)
    torch.testing.assert_close(results[1], results[0])


def test_two_data_parallel_processes_train_as_one(tmp_path):
    script = Path(__file__).with_name("two_processes_locoreg.py")
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
    one = runpy.run_path(str(script))["all_weights"](0, 1)
    assert len(one) == 12
    for name, weight in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], weight, rtol=0, atol=1e-13)
