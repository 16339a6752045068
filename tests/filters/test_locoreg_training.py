"""LocoReg in training: steps of torch.optim, batch normalization, gradient scaling."""

import copy
import math

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.filters import FilterPrior, LocoReg, tap_costs


def small(dtype=torch.float64, norm=True):
    torch.manual_seed(1)
    body = [nn.Conv2d(2, 6, 3, padding=1, bias=False)]
    body += [nn.BatchNorm2d(6)] if norm else []
    body += [nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 3, groups=2), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(4, 3)).to(dtype)


def batch(step, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 2, 6, 6, generator=generator, dtype=dtype)
    return x, torch.randint(3, (8,), generator=generator)


def loss_of(model, step):
    x, y = batch(step, next(model.parameters()).dtype)
    return nn.functional.cross_entropy(model(x), y)


def difference(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).detach().abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("form", ["penalty", "gradient"])
@pytest.mark.parametrize("decay", [2.0**-9, 5e-3, 0.1])
def test_floor_one_follows_sgd_with_weight_decay(form, decay):
    ours, theirs = small(), small()
    reg = LocoReg(ours, decay / 2, floor=1.0)
    groups = LocoReg.param_groups(ours, weight_decay=0.0)
    mine = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    groups = LocoReg.param_groups(theirs, weight_decay=0.0)
    groups[0]["weight_decay"] = decay
    reference = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    for step in range(50):
        mine.zero_grad()
        loss = loss_of(ours, step)
        if form == "penalty":
            (loss + reg()).backward()
        else:
            loss.backward()
            reg.add_gradient_()
        mine.step()
        reference.zero_grad()
        loss_of(theirs, step).backward()
        reference.step()
    # In a graph the product is rounded before it is added, unless it is one with a power of two.
    exact = form == "gradient" or decay == 2.0**-9
    assert difference(ours, theirs) <= (0.0 if exact else 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_decay_before_the_step_is_adamw_to_the_bit(dtype, options):
    ours, theirs = small(dtype), small(dtype)
    decay = 0.1
    reg = LocoReg(ours, decay / 2, floor=1.0)
    mine = torch.optim.AdamW(LocoReg.param_groups(ours, 0.0), lr=1e-2, **options)
    groups = LocoReg.param_groups(theirs, 0.0)
    groups[0]["weight_decay"] = decay
    reference = torch.optim.AdamW(groups, lr=1e-2, **options)
    reg.check_optimizer(mine)
    for step in range(50):
        for optimizer in (mine, reference):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * (1 - step / 60)
        mine.zero_grad()
        loss_of(ours, step).backward()
        reg.decay_(mine)
        mine.step()
        reference.zero_grad()
        loss_of(theirs, step).backward()
        reference.step()
    # PyTorch's fused kernel multiplies by a float32 rate and decay; the others by a double.
    exact = not options.get("fused") or dtype == torch.float64
    assert difference(ours, theirs) == 0.0 if exact else difference(ours, theirs) < 1e-6


def test_decay_refuses_an_optimizer_that_decays_itself():
    model = small()
    reg = LocoReg(model, 0.05)
    before = model[0].weight.detach().clone()
    with pytest.raises(InputError, match=r"'0' would decay twice: group 0.*weight_decay=0.01"):
        reg.decay_(torch.optim.AdamW(model.parameters()))
    assert torch.equal(model[0].weight, before)
    reg.decay_(torch.optim.AdamW(LocoReg.param_groups(model, 0.01)))


@pytest.mark.parametrize("fused", [False, True])
def test_a_hook_follows_the_optimizer_when_a_scaler_skips_its_step(fused):
    ours, theirs = small(), small()
    reg = LocoReg(ours, 0.05, floor=1.0)
    groups = LocoReg.param_groups(theirs, 0.0)
    groups[0]["weight_decay"] = 0.1
    mine = torch.optim.AdamW(LocoReg.param_groups(ours, 0.0), lr=1e-2, fused=fused)
    mine.register_step_pre_hook(lambda optimizer, *_: reg.decay_(optimizer))
    for model, optimizer in (
        (ours, mine),
        (theirs, torch.optim.AdamW(groups, lr=1e-2, fused=fused)),
    ):
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(4):
            optimizer.zero_grad()
            before = model[0].weight.detach().clone()
            scaler.scale(loss_of(model, step)).backward()
            if step == 2:
                model[0].weight.grad[0] = math.inf
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(model[0].weight.detach(), before) == (step == 2)
    assert difference(ours, theirs) == 0.0


@pytest.mark.parametrize("law", ["quadratic", FilterPrior.correlated(3)], ids=["diagonal", "full"])
def test_function_transforms(law):
    model = small(norm=False)
    reg = LocoReg(model, 0.05, law)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, step):
            return loss_of(self.model, step) + reg()

    loss = Loss()
    parameters = {name: p.detach().clone() for name, p in loss.named_parameters()}

    def at(values):
        return torch.func.functional_call(loss, values, (0,))

    for _ in range(2):
        gradients = torch.func.grad(at)(parameters)
        model.zero_grad()
        loss(0).backward()
        for name, parameter in loss.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-12, atol=1e-15)
    reg.decay_(0.1)  # what was laid out inside a transform serves outside
    torch.testing.assert_close(reg(), LocoReg(model, 0.05, law)())


