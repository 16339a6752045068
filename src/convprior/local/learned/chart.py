"""The picture of :class:`CombiningMaps`: a line of maps for each local layer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convprior._drawing import BLUE, GREEN, INK, QUIET, VERMILION, inline
from convprior._optional import require
from convprior.local.learned.pixels import Palette, colored, photograph

if TYPE_CHECKING:
    from convprior.local.learned.maps import CombiningMaps, LayerMaps

_SIDE, _THINNEST = 96, 14
"""Pixels of the longer side of a map, and the least of the other."""
_COLUMNS = 8
_LEAST = 0.1
"""Differences of weights that are shown in full color, at least, as a share of the middle."""


def draw_maps(maps: "CombiningMaps") -> Any:
    """All layers, one below the other, not yet styled."""
    alt = require("altair", "lab")
    lines = [_layer(at, layer, maps) for at, layer in enumerate(maps, 1)]
    return alt.vconcat(*lines, spacing=34).resolve_scale(color="independent")


def describe(layer: "LayerMaps") -> str:
    """What kind of layer it is and how far it is from a convolution, in one line."""
    rows, columns = layer.size
    kind = "own kernels everywhere" if layer.rank is None else f"rank {layer.rank}, {layer.weights}"
    text = f"{kind}, {rows} x {columns} positions"
    distance = layer.mean_distance
    if distance is None:
        return f"{text}; its weights depend on the image: give images to see them"
    if not distance:
        return f"{text}; the same kernel everywhere"
    return f"{text}; relative distance of the kernels from their mean: {distance:.2g}"


def _layer(at: int, layer: "LayerMaps", maps: "CombiningMaps") -> Any:
    alt = require("altair", "lab")
    groups = []
    if layer.distance is not None and layer.mean_distance:
        groups.append(_distance(layer.distance))
    if layer.combining is not None:
        groups.append(_weights(layer, layer.combining, maps))
    if layer.bias is not None and bool(layer.bias.any()):
        groups.append(_bias(layer.bias, "spatial bias" if layer.rank else "bias, channels' mean"))
    if not groups:
        groups.append(alt.Chart(inline([{}])).mark_point(opacity=0).properties(width=1, height=1))
    name = "".join(c if c.isprintable() else "?" for c in layer.name) or "(itself)"
    title = alt.TitleParams(
        f"{at}. {name}",
        subtitle=describe(layer),
        color=INK,
        subtitleColor=INK,
        fontSize=14,
        subtitleFontSize=12,
        anchor="start",
        offset=10,
        subtitlePadding=4,
    )
    joined = alt.hconcat(*groups, spacing=36).resolve_scale(color="independent")
    return joined.properties(title=title)


def _distance(distance: Tensor) -> Any:
    palette = Palette(0.0, 0.0, float(distance.max()), GREEN, GREEN)
    tile = {"panel": "distance", "url": colored(distance, palette)}
    return _group([tile], distance, palette, "from the mean kernel")


def _bias(bias: Tensor, name: str) -> Any:
    most = float(bias.abs().max())
    palette = Palette(0.0, most, most, BLUE, VERMILION)
    return _group(
        [{"panel": name, "url": colored(bias, palette)}], bias, palette, "added to the output"
    )


def _weights(layer: "LayerMaps", mean: Tensor, maps: "CombiningMaps") -> Any:
    """The weights of each basis; where they depend on the image, a line for each of a few."""
    equal = layer.normalize == "softmax"
    middle = 1 / len(mean) if equal else float(mean.mean())
    away = (torch.cat([mean[None], layer.examples]) - middle).abs().flatten().sort().values
    # One odd position shall not pale all others.
    above = max(float(away[int(0.98 * (len(away) - 1))]), _LEAST * (abs(middle) or 1.0))
    palette = Palette(middle, min(above, middle) if equal else above, above, BLUE, VERMILION)

    def line(weights: Tensor) -> list[dict[str, Any]]:
        return [
            {"panel": f"basis {k}", "column": k, "url": colored(one, palette)}
            for k, one in enumerate(weights, 1)
        ]

    title = f"combining weight; no color: {f'1/{len(mean)}' if equal else f'{middle:.2g}'}"
    whole = _group(line(mean), mean[0], palette, title)
    if not len(layer.examples):
        return whole
    tiles = []
    for n, weights in enumerate(layer.examples):
        tiles += [{**tile, "line": n} for tile in line(weights)]
        if maps.pictures is not None and maps.pictures.ndim == 4:
            picture = {"panel": "image", "url": photograph(maps.pictures[n])}
            tiles.append({**picture, "column": len(mean) + 1, "line": n})
    alt = require("altair", "lab")
    few = _group(tiles, mean[0], palette, None)
    heads = (f"mean over {maps.images:,} images", "single images")
    titled = [
        chart.properties(
            title=alt.TitleParams(head, color=INK, fontSize=12, fontWeight="normal", anchor="start")
        )
        for chart, head in zip((whole, few), heads, strict=True)
    ]
    return alt.vconcat(*titled, spacing=16).resolve_scale(color="independent")


def _group(
    tiles: Sequence[Mapping[str, Any]], shape: Tensor, palette: Palette, title: str | None
) -> Any:
    """Pictures with names above and, with a title, the scale of colors below."""
    alt = require("altair", "lab")
    height, width = (max(_THINNEST, _SIDE * n / max(shape.shape)) for n in shape.shape)
    image = alt.Chart().mark_image(
        aria=False, width=width, height=height, aspect=False, smooth=False
    )
    image = image.encode(x=alt.value(width / 2), y=alt.value(height / 2), url="url:N")
    legend = alt.Legend(
        title=title,
        format=".2~r",
        values=palette.ends,
        orient="bottom",
        direction="horizontal",
        gradientLength=max(110, width),
        gradientThickness=8,
        labelColor=INK,
        titleColor=INK,
        titleFontWeight="normal",
        titleLimit=300,
        offset=6,
    )
    scale = alt.Scale(domain=palette.stops, range=palette.colors)
    # Nothing is seen of these points: they bring the legend.
    ghost = alt.Chart().mark_point(aria=False, opacity=0)
    ghost = ghost.encode(color=alt.Color("value:Q", scale=scale, legend=legend if title else None))
    rows = [
        {"column": 0, **tile, "order": at, "value": palette.middle} for at, tile in enumerate(tiles)
    ]
    panel = alt.layer(image, ghost, data=inline(rows)).properties(
        width=width, height=height, view=alt.ViewBackground(stroke=QUIET, strokeWidth=0.5)
    )
    # Sorted by number: a name in a sort would become part of an expression.
    across = alt.EncodingSortField("column", op="min")
    head = alt.Header(labelOrient="top", labelAnchor="middle", labelLimit=200)
    gap = {"row": 8, "column": 8}
    if "line" not in tiles[0]:
        facet = alt.Facet("panel:N", title=None, sort=across, header=head)
        return panel.facet(facet, columns=_COLUMNS, spacing=gap)
    return panel.facet(
        column=alt.Column("panel:N", title=None, sort=across, header=head),
        row=alt.Row("line:O", title=None, header=alt.Header(labels=False)),
        spacing=gap,
    )
