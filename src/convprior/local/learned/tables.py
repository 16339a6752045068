"""Local layers put together again from weights by name, as a file holds them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from convprior.local.layers.combining import WeightsMode
from convprior.local.layers.local_conv import LocalConv2d
from convprior.local.layers.one_d import LowRankLocalConv1d
from convprior.local.layers.two_d import LowRankLocalConv2d

_MODES: dict[tuple[str, ...], WeightsMode] = {
    ("row", "column"): "separable",
    ("map",): "map",
    ("row",): "rows",
    ("column",): "columns",
}
_LOCAL_AXES = 6


def layers_of_weights(weights: Mapping[str, Tensor]) -> nn.Module:
    """The local layers among a network's weights, under their names; everything else is left out.

    A layer is known by its tables (``row_logits``, ``column_logits``, ``map_logits``), or by a
    weight of six axes. It has the kernels and the spatial bias of the saved one. What weights do
    not say gets a value: the combining weights are normalized by a softmax, padding is 0 and stride
    1, and an axis without a table has one position. Layers with ``weights="input"`` and the 1-d
    :class:`~convprior.local.LocalConv1d` are not found: their weights do not tell their size.

    Args:
        weights: a state dict.
    """
    root = nn.Module()
    names = dict.fromkeys(name.rpartition(".")[0] for name in weights)
    for name in names:
        prefix = f"{name}." if name else ""
        own = {
            key.removeprefix(prefix): tensor
            for key, tensor in weights.items()
            if key.rpartition(".")[0] == name
        }
        layer = _low_rank(own) or _full(own)
        if layer is not None:
            _put(root, name, layer)
    return root


def _low_rank(own: Mapping[str, Tensor]) -> nn.Module | None:
    tables = tuple(table for table in ("row", "column", "map") if f"{table}_logits" in own)
    weight = own.get("weight")
    if tables not in _MODES or weight is None or weight.ndim not in (3, 4):
        return None
    logits = {table: own[f"{table}_logits"] for table in tables}
    rank = len(logits[tables[0]])
    kernel = tuple(weight.shape[2:])
    biases = {f"{table}_bias" for table in tables}
    if "map" in logits:
        positions = tuple(logits["map"].shape[1:])
    else:
        positions = tuple(logits[t].shape[1] if t in logits else 1 for t in ("row", "column"))
    if len(positions) != len(kernel) or len(weight) % rank:
        return None
    sizes = tuple(n + k - 1 for n, k in zip(positions, kernel, strict=True))
    kind: Any = LowRankLocalConv2d if len(kernel) == 2 else LowRankLocalConv1d
    layer: nn.Module = kind(
        weight.shape[1],
        len(weight) // rank,
        kernel,
        bias=False,
        device="meta",
        input_size=sizes if len(sizes) == 2 else sizes[0],
        rank=rank,
        weights=_MODES[tables],
        spatial_bias=biases <= own.keys(),
    )
    return _filled(layer, own)


def _full(own: Mapping[str, Tensor]) -> nn.Module | None:
    weight = own.get("weight")
    if weight is None or weight.ndim != _LOCAL_AXES:
        return None
    rows, columns, filters, channels, height, width = weight.shape
    layer = LocalConv2d(
        channels,
        filters,
        (height, width),
        bias="bias" in own,
        device="meta",
        input_size=(rows + height - 1, columns + width - 1),
    )
    return _filled(layer, own)


def _filled(layer: nn.Module, own: Mapping[str, Tensor]) -> nn.Module | None:
    wanted = layer.state_dict()
    if any(name not in own or own[name].shape != tensor.shape for name, tensor in wanted.items()):
        return None
    layer.load_state_dict({name: own[name] for name in wanted}, assign=True)
    return layer.requires_grad_(requires_grad=False)


def _put(root: nn.Module, name: str, layer: nn.Module) -> None:
    """Places the layer at its dotted name, with empty modules on the way."""
    *path, last = (name or "layer").split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, layer)