def test_groups_have_their_own_rates():
    model = small()
    weights = [model[0].weight, model[4].weight]
    optimizer = torch.optim.SGD(
        [
            {"params": [weights[0]], "lr": 0.1},
            {"params": [p for p in model.parameters() if p is not weights[0]], "lr": 0.3},
        ]
    )
    reg = LocoReg(model, 0.05)
    expected = [
        w.detach() * (1 - lr * 0.1 * tap_costs(3))
        for w, lr in zip(weights, (0.1, 0.3), strict=True)
    ]
    reg.decay_(optimizer)
    for weight, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), value, rtol=1e-14, atol=0)
    with pytest.raises(InputError, match=r"does not hold the weight of '0'"):
        reg.decay_(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))


def test_a_tap_must_not_change_its_sign():
    reg = LocoReg(small(), 1.0)
    with pytest.raises(InputError, match=r"max\(c\) is 1\.2 for '0' \(lr=0\.4, strength=1"):
        reg.decay_(0.4)
    with pytest.raises(InputError, match=r"must be in \[0, 1\)"):
        reg.decay_(-0.1)


@pytest.mark.parametrize("norm", [True, False])
def test_training_with_and_without_batch_norm_moves_weight_to_the_center(norm):
    def center_share(strength):
        model = small(norm=norm)
        reg = LocoReg(model, strength)
        optimizer = torch.optim.SGD(LocoReg.param_groups(model, 0.0), lr=0.05)
        for step in range(60):
            optimizer.zero_grad()
            (loss_of(model, step) + reg()).backward()
            optimizer.step()
        squares = model[0].weight.detach().square().sum((0, 1))
        assert bool(torch.isfinite(squares).all())
        return float(squares[1, 1] / squares.sum())

    assert center_share(0.2) > 1.5 * center_share(0.0)


def test_a_filter_prior_is_a_law():
    model = small()
    prior = FilterPrior.locality(3, floor=0.4)
    reg = LocoReg(model, 0.1, prior)
    assert list(reg.costs) == ["0", "4"], "the 1x1 convolution has another kernel size"
    torch.testing.assert_close(reg.costs["0"], tap_costs(3, floor=0.4))
    alone = 0.1 * sum(prior.penalty(model[i].weight) for i in (0, 4))
    torch.testing.assert_close(reg(), alone)
    covered = LocoReg.param_groups(model, 0.1, law=prior)[0]["params"]
    assert [id(p) for p in covered] == [id(model[i].weight) for i in (0, 4)]
    with pytest.raises(InputError, match=r"no convolution of kernel size \(5, 5\)"):
        LocoReg(model, 0.1, FilterPrior.locality(5))
    with pytest.raises(InputError, match="has no parameter"):
        LocoReg(model, 0.1, prior, parameter=1.0)
    with pytest.raises(InputError, match="has no distance"):
        LocoReg(model, 0.1, prior, distance="pixels")


