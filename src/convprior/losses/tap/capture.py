"""The hook that keeps a layer's last tensor."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from convprior.errors import InputError

Side = Literal["input", "output"]

REPLICAS = (
    "nn.DataParallel runs copies of the network that a FeatureTap cannot read; wrap it in "
    "DistributedDataParallel instead"
)


class Capture:
    """A forward (pre-)hook with keyword arguments; the last call's tensor is its ``features``.

    Args:
        layer: the module's name, for messages.
        side: whether the module's first input or its output is kept.
        channels_last: the map is (N, H, W, C) and is turned to (N, C, H, W), a view.
    """

    def __init__(self, layer: str, side: Side, channels_last: bool = False) -> None:
        self.layer = layer
        self.side = side
        self.channels_last = channels_last
        self.features: Tensor | None = None

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *output: Any
    ) -> None:
        """Keeps the tensor, detached: nothing is copied and no gradient flows through it."""
        if getattr(module, "_is_replica", False):
            raise InputError(REPLICAS)
        value = output[0] if self.side == "output" else next(iter((*args, *kwargs.values())), None)
        if not isinstance(value, Tensor):
            raise InputError(
                f"the {self.side} of layer {self.layer!r} is a {type(value).__name__}; name a "
                "layer where it is a tensor"
            )
        self.keep(value)

    def keep(self, value: Tensor) -> None:
        """Makes a tensor the features."""
        value = value.detach()
        self.features = value.permute(0, 3, 1, 2) if self.channels_last else value

    def forget(self, module: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG002
        """A pre-hook of the whole network: features of an earlier pass never pass for new ones."""
        self.features = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A copied or saved network has nobody who reads its features.
        return Absent, ()


class Absent:
    """What a hook of a tap becomes in a copied or saved network: nothing."""

    def __call__(self, *_: Any) -> None:
        """Does nothing."""

    forget = __call__
