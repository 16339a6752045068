"""Depthwise convolutions whose bf16 gradients are slow: they compute in float32 meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn


@contextmanager
def depthwise_in_float32(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within it, those of the model's convolutions train in float32 that are slow in bf16.

    oneDNN has no vectorized bf16 backward pass for depthwise convolutions with strides or with
    kernels beyond 3x3: on a CPU a step through one took 2 to 18 times as long as in float32,
    conversions included. Others, and float32, stay as they are.

    Args:
        model: its convolutions get a ``forward`` of their own for the time being.
        dtype: of the network's arithmetic.
    """
    cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    found = [m for m in model.modules() if isinstance(m, nn.Conv2d) and _is_slow(m)]
    slow = found if cpu and dtype == torch.bfloat16 else []
    for module in slow:
        module.forward = partial(_in_float32, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in slow:
            del module.forward


def _is_slow(module: nn.Conv2d) -> bool:
    depthwise = module.groups == module.in_channels > 1
    return depthwise and (max(module.stride) > 1 or max(module.kernel_size) > 3)


def _in_float32(module: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        y: Tensor = type(module).forward(module, x.float())
    return y.to(torch.bfloat16)
