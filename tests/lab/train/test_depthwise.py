"""Depthwise convolutions that are slow in bf16 train in float32."""

import pytest
import torch
from torch import nn

from convprior.lab.train.depthwise import depthwise_in_float32


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 8, 5, padding="same", groups=8, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # bf16 is fast for this one
        nn.Conv2d(8, 8, 3, stride=2),
    )


def outputs(model: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        for layer in model:
            x = layer(x)
            seen.append(x)
    return seen


def test_slow_ones_compute_in_float32_and_the_others_stay() -> None:
    model, x = network(), torch.randn(2, 8, 32, 32)
    with depthwise_in_float32(model, torch.bfloat16):
        assert ["forward" in vars(layer) for layer in model] == [True, True, False, False]
        mixed = outputs(model, x)
    assert all(y.dtype == torch.bfloat16 for y in mixed)
    assert torch.equal(mixed[0], nn.Conv2d.forward(model[0], x).bfloat16())
    assert not any("forward" in vars(layer) for layer in model)


def test_gradients_are_those_of_float32_to_half_precision() -> None:
    model, x = network()[:2], torch.randn(2, 8, 16, 16)
    model(x).square().mean().backward()
    exact = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with depthwise_in_float32(model, torch.bfloat16):
        outputs(model, x)[-1].float().square().mean().backward()
    for parameter, wanted in zip(model.parameters(), exact, strict=True):
        # Three roundings to 8 bits lie between: output, input and gradient of the second layer.
        assert torch.allclose(parameter.grad, wanted, rtol=0, atol=3 * 2**-8 * wanted.abs().max())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_float32_and_other_devices_are_left_alone(device: str) -> None:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = network().to(device)
    with depthwise_in_float32(model, dtype):
        assert not any("forward" in vars(layer) for layer in model)


def test_an_error_inside_restores_the_layers() -> None:
    model = network()
    with pytest.raises(KeyError), depthwise_in_float32(model, torch.bfloat16):
        raise KeyError
    assert not any("forward" in vars(layer) for layer in model)
