"""How far the local layers of a network are from convolutions."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters.cohesion.listening import Images, Listener, run_listening
from convprior.filters.selection import unwrap
from convprior.filters.taps.table import aligned, shortened
from convprior.local.layers.local_conv import LocalConvNd
from convprior.local.layers.low_rank import LowRankLocalConvNd
from convprior.local.learned.mixture import (
    WeightMoments,
    distance_and_rank,
    in_float64,
    parts_of,
    relative,
)


@dataclass(frozen=True)
class LayerInvariance:
    """How far one layer is from a convolution.

    Attributes:
        name: of the layer.
        weights: the mode of its combining weights; ``full`` for a kernel at each position.
        rank: number of bases; None for ``full``.
        distance: root mean square over positions of ``|W(p) - mean|``, over ``|mean|``: 0 for a
            convolution. None for ``input`` weights without images.
        effective_rank: ``(sum l)^2 / sum l^2`` over the eigenvalues ``l`` of the kernels'
            covariance over positions: in how many directions they differ; 0 for a convolution.
        basis_spread: root mean square over k of ``|B_k - mean|``, over ``|mean|``.
        spatial_bias: root mean square over positions of the spatial bias around its mean, in the
            units of the layer's output; for ``full`` of each channel's bias.
    """

    name: str
    weights: str
    rank: int | None
    distance: float | None
    effective_rank: float | None
    basis_spread: float | None
    spatial_bias: float


@dataclass(frozen=True)
class InvarianceReport:
    """One entry a local layer, in the network's order.

    Attributes:
        layers: the entries.
    """

    layers: tuple[LayerInvariance, ...]

    def rows(self) -> list[dict[str, Any]]:
        """The layers as plain data, ready for JSON."""
        return [asdict(layer) for layer in self.layers]

    def table(self) -> str:
        """The layers as aligned text, and how to read it."""
        head = ["layer", "weights", "rank", "distance", "effective rank", "basis spread"]
        lines = [[*head, "spatial bias"], *map(_cells, self.layers)]
        text = (
            "distance: of the kernels from their mean over positions, relative to it (0: a "
            "convolution);\neffective rank: directions in which they differ; basis spread: of the "
            "bases around their\nmean, relative to it; spatial bias: root mean square around its "
            "mean."
        )
        if any(layer.distance is None for layer in self.layers):
            text += "\n-: the weights depend on the input; give images."
        return f"{aligned(lines, left=2)}\n\n{text}"

    def __str__(self) -> str:
        return self.table()

    def __iter__(self) -> Iterator[LayerInvariance]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, name: str) -> LayerInvariance:
        """The entry of a layer by its name."""
        found = {layer.name: layer for layer in self.layers}
        if name not in found:
            raise InputError(f"there is no local layer {name!r}; there are {', '.join(found)}")
        return found[name]


def invariance_report(
    model: nn.Module, images: Images | None = None, *, limit: int | None = None
) -> InvarianceReport:
    """How far each local layer of a network is from a convolution, in float64.

    Args:
        model: compiled and data-parallel wrappers are looked through.
        images: one tensor or batches, for layers with ``weights="input"``, where the average is
            over images too. Other layers need none.
        limit: images used at most.

    Raises:
        InputError: the network has no local layer.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
        >>> local = localize(net, torch.randn(1, 3, 16, 16), rank=4)
        >>> report = invariance_report(local)
        >>> report["0"].distance, round(report["0"].basis_spread, 2)
        (0.0, 0.01)

    Source: our choice.
    """
    network = unwrap(model)
    found = {
        name.replace("_orig_mod.", ""): module
        for name, module in network.named_modules()
        if isinstance(module, LowRankLocalConvNd | LocalConvNd)
    }
    if not found:
        raise InputError("the network has no local layer; convert one by convprior.local.localize")
    moments = {m: WeightMoments() for m in found.values() if isinstance(m, LowRankLocalConvNd)}
    gated: dict[nn.Module, Listener]
    gated = {m: _listener(m, moment) for m, moment in moments.items() if m.weights == "input"}
    if gated and images is not None:
        run_listening(network, images, gated, limit=limit)
    layers = [
        _of_low_rank(name, module, moments[module])
        if isinstance(module, LowRankLocalConvNd)
        else _of_local(name, module)
        for name, module in found.items()
    ]
    return InvarianceReport(tuple(layers))


def _listener(layer: LowRankLocalConvNd, moments: WeightMoments) -> Listener:
    def listen(x: Tensor) -> None:
        weights = parts_of(layer, x).weights
        assert weights is not None
        moments.add(weights)

    return listen


def _of_low_rank(name: str, layer: LowRankLocalConvNd, moments: WeightMoments) -> LayerInvariance:
    parts = parts_of(layer)
    if parts.weights is not None:
        moments.add(parts.weights)
    gram = parts.bases @ parts.bases.T
    known = moments.mean_and_covariance()
    distance, rank = (None, None) if known is None else distance_and_rank(gram, *known)
    bias = parts.spatial_bias
    return LayerInvariance(
        name=name,
        weights=layer.weights,
        rank=layer.rank,
        distance=distance,
        effective_rank=rank,
        basis_spread=relative(gram.diagonal()[1:].mean(), gram[0, 0]),
        spatial_bias=0.0 if bias is None else _spread(bias[None]),
    )


@torch.no_grad()
def _of_local(name: str, layer: LocalConvNd) -> LayerInvariance:
    weight: Tensor = layer.weight
    kernels = in_float64(weight).flatten(len(layer.input_size)).flatten(0, -2)
    # Differences from one kernel: kernels that are all equal have distance 0 exactly.
    deviation = kernels - kernels[:1]
    mean = kernels[0] + deviation.mean(0)
    deviation -= deviation.mean(0)
    positions = len(kernels)
    few = deviation.T @ deviation if positions > kernels.shape[1] else deviation @ deviation.T
    distance = relative(few.trace() / positions, mean @ mean)
    rank = float(few.trace() ** 2 / few.square().sum()) if distance else 0.0
    bias = 0.0 if layer.bias is None else _spread(in_float64(layer.bias).flatten(1))
    return LayerInvariance(name, "full", None, distance, rank, None, bias)


def _spread(bias: Tensor) -> float:
    """Root mean square around the mean over positions, of (channels, P)."""
    deviation = bias - bias[:, :1]
    return float((deviation - deviation.mean(1, keepdim=True)).square().mean().sqrt())


def _cells(layer: LayerInvariance) -> list[str]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}"

    return [
        shortened(layer.name, 40),
        layer.weights,
        "-" if layer.rank is None else str(layer.rank),
        number(layer.distance),
        number(layer.effective_rank),
        number(layer.basis_spread),
        number(layer.spatial_bias),
    ]