def test_measured_law():
    signs = torch.where(torch.rand(8, 16, 3, 3) < 0.5, -1.0, 1.0)
    costs = LocoReg(small(), 0.1, FilterPrior.measured(signs).uncorrelated()).costs["0"]
    assert torch.equal(costs, torch.ones(3, 3, dtype=torch.float64))
    weight = torch.randn(8, 8, 3, 3, dtype=torch.float64)
    costs = LocoReg(small(), 0.1, FilterPrior.measured(weight).uncorrelated()).costs["0"]
    moments = weight.square().mean((0, 1))
    torch.testing.assert_close(costs, (1 / moments) / (1 / moments).mean())
    again = LocoReg(small(), 0.1, FilterPrior.measured(1e3 * weight).uncorrelated()).costs["0"]
    torch.testing.assert_close(costs, again)


@pytest.mark.parametrize("strength", [-1.0, math.inf, math.nan, "1e-4", None])
def test_bad_strength(strength):
    with pytest.raises(InputError, match="strength is"):
        LocoReg(small(), strength)
    reg = LocoReg(small(), 0.1)
    with pytest.raises(InputError, match="strength is"):
        reg.strength = strength
    assert reg.strength == 0.1


@pytest.mark.parametrize("law", ["quadratic", "linear"])
@pytest.mark.parametrize("floor", [0.0, 0.3, 1.0])
def test_the_controls_of_a_prior_are_those_of_its_law(law, floor):
    prior = FilterPrior.locality(3, law, floor=0.25)
    for control in (None, "reversed", "permuted"):
        found = LocoReg(small(), 0.1, prior, floor, control=control, seed=3).costs["0"]
        whole = 0.25 + 0.75 * floor
        expected = LocoReg(small(), 0.1, law, whole, control=control, seed=3).costs["0"]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    reverse = LocoReg(small(), 0.1, FilterPrior.locality(3), control="reversed").costs["0"]
    assert [float(reverse[i]) for i in ((1, 1), (0, 1), (0, 0))] == pytest.approx(
        [2.5, 1.375, 0.25]
    )


def test_deep_copies_are_independent():
    model = small()
    reg = LocoReg(model, 0.1)
    reg.add_gradient_()
    reg.decay_(0.1)
    twin_model, twin = copy.deepcopy((model, reg))
    before = model[0].weight.detach().clone()
    twin.decay_(0.1)
    assert torch.equal(model[0].weight, before)
    expected = before * (1 - 0.1 * 2 * 0.1 * tap_costs(3))
    torch.testing.assert_close(twin_model[0].weight.detach(), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(twin(), LocoReg(twin_model, 0.1)())


def test_with_a_gradient_scaler_the_forms_agree():
    ours, theirs = small(torch.float32), small(torch.float32)
    for model, in_loss in ((ours, False), (theirs, True)):
        reg = LocoReg(model, 0.05)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        loss = loss_of(model, 0) + (reg() if in_loss else 0.0)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if not in_loss:
            reg.add_gradient_()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
    assert difference(ours, theirs) < 1e-7


def test_decay_after_the_step_also_shrinks_the_update():
    ours, theirs = small(), small()
    reg = LocoReg(ours, 0.05)
    mine = torch.optim.AdamW(ours.parameters(), lr=1e-2, weight_decay=0.0)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(20):
        for model, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
        reg.decay_(1e-2)
        for module in (m for m in theirs.modules() if isinstance(m, nn.Conv2d)):
            costs = tap_costs(module.kernel_size)
            module.weight.data *= 1 - 1e-2 * 0.1 * costs
    assert difference(ours, theirs) < 1e-15
