"""One forward pass of a network, observed from its first module to its last."""

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from threading import get_ident
from typing import Any, Protocol

import torch
from torch import nn

from convprior.errors import InputError
from convprior.filters.cohesion.listening import evaluating
from convprior.losses.tap.capture import Absent
from convprior.losses.tap.discovery import DataFlow, Found
from convprior.losses.tap.trail import tensors_of

Settle = Callable[[Found | str], None]


class Removable(Protocol):
    """What can be taken off a network."""

    def remove(self) -> None:
        """Takes it off."""


def observe(network: nn.Module, settle: Settle) -> list[Removable]:
    """Observes the network's next complete forward pass.

    Args:
        network: without wrappers.
        settle: a method, held weakly, that is called when the pass is over: with where the feature
            map is, or with words why it is nowhere.

    Returns:
        Handles of two hooks on the network and of the pass itself, which the method is to remove.
    """
    observation = _Observation(weakref.WeakMethod(settle))
    return [
        network.register_forward_pre_hook(observation, with_kwargs=True),
        # The last to start is the first to end, as modes have to be.
        network.register_forward_hook(
            observation, with_kwargs=True, always_call=True, prepend=True
        ),
        observation,
    ]


@torch.no_grad()
def run_example(network: nn.Module, example_input: Any) -> None:
    """One pass in evaluation mode, after which modes and random generators are what they were.

    Args:
        network: without wrappers.
        example_input: a tensor, a sequence of positional or a mapping of keyword arguments.

    Raises:
        InputError: there is no tensor in the example.
    """
    if next(tensors_of(example_input), None) is None:
        raise InputError(
            f"example_input is {example_input!r}; give what the network takes, such as "
            "torch.zeros(1, 3, 32, 32)"
        )
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(evaluating(network))
        if isinstance(example_input, Mapping):
            network(**example_input)
        elif isinstance(example_input, list | tuple):
            network(*example_input)
        else:
            network(example_input)


class _Observation:
    """Both hooks: starts before the pass and ends after it, also where the pass fails."""

    def __init__(self, settle: "weakref.WeakMethod[Settle]") -> None:
        self._settle = settle
        self._flow: DataFlow | None = None
        self._thread = 0

    def __call__(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *output: Any
    ) -> None:
        if not output:
            if self._flow is not None and self._thread == get_ident():
                self.remove()
            if self._flow is not None:
                raise InputError(
                    "two threads run a network whose FeatureTap still looks for its layer; run it "
                    "in one first, or give the tap layer= or example_input="
                )
            self._flow, self._thread = DataFlow(), get_ident()
            self._flow.start(network, (args, kwargs))
            return
        if self._flow is None or self._thread != get_ident():  # a pass of another thread
            return
        flow, self._flow = self._flow, None
        flow.finish()
        settle = self._settle()
        if settle is not None and output[0] is not None:  # no output: the pass has failed
            settle(flow.found(output[0]))

    def remove(self) -> None:
        """Ends a pass that was interrupted: PyTorch calls no hook after a KeyboardInterrupt."""
        if self._flow is not None:
            self._flow.finish()
            self._flow = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Absent, ()
