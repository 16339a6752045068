"""What a local layer learned, as maps over the image: who uses which basis where, and how much."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters.cohesion.listening import Images, run_listening
from convprior.filters.selection import unwrap
from convprior.local.layers.local_conv import LocalConvNd
from convprior.local.layers.low_rank import LowRankLocalConvNd
from convprior.local.learned.mixture import Parts, parts_of

_ROUNDING = 1e-12
"""Relative distances below this are rounding in float64."""

LocalLayer = LowRankLocalConvNd | LocalConvNd


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """The maps of one layer, float64 on the CPU; a sequence is an image of one row.

    Attributes:
        name: of the layer.
        weights: the mode of a low-rank layer (``separable``, ``map``, ``rows``, ``columns``,
            ``input``), or ``full``: every position has kernels of its own.
        rank: K, None for ``full``.
        normalize: ``softmax``, ``l2`` or None.
        size: (H', W'), the positions.
        combining: (K, H', W') weights of the bases, for ``input`` their mean over the images; None
            for ``full``, and for ``input`` without images.
        examples: (n, K, H', W') weights of single images, n = 0 unless ``input``.
        bias: (H', W') spatial bias, for ``full`` the mean of the bias over channels; or None.
        distance: (H', W') ``|W(p) - mean W| / |mean W|``, of the kernel at a position from the mean
            kernel, 0 everywhere for a convolution; for ``input`` its root mean square over the
            images, None without images.
    """

    name: str
    weights: str
    rank: int | None
    normalize: str | None
    size: tuple[int, int]
    combining: Tensor | None
    examples: Tensor
    bias: Tensor | None
    distance: Tensor | None

    @property
    def mean_distance(self) -> float | None:
        """Root mean square of ``distance``, as in :func:`~convprior.local.invariance_report`."""
        return None if self.distance is None else float(self.distance.square().mean().sqrt())

    def row(self) -> dict[str, Any]:
        """The layer as plain data, ready for JSON."""
        maps = {"combining": self.combining, "bias": self.bias, "distance": self.distance}
        return {
            "name": self.name,
            "weights": self.weights,
            "rank": self.rank,
            "normalize": self.normalize,
            "size": list(self.size),
            **{key: None if one is None else one.tolist() for key, one in maps.items()},
            "examples": self.examples.tolist(),
        }


class CombiningMaps(Sequence[LayerMaps]):
    """The maps of a network, a :class:`LayerMaps` a layer in the order of the network.

    ``maps[0]``, ``maps["layer1.0.conv1"]``, ``len(maps)``, a loop over it.

    Attributes:
        pictures: (n, C, H, W), the images that ``examples`` of the layers belong to, or None.
        images: how many the means of ``input`` weights are over.
    """

    def __init__(
        self, layers: Sequence[LayerMaps], pictures: Tensor | None = None, images: int = 0
    ) -> None:
        self.layers, self.pictures, self.images = tuple(layers), pictures, images

    @overload
    def __getitem__(self, index: int | str) -> LayerMaps: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerMaps, ...]: ...
    def __getitem__(self, index: int | str | slice) -> LayerMaps | tuple[LayerMaps, ...]:
        if isinstance(index, str):
            for layer in self.layers:
                if layer.name == index:
                    return layer
            raise KeyError(index)
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerMaps]:
        return iter(self.layers)

    def __repr__(self) -> str:
        return f"CombiningMaps of {', '.join(layer.name or '(itself)' for layer in self)}"

    def rows(self) -> list[dict[str, Any]]:
        """The layers as plain data."""
        return [layer.row() for layer in self.layers]

    def chart(self) -> Any:
        """A line of maps a layer: distance from the mean kernel, weights, spatial bias.

        Raises:
            MissingExtraError: altair is not installed.
        """
        from convprior._drawing import styled
        from convprior.local.learned.chart import draw_maps

        return styled(draw_maps(self))


def combining_maps(
    model: nn.Module, images: Images | None = None, *, examples: int = 3
) -> CombiningMaps:
    """Collects the combining weights and biases of all local layers over their positions.

    Args:
        model: a network with local layers, or one of them; wrappers are looked through. It is left
            as it is.
        images: for layers with ``weights="input"``, as the network gets them: one tensor or
            batches; nothing is computed from them where no layer needs any.
        examples: single images whose weights are kept.

    Returns:
        One entry a layer; a module in several places appears once.

    Raises:
        InputError: there is no local layer, or ``images`` hold none.

    Example:
        >>> from convprior.local import LowRankLocalConv2d
        >>> maps = combining_maps(LowRankLocalConv2d(1, 4, 3, input_size=10, rank=2))
        >>> maps[0].combining.shape, float(maps[0].distance.max())
        (torch.Size([2, 8, 8]), 0.0)
    """
    layers = local_layers(model)
    if not layers:
        raise InputError("there is no local layer in this network; convprior.local.localize it")
    sums: dict[nn.Module, _Mean] = {
        layer: _Mean(layer, examples)
        for layer in layers.values()
        if isinstance(layer, LowRankLocalConvNd) and layer.weights == "input"
    }
    first: list[Tensor] = []
    used = 0
    if images is not None and sums:
        listeners = {layer: one.add for layer, one in sums.items()}
        used = run_listening(model, _watching(images, first, examples), listeners)
    with torch.no_grad():
        found = [
            _of_local(name, layer)
            if isinstance(layer, LocalConvNd)
            else _of_low_rank(name, layer, sums.get(layer))
            for name, layer in layers.items()
        ]
    return CombiningMaps(found, torch.cat(first) if first else None, used)


def local_layers(model: nn.Module) -> dict[str, LocalLayer]:
    """The local layers of a network by name, in its order."""
    return {
        name.replace("_orig_mod.", ""): module
        for name, module in unwrap(model).named_modules()
        if isinstance(module, LowRankLocalConvNd | LocalConvNd)
    }


class _Mean:
    """Gathers what a layer does over images: its weights, how far its kernels are apart, a few."""

    def __init__(self, layer: LowRankLocalConvNd, examples: int) -> None:
        self.layer, self.count, self.wanted = layer, 0, examples
        self.first = self.gram = torch.empty(0)
        self.total: Tensor | float = 0.0
        self.square: Tensor | float = 0.0
        self.examples: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        parts = parts_of(self.layer, x)
        assert parts.weights is not None
        weights = parts.weights.cpu().view(len(parts.weights), -1, *self.layer.geometry.output_size)
        if not self.count:
            # Differences from some weights: those that are all equal have distance 0 exactly.
            self.first = weights[:, :1, :1, :1]
            self.gram = _gram(parts)
        less = weights - self.first
        self.total = self.total + less.sum(1)
        self.square = self.square + _squares(less, self.gram).sum(0)
        kept = sum(map(len, self.examples))
        self.examples.append(weights[1:, : max(0, self.wanted - kept)].transpose(0, 1))
        self.count += weights.shape[1]

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean weights (K, H', W'), and the distance of the kernels (H', W') from their mean."""
        assert isinstance(self.total, Tensor)
        less = self.total / self.count
        center = less.mean((1, 2))
        across = torch.einsum("k,kl,lhw->hw", center, self.gram, less)
        squares = self.square / self.count - 2 * across + center @ self.gram @ center
        mean = center + self.first.flatten()
        weights = (less + self.first[:, 0])[1:]
        return weights, _relative(squares, mean @ self.gram @ mean)


