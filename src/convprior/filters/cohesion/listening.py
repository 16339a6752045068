"""Runs a network over images and lets something listen to the input of its layers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters.selection import unwrap

Images = Tensor | Iterable[Any]
Listener = Callable[[Tensor], None]


def run_listening(
    model: nn.Module,
    images: Images,
    listeners: Mapping[nn.Module, Listener],
    *,
    batch_size: int = 128,
    limit: int | None = None,
) -> int:
    """Passes images through a network in evaluation mode and hands each layer's input on.

    Afterwards the network is what it was: modes of all modules, hooks, weights and buffers, also
    when something fails on the way.

    Args:
        model: maps a batch of images to anything; wrappers are looked through.
        images: one tensor (n, C, ...), or batches: tensors, or sequences such as (images,
            labels) that start with one. Floating, as the network gets them.
        listeners: called with the input of their module, each time it runs.
        batch_size: of one tensor of images.
        limit: images used at most; None: all.

    Returns:
        Images used.

    Raises:
        InputError: no images, or none in a form above.
    """
    model = unwrap(model)
    first = next(model.parameters(), None)
    used = 0
    with _listening(model, listeners), torch.no_grad():
        for batch in _batches(images, batch_size):
            rest = None if limit is None else limit - used
            if rest is not None and rest <= 0:
                break
            x = _checked(batch)[:rest]
            used += len(x)
            model(x if first is None else x.to(first.device, first.dtype))
    if not used:
        raise InputError("no images were given; give at least one batch and a limit of 1 or more")
    return used


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module of a network in evaluation mode; afterwards each in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _listening(model: nn.Module, listeners: Mapping[nn.Module, Listener]) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        if any(hasattr(module, "_orig_mod") for module in model.modules()):
            # Compiled parts run without the hooks that came after their compilation.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module, listener in listeners.items():
            handle = module.register_forward_pre_hook(_hook(listener), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _hook(listener: Listener) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def before(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        listener(args[0] if args else named["input"])

    return before


def _batches(images: Images, batch_size: int) -> Iterator[Any]:
    if not isinstance(images, Tensor):
        yield from images
        return
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; give at least 1")
    yield from torch.split(images, batch_size)


def _checked(batch: Any) -> Tensor:
    x = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(x, Tensor) or x.ndim < 3:
        shown = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"a batch is {shown}; give tensors (n, C, ...) or sequences that start with one"
        )
    if not x.is_floating_point():
        raise InputError(f"images are {x.dtype}; give them as the network gets them, normalized")
    return x
