"""What is known of a tensor inside a network: which modules it touched, what it was pooled from."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from torch import Tensor

from convprior.losses.tap.capture import Side
from convprior.losses.tap.pooling import Layout


@dataclass(frozen=True)
class Place:
    """Where a tensor enters or leaves a module, so that a hook can take it there.

    Attributes:
        layer: the module's name.
        side: whether the tensor is the module's input or its output.
        call: which of the module's calls in this pass, from 1.
    """

    layer: str
    side: Side
    call: int


@dataclass(frozen=True)
class Nearest:
    """The last module output that a tensor comes from, and the functions between the two."""

    place: Place
    tensor: Tensor
    between: tuple[str, ...]
    time: int


@dataclass(frozen=True)
class Trail:
    """What is known of a tensor that comes from the network's input.

    Attributes:
        places: modules that it enters or leaves, in order.
        nearest: what it comes from; a trail never holds its own tensor, which may be freed.
        pooled: the feature map that all of it went through; None: it is not pooled.
        time: when the tensor was made.
    """

    places: tuple[Place, ...] = ()
    nearest: Nearest | None = None
    pooled: "Pooled | None" = None
    time: int = 0

    def seen_from(self, tensor: Tensor) -> Nearest | None:
        """The module output nearest to what is computed from this trail's tensor."""
        outputs = [place for place in self.places if place.side == "output"]
        return Nearest(outputs[-1], tensor, (), self.time) if outputs else self.nearest


@dataclass(frozen=True)
class Pooled:
    """A feature map that a call has pooled.

    Attributes:
        function: the name of the pooling function, or the type of the pooling module.
        layout: of the map.
        tensor: the map.
        places: modules that the map enters or leaves.
        nearest: the module output nearest to the map.
        time: when the map was made.
    """

    function: str
    layout: Layout
    tensor: Tensor
    places: tuple[Place, ...]
    nearest: Nearest
    time: int


def nearest_of(sources: Iterable[tuple[Tensor, Trail]], size: int) -> Nearest | None:
    """The latest module output that a result of ``size`` elements comes from.

    One of the same size goes first: of ``relu(conv(x) + x)`` that is a whole map, of a pooled one
    the map before.
    """
    near = [n for n in (trail.seen_from(tensor) for tensor, trail in sources) if n is not None]
    return max(near, key=lambda n: (n.tensor.numel() == size, n.time), default=None)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings and data classes, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_of(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_of(part)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from tensors_of(vars(value))
