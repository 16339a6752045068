"""Running a user's example through a network without a trace, and comparing what comes out."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from convprior.errors import InputError
from convprior.filters.cohesion.listening import evaluating
from convprior.local.paths import use_path

_TF32 = 2.0**-10
"""Relative rounding of a float32 convolution on a GPU, where PyTorch allows TF32 unless told."""


@torch.no_grad()
def run_example(network: nn.Module, example_input: Any) -> list[Tensor]:
    """One pass in evaluation mode, after which everything is what it was.

    That is modes, buffers, random generators and the example, which a network may write into.

    Args:
        network: without wrappers.
        example_input: a tensor, a sequence of positional or a mapping of keyword arguments.

    Returns:
        The tensors of the output, in a fixed order; none where it has another form.

    Raises:
        InputError: there is no tensor in the example.
    """
    if next(_tensors(example_input), None) is None:
        raise InputError(
            f"example_input is {example_input!r}; give what the network takes, such as "
            "torch.zeros(1, 3, 32, 32)"
        )
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(evaluating(network))
        stack.enter_context(_kept_buffers(network))
        # One pass is not worth the compilation of anything.
        stack.enter_context(use_path("plain"))
        if any(hasattr(module, "_orig_mod") for module in network.modules()):
            # Compiled parts run without the hooks that came after their compilation.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if isinstance(example_input, Mapping):
            output = network(**{name: _own(value) for name, value in example_input.items()})
        elif isinstance(example_input, list | tuple):
            output = network(*map(_own, example_input))
        else:
            output = network(_own(example_input))
        return [tensor.clone() for tensor in _tensors(output)]


def difference(expected: list[Tensor], output: list[Tensor]) -> str:
    """How two outputs of a network differ by more than rounding, or nothing.

    Layers amplify the rounding of those before them, in a network that is not trained by some
    hundred times. So half of a dtype's digits have to agree, ``4 sqrt(eps)`` of the largest value:
    1.4e-3 in float32, 6e-8 in float64. Integers and tensors without values are not compared.
    """
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in output]:
        return "its output has another shape"
    for wanted, given in zip(expected, output, strict=True):
        plain = wanted.layout == given.layout == torch.strided and not wanted.is_meta
        if not plain or not (wanted.is_floating_point() or wanted.is_complex()):
            continue
        finite = wanted.isfinite()
        if not finite.any():
            continue
        largest = float(wanted[finite].abs().max())
        farthest = float((given - wanted)[finite].abs().max())
        eps = max(torch.finfo(wanted.dtype).eps, _TF32 if wanted.is_cuda else 0.0)
        if not farthest <= 4.0 * eps**0.5 * largest:
            return f"its output would differ by up to {farthest:.2g}, where it is {largest:.2g}"
    return ""


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif is_dataclass(output):
        yield from _tensors(vars(output))
    elif isinstance(output, Mapping | list | tuple):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)


@contextmanager
def _kept_buffers(network: nn.Module) -> Iterator[None]:
    """Buffers that a forward pass changes in evaluation mode too get their values back."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in kept:
            module._buffers[name] = buffer.copy_(value)
