"""Which tensor a network pools last: its data flow, followed through one forward pass."""

import sys
from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from convprior.errors import InputError
from convprior.losses.tap.capture import Side
from convprior.losses.tap.pooling import ends_map, revives_map
from convprior.losses.tap.trail import Place, Pooled, Trail, nearest_of, tensors_of

_COMPILED = (
    "a FeatureTap cannot look for its layer while the network is being compiled; give it layer= or "
    "example_input= before torch.compile"
)

Known = list[tuple[Tensor, Trail]]


@dataclass(frozen=True)
class Found:
    """Where the feature map can be taken.

    Attributes:
        layer: name of the module.
        side: whether its input or its output is the map.
        channels_last: the map is (N, H, W, C).
        tensor: the map of this pass.
        pooling: the call that pools it.
        between: functions between the tensor and the pooling; empty where it is what is pooled.
    """

    layer: str
    side: Side
    channels_last: bool
    tensor: Tensor
    pooling: str
    between: tuple[str, ...] = ()


class DataFlow(TorchFunctionMode):
    """Follows tensors through modules and functions between :meth:`start` and :meth:`finish`.

    A tensor is *pooled* if every path from the network's input to it goes through a feature map
    that a global pooling (or the flattening that replaces one) has ended. The gates of squeeze and
    excitation are pooled too, and stop being so where they multiply a map that is not. So the map
    that the logits were pooled from is found without guessing from names or shapes.
    """

    def __init__(self) -> None:
        _refuse_compilation()
        super().__init__()
        self._trails: MutableMapping[Tensor, Trail] = WeakTensorKeyDictionary()
        self._calls: dict[str, int] = {}
        self._time = 0
        self._undo = ExitStack()
        self._last_map = ""  # the last module whose output is no vector

    def start(self, network: nn.Module, inputs: Any) -> None:
        """Listens to every module and every function.

        Raises:
            InputError: the network runs inside a compiled region.
        """
        _refuse_compilation()
        # Compiled parts would hide their functions. What was never imported has compiled nothing.
        if "torch._dynamo" in sys.modules:
            try:
                self._undo.enter_context(torch.compiler.set_stance("force_eager"))
            except RuntimeError as error:
                raise InputError(_COMPILED) from error
        for tensor in tensors_of(inputs):
            self._trails[tensor] = Trail()
        for name, module in network.named_modules():
            if name:
                before, after = partial(self._enter, name), partial(self._leave, name)
                for handle in (
                    module.register_forward_pre_hook(before, with_kwargs=True),
                    module.register_forward_hook(after, with_kwargs=True),
                ):
                    self._undo.callback(handle.remove)
        self._undo.enter_context(self)

    def finish(self) -> None:
        """Listens no longer."""
        self._undo.close()

    def found(self, output: Any) -> Found | str:
        """Where to take the feature map that the output was pooled from, or why that is nowhere."""
        known = [pair for pair in self._known(output) if pair[1].pooled is not None]
        pooled = _latest_pooled(known).pooled if known else None
        if pooled is None:
            return self._no_map()
        last = pooled.layout == "channels last"
        places = [place for place in pooled.places if self._final(place)]
        outputs = [place for place in places if place.side == "output"]
        if places and pooled.tensor.dim() >= 4:
            place = outputs[-1] if outputs else places[0]  # the outermost module
            return Found(place.layer, place.side, last, pooled.tensor, pooled.function)
        near = pooled.nearest
        if near.tensor.dim() < 4:
            return self._no_map()
        name, side = near.place.layer, near.place.side
        if not self._final(near.place):
            return (
                f"takes its last feature map from layer {name!r}, which runs again after the "
                "pooling, where a hook would keep the later tensor; give layer= the name of a "
                "module that runs once"
            )
        same = near.tensor.shape == pooled.tensor.shape
        return Found(name, side, last and same, near.tensor, pooled.function, near.between)

    def _final(self, place: Place) -> bool:
        # A module that runs again later would hand over its later tensor.
        return self._calls[place.layer] == place.call

    def _no_map(self) -> str:
        named = f"layer={self._last_map!r}, its last map," if self._last_map else "layer="
        return (
            "has no global pooling or flattening of a feature map (N, C, H, W) on all paths to its "
            f"output, which may come from tokens; give {named} or another name from "
            "model.named_modules()"
        )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs the function and notes what its result comes from."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        outputs, known = list(tensors_of(result)), self._known((args, kwargs))
        if outputs and known:
            trail = self._trail(getattr(func, "__name__", ""), args, kwargs, result, known)
            for tensor in outputs:
                # What works in place leaves the tensor in its places.
                old = self._trails.get(tensor)
                kept = trail if old is None else replace(old, pooled=trail.pooled)
                self._trails[tensor] = kept
        return result

    def _known(self, inputs: Any) -> Known:
        return [(t, self._trails[t]) for t in tensors_of(inputs) if t in self._trails]

    def _tick(self) -> int:
        self._time += 1
        return self._time

    def _trail(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
        known: Known,
    ) -> Trail:
        maps = [pair for pair in known if pair[1].pooled is None]
        if not maps and not revives_map(name, args, kwargs):
            return _latest_pooled(known)
        sources = maps or known
        size = next(tensors_of(result)).numel()
        near = nearest_of(sources, size)
        if near is None:  # from the images without a module: no feature
            return Trail(time=self._tick())
        layout = ends_map(name, args, kwargs, result) if maps else None
        if layout is not None:
            tensor, trail = maps[0]
            near = nearest_of(maps[:1], size) or near
            pooled = Pooled(name, layout, tensor, trail.places, near, trail.time)
            return Trail(pooled=pooled, time=self._tick())
        return Trail(nearest=replace(near, between=(*near.between, name)), time=self._tick())

    def _enter(
        self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._calls[name] = self._calls.get(name, 0) + 1
        value = next(iter((*args, *kwargs.values())), None)
        if isinstance(value, Tensor) and value in self._trails:
            self._add(name, "input", value, self._trails[value])

    def _leave(
        self,
        name: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        known = self._known((args, kwargs))
        if not isinstance(output, Tensor) or not (known or output in self._trails):
            return
        state = (*module.parameters(), *module.buffers())
        if not state and nearest_of([*known, *self._known(output)], 0) is None:
            return  # images that are only padded or cropped are no features
        maps = [pair for pair in known if pair[1].pooled is None]
        trail = self._trails.get(output)
        if trail is None:  # made by an autograd function, which modes do not see
            trail = Trail(time=self._tick()) if maps else _latest_pooled(known)
        if output.dim() == 2 and trail.pooled is None:
            # A module from map to vector is a pooling of its own kind, such as by attention.
            maps = [pair for pair in maps if pair[0].dim() >= 4]
            near = nearest_of(maps, 0)
            if near is not None:
                tensor, source = maps[0]
                kind = type(module).__name__
                pooled = Pooled(kind, "channels first", tensor, source.places, near, source.time)
                trail = Trail(pooled=pooled, time=self._tick())
        if output.dim() >= 3:
            self._last_map = name
        self._add(name, "output", output, trail)

    def _add(self, name: str, side: Side, tensor: Tensor, trail: Trail) -> None:
        place = Place(name, side, self._calls[name])
        time = self._tick() if side == "output" else trail.time
        self._trails[tensor] = replace(trail, places=(*trail.places, place), time=time)


def _refuse_compilation() -> None:
    # Whoever compiles the whole graph sees this; otherwise it is met again while running.
    if torch.compiler.is_compiling():
        raise InputError(_COMPILED)


def _latest_pooled(known: Known) -> Trail:
    pooled = (trail.pooled for _, trail in known if trail.pooled is not None)
    latest = max(pooled, key=lambda p: p.time)
    return Trail(pooled=latest, time=latest.time)
