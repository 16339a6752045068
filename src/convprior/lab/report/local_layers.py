"""The local layers of an inspected network: how far from convolutions they are, and their maps."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters.filter_banks import Source
from convprior.lab.data import batches, prepare
from convprior.lab.report.targets import Target
from convprior.lab.study.tables import printable
from convprior.lab.train.recipe import Recipe
from convprior.local.learned.invariance import InvarianceReport, invariance_report
from convprior.local.learned.maps import CombiningMaps, combining_maps, local_layers
from convprior.local.learned.tables import layers_of_weights

_IMAGES = 64
"""Of a run's evaluation set, over which weights that depend on the image are averaged."""


@dataclass(frozen=True)
class LocalLayers:
    """What is shown of the local layers of one network."""

    report: InvarianceReport
    maps: CombiningMaps

    @property
    def conclusion(self) -> str:
        """In how many layers kernels differ between positions, and where most, in a sentence."""
        known = [layer for layer in self.report if layer.distance is not None]
        moved = [layer for layer in known if layer.distance]
        if not known:
            return (
                "Local layers: their kernels depend on the image, and there is none to show them."
            )
        if not moved:
            return "Local layers: each has one kernel everywhere, so it is a convolution."
        most = max(moved, key=lambda layer: layer.distance or 0.0)
        return (
            f"Local layers: kernels differ between positions in {len(moved)} of {len(known)}, most "
            f"in {printable(most.name) or '(itself)'} (relative distance {most.distance:.2g})."
        )

    def text(self) -> str:
        """The conclusion and the table."""
        return f"{self.conclusion}\n\n{self.report.table()}"

    def as_dict(self) -> dict[str, Any]:
        """The table and the maps as plain data, ready for JSON."""
        return {"invariance": self.report.rows(), "maps": self.maps.rows()}


def find_local(target: Target, layers: Sequence[str] = ()) -> LocalLayers | None:
    """Measures the local layers of a target; None if there is none.

    Weights that depend on the image need some: those of a run are its evaluation set's, if its data
    are still there.

    Args:
        target: of a file, the layers that its tables tell.
        layers: names or patterns; empty means all.
    """
    network = _module(target.network)
    found = local_layers(network)
    names = [name for name in found if not layers or any(fits(rule, name) for rule in layers)]
    if not names:
        return None
    images = None
    if target.recipe is not None and any(
        getattr(found[name], "weights", None) == "input" for name in names
    ):
        images = _images(target.recipe)
    report, maps = invariance_report(network, images), combining_maps(network, images)
    return LocalLayers(
        InvarianceReport(tuple(one for one in report if one.name in names)),
        CombiningMaps([one for one in maps if one.name in names], maps.pictures, maps.images),
    )


def _module(network: Source) -> nn.Module:
    if isinstance(network, nn.Module):
        return network
    assert isinstance(network, str | os.PathLike)
    with safe_open(network, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        wanted = {
            name.rpartition(".")[0]
            for name, shape in shapes.items()
            if name.endswith("_logits") or len(shape) > 5
        }
        return layers_of_weights(
            {name: file.get_tensor(name) for name in shapes if name.rpartition(".")[0] in wanted}
        )


def fits(rule: str, name: str) -> bool:
    """Whether a name or pattern means a layer."""
    return name == rule or name.startswith(f"{rule}.") or fnmatchcase(name, rule)


def _images(recipe: Recipe) -> Tensor | None:
    """Some images of a run's evaluation set, as its network gets them; None if they are gone."""
    try:
        data = prepare(recipe.data, workers=0)
    except InputError:
        return None
    x, *_ = next(batches(data.evaluation, _IMAGES, mean=data.mean, std=data.std))
    return x