def _watching(images: Images, kept: list[Tensor], wanted: int) -> Iterator[Any]:
    """The batches, of which the first images are kept."""
    batches = torch.split(images, 128) if isinstance(images, Tensor) else images
    for batch in batches:
        x = batch[0] if isinstance(batch, list | tuple) else batch
        if isinstance(x, Tensor):
            kept.append(x[: max(0, wanted - sum(map(len, kept)))].detach().cpu())
        yield batch


def _of_low_rank(name: str, layer: LowRankLocalConvNd, mean: _Mean | None) -> LayerMaps:
    size = layer.geometry.output_size
    parts = parts_of(layer)
    bias = None if parts.spatial_bias is None else parts.spatial_bias.detach().cpu().view(size)
    weights = distance = None
    examples = torch.empty(0, layer.rank, *size, dtype=torch.float64)
    if parts.weights is not None:
        every = parts.weights.cpu().view(-1, 1, *size)
        center = every.mean((2, 3), keepdim=True)
        gram = _gram(parts)
        middle = center.flatten() @ gram @ center.flatten()
        weights, distance = every[1:, 0], _relative(_squares(every - center, gram)[0], middle)
    elif mean is not None and mean.count:
        weights, distance = mean.result()
        examples = torch.cat(mean.examples)
    return LayerMaps(
        name, layer.weights, layer.rank, layer.normalize, size, weights, examples, bias, distance
    )


def _of_local(name: str, layer: LocalConvNd) -> LayerMaps:
    size = layer.geometry.output_size
    bias = None if layer.bias is None else layer.bias.double().cpu().mean(0).view(size)
    kernels = layer.weight.double().cpu().reshape(size[0] * size[1], -1)
    center = kernels.mean(0)
    distance = _relative((kernels - center).square().sum(1), center.square().sum()).view(size)
    return LayerMaps(name, "full", None, None, size, None, torch.empty(0), bias, distance)


def _gram(parts: Parts) -> Tensor:
    """Inner products of the bases."""
    bases = parts.bases.cpu()
    return bases @ bases.T


def _squares(weights: Tensor, gram: Tensor) -> Tensor:
    """Squared norms (n, H', W') of the kernels that weights (K, n, H', W') mix."""
    return torch.einsum("knhw,kl,lnhw->nhw", weights, gram, weights)


def _relative(squares: Tensor, reference: Tensor) -> Tensor:
    """Root of squares over a reference; what is rounding is 0."""
    ratio = torch.where(squares > 0, squares / reference, 0.0).sqrt()
    return torch.where(ratio > _ROUNDING, ratio, 0.0)
