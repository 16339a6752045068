"""A handle on the feature map of a network's last forward pass."""

import difflib
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters.selection import unwrap
from convprior.losses.tap.capture import REPLICAS, Capture, Side
from convprior.losses.tap.discovery import Found
from convprior.losses.tap.observation import Removable, observe, run_example


class FeatureTap:
    """The last feature map of any network, without editing it: the tensor that is pooled globally.

    The network keeps its function, parameters, state dict and gradients; a hook keeps a detached
    reference to one tensor, and nothing is copied. Without ``layer`` the tensor is found by
    following the data of one forward pass: the map made latest among those that a global pooling,
    or the flattening of a network without one, hands to the outputs. The gates of squeeze and
    excitation are none. If a function outside any module makes that tensor, the nearest module
    output before it is taken; ``repr`` says so.

    Args:
        model: any network; ``torch.compile`` and ``DistributedDataParallel`` are looked through.
        layer: name of a module, as in ``model.named_modules()``. None: found automatically, with
            ``example_input`` at once, otherwise during the next forward pass, which it observes.
        side: whether the module's ``"input"`` (its first argument) or its ``"output"`` is taken;
            ``"auto"``: the input of a global pooling, a flattening or a linear layer, otherwise
            the output. Only with ``layer``.
        example_input: what the network takes: a tensor, a tuple of arguments or a mapping of
            keyword arguments. It is run once in evaluation mode, without gradients.

    Attributes:
        layer: name of the tapped module; None until it is found.
        side: ``"input"`` or ``"output"``; None until it is found.

    Raises:
        InputError: an unknown layer, a network without global pooling or flattening of a feature
            map (transformers: name a layer), or ``nn.DataParallel``.

    Note:
        - With ``torch.compile``: attach first, with ``layer`` or ``example_input``. The hook is
          then part of the compiled graph.
        - An operation that changes the tensor in place (``ReLU(inplace=True)`` after the layer)
          shows in ``features``, which is the tensor that the network goes on with.
        - ``torch.jit.script`` and ``torch.export`` take the network without the tap:
          :meth:`close` it first. A copy or a saved network has no tap.

    Source: our choice; the tensor is that of Bias Loss (arXiv 2107.11170).

    Example:
        >>> import torch
        >>> from convprior.models import create_model
        >>> network = create_model("resnet18", small_input=True)
        >>> with FeatureTap(network) as tap:
        ...     logits = network(torch.zeros(2, 3, 32, 32))
        ...     tap.features.shape, tap.layer
        (torch.Size([2, 512, 4, 4]), 'layer4')
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        side: Literal["auto", "input", "output"] = "auto",
        example_input: Any = None,
    ) -> None:
        network = _checked(model)
        if side not in ("auto", "input", "output"):
            raise InputError(f'side is {side!r}; give "auto", "input" or "output"')
        if layer is None and side != "auto":
            raise InputError(f"side={side!r} needs layer=, the name of a module")
        self.layer: str | None = None
        self.side: Side | None = None
        self._network = weakref.ref(network)
        self._wrapper = weakref.ref(model)
        self._kind = type(network).__name__
        self._capture: Capture | None = None
        self._found: Found | None = None
        self._handles: list[Removable] = []
        self._closed = False
        weakref.finalize(self, _remove, self._handles)
        if layer is not None:
            module = _module(network, layer)
            self._attach(layer, _side(module) if side == "auto" else side, False)
        else:
            self._handles += observe(network, self._settle)
            if example_input is not None:
                try:
                    run_example(network, example_input)
                except BaseException:
                    _remove(self._handles)
                    raise
                self.pop()

    @property
    def features(self) -> Tensor:
        """The tensor of the last forward pass, detached; (N, C, H, W) if found automatically.

        Raises:
            InputError: there has been none, or the layer did not run in it.
        """
        features = None if self._capture is None else self._capture.features
        if features is None:
            raise InputError(f"no features of {self._where()}: {self._reason()}")
        return features

    def pop(self) -> Tensor:
        """Returns the features and forgets them, which frees their memory.

        Raises:
            InputError: as for :attr:`features`.
        """
        features = self.features
        assert self._capture is not None
        self._capture.features = None
        return features

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Passes inside, such as an evaluation, leave the features of the pass before in place."""
        kept = None if self._capture is None else self._capture.features
        try:
            yield
        finally:
            if self._capture is not None:
                self._capture.features = kept

    def close(self) -> None:
        """Takes the hooks off, so that the network is what it was, and forgets the features."""
        _remove(self._handles)
        self._capture = None
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"FeatureTap({self._where()}{state})"

    def _where(self) -> str:
        if self.layer is None:
            return f"{self._kind}, layer to be found in the next forward pass"
        text = f"{self.side} of {self.layer!r} in {self._kind}"
        if self._found is None:
            return text
        if not self._found.between:
            return f"{text}, before {self._found.pooling}"
        functions = ", ".join(self._found.between)
        return f"{text}, the module output nearest to {self._found.pooling}; between: {functions}"

    def _reason(self) -> str:
        if self._closed:
            return "the tap is closed; make a new one"
        if self._network() is None:
            return "the network no longer exists; make a new tap for the one in use"
        return (
            "no forward pass has run the layer since the tap was made or emptied. Run the network "
            "first; a network compiled before the tap was made needs torch.compiler.reset()"
        )

    def _attach(self, layer: str, side: Side, channels_last: bool) -> None:
        network = self._network()
        assert network is not None
        module = network.get_submodule(layer)
        self.layer, self.side = layer, side
        self._capture = capture = Capture(layer, side, channels_last)
        self._handles.append(network.register_forward_pre_hook(capture.forget))
        wrapper = self._wrapper()
        if wrapper is not None and wrapper is not network:
            # Code compiled before runs none of the network's hooks, but those of the wrapper.
            self._handles.append(wrapper.register_forward_pre_hook(capture.forget))
        if side == "input":
            handle = module.register_forward_pre_hook(capture, with_kwargs=True)
        else:
            handle = module.register_forward_hook(capture, with_kwargs=True)
        self._handles.append(handle)

    def _settle(self, found: Found | str) -> None:
        """Goes on with one hook, where the map has been found."""
        _remove(self._handles)
        if isinstance(found, str):
            raise InputError(f"{self._kind} {found}")
        self._attach(found.layer, found.side, found.channels_last)
        self._found = found
        assert self._capture is not None
        self._capture.keep(found.tensor)


def _remove(handles: list[Removable]) -> None:
    while handles:
        handles.pop().remove()


def _checked(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("hooks do not run in a scripted network; tap the one it was made from")
    if isinstance(model, nn.DataParallel):
        raise InputError(REPLICAS)
    return unwrap(model)


def _module(network: nn.Module, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(network.named_modules(remove_duplicate=False))
    if layer in modules:
        return modules[layer]
    near = difflib.get_close_matches(str(layer), modules, n=3, cutoff=0.4)
    names = ", ".join(map(repr, near or [name for name, _ in network.named_children()][:5]))
    raise InputError(f"{type(network).__name__} has no layer {layer!r}; it has {names}")


def _side(module: nn.Module) -> Side:
    ends = nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | nn.Flatten | nn.Linear
    pools = re.search("adaptive|global", type(module).__name__, re.IGNORECASE)
    return "input" if pools or isinstance(module, ends) else "output"
