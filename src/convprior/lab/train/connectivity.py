"""The connectivity slot of a recipe: whether a network may tell positions apart, and how."""

import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from convprior.errors import InputError
from convprior.lab.plain import require, settle

# A network whose layers can be given more filters, with the names of those layers.
_WIDENED, _POSITION = "simple_local_net", re.compile(r"conv([123])")


@dataclass(frozen=True)
class ConnectivityRecipe:
    """Whether one filter is used everywhere, from the start of training, with its controls."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    kind: Literal["conv", "low_rank", "local", "spatial_bias", "coordinates", "wide"] = "conv"
    """`conv`: the network as it is; `low_rank`: a few filter banks mixed by position; `local`:
    own filters at every position; `spatial_bias`: convolutions and one scalar a position, which is
    short for `low_rank` with `rank = 1`;
    `coordinates`: row and column as two more channels of the image; `wide`: more filters, as many
    parameters as `low_rank` (simple_local_net)."""
    layers: str | None = None
    """Names or patterns (`layer1.*`) of convolutions, separated by commas; none: all larger than
    1x1."""
    rank: int = 4
    """Filter banks that `low_rank` mixes, or whose parameters `wide` has."""
    weights: Literal["separable", "map", "rows", "columns", "input"] = "separable"
    """What the mixture of `low_rank` depends on: `separable`: the row plus the column; `map`: the
    position; `rows`, `columns`: one of them; `input`: the position and the image."""
    normalize: Literal["softmax", "l2"] | None = "softmax"
    """How the mixture is normalized over the filter banks of `low_rank`; none: not at all."""
    spatial_bias: bool = True
    """Also add one learned scalar a position, in `low_rank`; in `local`, one a filter."""
    init: Literal["variance", "authors"] = "variance"
    """Initial weights of `low_rank` and `local`: the variance of a convolution's filters, or what
    the authors' code does (smaller)."""
    control: Literal["shuffled"] | None = None
    """`shuffled`: each position of `low_rank` takes the tables of another one, fixed at random."""

    def __post_init__(self) -> None:
        settle(self, "connectivity")
        require(self.rank >= 1, "connectivity.rank", self.rank, "must be >= 1")
        names = sorted({name.strip() for name in (self.layers or "").split(",")} - {""})
        require(
            self.layers is None or bool(names),
            "connectivity.layers",
            self.layers,
            "names no layer; give names separated by commas, or leave it out",
        )
        object.__setattr__(self, "layers", ",".join(names) or None)
        require(
            self.control is None or self.kind == "low_rank",
            "connectivity.control",
            self.control,
            f"changes nothing where connectivity.kind = {self.kind!r}; set it to 'low_rank'",
        )
        require(
            self.control is None or self.weights != "map",
            "connectivity.control",
            self.control,
            "changes nothing where connectivity.weights = 'map', since every position is free; "
            "choose 'separable', 'rows' or 'columns'",
        )
        alone = self.rank == 1 and self.normalize is not None and not self.spatial_bias
        require(
            self.kind != "low_rank" or not alone,
            "connectivity.rank",
            self.rank,
            "without a spatial bias is a convolution; set spatial_bias = true or rank = 2",
        )
        if self.kind == "wide":
            require(self.rank > 1, "connectivity.rank", self.rank, "adds no filter; set 2 or more")
            require(
                _POSITION.fullmatch(self.layers or "") is not None,
                "connectivity.layers",
                self.layers,
                f"must name the one layer to widen of {_WIDENED}; choose conv1, conv2 or conv3",
            )
        self._drop_unused()
        if self.kind == "spatial_bias":
            object.__setattr__(self, "kind", "low_rank")
            object.__setattr__(self, "rank", 1)

    def _drop_unused(self) -> None:
        """Keys without effect take their defaults, so that equal experiments are equal recipes."""
        used_by = {
            "layers": ("low_rank", "local", "spatial_bias", "wide"),
            "rank": ("low_rank", "wide"),
            "spatial_bias": ("low_rank", "local"),
            "init": ("low_rank", "local"),
        }
        for entry in fields(self):
            if entry.name != "kind" and self.kind not in used_by.get(entry.name, ("low_rank",)):
                object.__setattr__(self, entry.name, entry.default)


def model_arguments(slot: ConnectivityRecipe, model: str, channels: int) -> dict[str, Any]:
    """What the slot changes in the arguments of ``create_model``.

    Args:
        slot: of the recipe.
        model: the network's name.
        channels: of the images.

    Raises:
        InputError: ``wide``, and the network cannot be widened.
    """
    if slot.kind == "coordinates":
        return {"in_chans": channels + 2}
    if slot.kind != "wide":
        return {"in_chans": channels}
    if model != _WIDENED:
        raise InputError(
            f"connectivity.kind = 'wide' is for model.name = {_WIDENED!r}, not for {model!r}; "
            "elsewhere compare with a larger model.width"
        )
    position = _POSITION.fullmatch(str(slot.layers))
    assert position is not None
    return {"in_chans": channels, "wide": (int(position[1]), slot.rank)}


def connect(
    network: nn.Module, slot: ConnectivityRecipe, channels: int, size: tuple[int, int], seed: int
) -> nn.Module:
    """Gives a fresh network the connectivity of a recipe.

    Args:
        network: built with :func:`model_arguments`; its convolutions are replaced in place.
        slot: of the recipe.
        channels: of the images.
        size: height and width of the images, which the layers' tables follow.
        seed: of the new layers' weights. Layers that stay keep theirs, the same in every arm.

    Raises:
        InputError: a layer does not exist or cannot become local.
    """
    from convprior.local.surgery.relax import relax_
    from convprior.models import with_coordinates

    if slot.kind == "coordinates":
        return with_coordinates(network)
    if slot.kind == "conv" or slot.kind == "wide":
        return network
    init = {"local": {"variance": "fan_in", "authors": "keras"}}.get(slot.kind, {})
    device = next(network.parameters()).device
    try:
        relax_(
            network,
            torch.zeros(1, channels, *size, device=device),
            kind=slot.kind,
            rank=slot.rank,
            layers=None if slot.layers is None else slot.layers.split(","),
            seed=seed,
            weights=slot.weights,
            normalize=slot.normalize,
            spatial_bias=slot.spatial_bias,
            init=init.get(slot.init, slot.init),
            shuffle_positions=slot.control == "shuffled",
        )
    except InputError as error:
        raise InputError(f"connectivity: {error}") from error
    return network
