"""Taking one layer out of a network and putting another in its place, with all that hangs on it."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _WrappedHook

from convprior.errors import InputError
from convprior.filters.prior.redraw import generators_of, seeded
from convprior.filters.selection import unwrap
from convprior.local.layers.combining import WeightsMode
from convprior.local.layers.local_conv import LocalConv2d
from convprior.local.layers.one_d import LocalConv1d, LowRankLocalConv1d
from convprior.local.layers.two_d import LowRankLocalConv2d
from convprior.local.surgery.parametrized import computes_weight, parts_besides

_HOOKS = (
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_load_state_dict_post_hooks",
    "_load_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)


def network_to_change(model: nn.Module, what: str) -> nn.Module:
    """The network inside the wrappers, for a change in place.

    Raises:
        InputError: ``model`` is no module or data-parallel, which knows its parameters already.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    for module in model.modules():
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise InputError(
                f"the model is in a {type(module).__name__}, which knows its parameters already; "
                f"{what} first and wrap it afterwards"
            )
    network = unwrap(model)
    if isinstance(network, nn.Conv1d | nn.Conv2d):
        raise InputError(
            f"the model is itself the {type(network).__name__}, which cannot be replaced in place; "
            "put it into a torch.nn.Sequential"
        )
    return network


def copied(network: nn.Module) -> nn.Module:
    """A deep copy, also of what the older weight norm leaves behind after a training step."""
    kept = (value for module in network.modules() for value in vars(module).values())
    computed = [value for value in kept if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(network, {id(tensor): tensor.detach().clone() for tensor in computed})


def replace_layers(
    network: nn.Module,
    layers: Mapping[nn.Module, nn.Module],
    carry: Callable[[nn.Module, nn.Module], None] | None = None,
) -> None:
    """Puts each value where its key was, in every module that holds it.

    Args:
        network: that holds the keys.
        layers: old to new.
        carry: takes along what hangs on an old layer; None: :func:`carry_over`.
    """
    for old, new in layers.items():
        (carry or carry_over)(old, new)
    _put(network, layers)


@contextmanager
def replaced(network: nn.Module, layers: Mapping[nn.Module, nn.Module]) -> Iterator[None]:
    """:func:`replace_layers` for the time of a block."""
    hooks_before = [
        (module, name, getattr(module, name), dict(getattr(module, name)))
        for module in (*layers, *layers.values())
        for name in _HOOKS
    ]
    replace_layers(network, layers)
    try:
        yield
    finally:
        _put(network, {new: old for old, new in layers.items()})
        for module, name, hooks, content in hooks_before:
            hooks.clear()
            hooks.update(content)
            object.__setattr__(module, name, hooks)


def _put(network: nn.Module, layers: Mapping[nn.Module, nn.Module]) -> None:
    for module in list(network.modules()):
        for name, child in module._modules.items():
            if child is not None and child in layers:
                module._modules[name] = layers[child]


def parameters_outside(network: nn.Module, layers: Iterable[nn.Module]) -> dict[int, str]:
    """Names of the parameters that modules outside of some layers own, by the parameter's id."""
    inside = {id(part) for layer in layers for part in layer.modules()}
    return {
        id(parameter): f"{name}.{key}".removeprefix(".")
        for name, module in network.named_modules()
        if id(module) not in inside
        for key, parameter in module._parameters.items()
        if parameter is not None
    }


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Hooks, modes and what users hang on a convolution, onto the layer that takes its place."""
    carry_hooks(old, new)
    usual = vars(nn.Conv2d(1, 1, 1, device="meta"))
    for name, value in vars(old).items():
        if name not in usual and not hasattr(new, name):
            object.__setattr__(new, name, value)
    # What computes the weight of ``old`` stays behind.
    besides = [name for name in parts_besides(old) if not hasattr(new, name)]
    for store in ("_parameters", "_buffers", "_modules"):
        values = getattr(old, store)
        getattr(new, store).update({name: values[name] for name in besides if name in values})
    new._non_persistent_buffers_set |= old._non_persistent_buffers_set & set(besides)


def carry_hooks(old: nn.Module, new: nn.Module) -> None:
    """Hooks and modes of a layer onto the one that takes its place.

    Handles that were given out for the hooks stay valid.
    """
    for name in _HOOKS:
        hooks, own = getattr(old, name), getattr(new, name)
        for key, hook in list(hooks.items()):
            if computes_weight(hook):
                del hooks[key]
            # These hold the module they were registered on.
            elif isinstance(hook, _WrappedHook) and hook.with_module:
                hooks[key] = _WrappedHook(hook.hook, new)
        hooks.update(own)
        object.__setattr__(new, name, hooks)
    object.__setattr__(new, "_is_full_backward_hook", old._is_full_backward_hook)
    new.train(old.training)


def memory_format_of(weight: Tensor) -> torch.memory_format:
    """``torch.channels_last`` where a weight is laid out so and not in the ordinary way as well."""
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not weight.is_contiguous() else torch.contiguous_format


def arguments_of(conv: Any) -> dict[str, Any]:
    """The arguments that build a convolution of the same shape, from one or from a local layer."""
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": conv.weight.device,
        "dtype": conv.weight.dtype,
    }


def drawing(conv: nn.Module, seed: int) -> AbstractContextManager[None]:
    """Global generators started from ``seed`` where the layer is, and put back afterwards."""
    # A network without memory has shapes alone, and nothing is drawn.
    without = any(parameter.is_meta for parameter in conv.parameters())
    return seeded([] if without else generators_of(conv), seed)


def local_class(axes: int, low_rank: bool) -> Any:
    """The class of a local layer for inputs of one or two axes."""
    if axes == 1:
        return LowRankLocalConv1d if low_rank else LocalConv1d
    return LowRankLocalConv2d if low_rank else LocalConv2d


def mode_of(axes: int, weights: WeightsMode) -> WeightsMode:
    """The mode of combining weights for one or two axes: along one, a table is a map."""
    return weights if axes == 2 or weights == "input" else "map"
