"""A tap profile as text, and its summary over groups of layers."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from convprior.errors import InputError
from convprior.filters.taps.layer import LayerTaps, size_text

if TYPE_CHECKING:
    from convprior.filters.taps.profile import TapProfile

_NONE = "-"
_LONGEST = 40
"""Characters of a name in the table."""
_THIRDS = ("first third", "middle third", "last third")


def text_table(profile: "TapProfile") -> str:
    """The profile as aligned text: a line a layer, the summary, and how to read both."""
    shown = [layer for layer in profile if layer.intervals]
    started = any(layer.initial is not None for layer in shown)
    start = ["initial"] if started else []
    head = ["layer", "kind", "kernel", "stride", "filters", "center/edge", *start]
    head += ["center/corner", *start, "center share", "rank corr."]
    lines = [head, *(_cells(layer, started) for layer in shown)] if shown else []
    notes = [f"{printable(layer.name)}: {layer.note}" for layer in shown if layer.note]
    left_out = len(profile) - len(shown)
    if left_out:
        few = f"{left_out} layer{'s' * (left_out > 1)}"
        notes.append(f"{few} whose taps are all equally far (1x1, 2x2): no ratio")
    blocks = [aligned(lines, left=4), "\n".join(notes)]
    if shown:
        blocks.append(_summary_text(profile, started))
        blocks.append(
            "center/edge, center/corner: root mean square of the center tap over that of the "
            "outer\nones (1: no difference), with its "
            f"{100 * profile.confidence:g} % interval over filters"
            + ("; initial: before training" if started else "")
            + ".\ncenter share: of the squared weights, in brackets what equal taps would have.\n"
            "rank corr.: Spearman's, of a weight's size with its distance from the center."
        )
    return "\n\n".join(block for block in blocks if block)


def summarize(profile: "TapProfile") -> list[dict[str, Any]]:
    """See :meth:`convprior.filters.TapProfile.summary`."""
    layers = [layer for layer in profile if layer.intervals]
    if not layers:
        return []
    partitions: dict[str, Callable[[int, LayerTaps], str]] = {
        "kind": lambda _, layer: layer.kind,
        "kernel": lambda _, layer: size_text(layer.kernel_size),
        "stride": lambda _, layer: stride_text(layer.stride),
        "depth": lambda at, _: _THIRDS[3 * at // len(layers)],
    }
    groups = [_group("layers", "all", layers)]
    for by, key in partitions.items():
        if by == "depth" and len(layers) < len(_THIRDS):
            continue
        parts: dict[str, list[LayerTaps]] = {}
        for at, layer in enumerate(layers):
            parts.setdefault(key(at, layer), []).append(layer)
        groups += [_group(by, name, part) for name, part in parts.items()]
    return groups


def larger_layers(profile: "TapProfile") -> list[LayerTaps]:
    """The layers that have more than one tap.

    Raises:
        InputError: there is none.
    """
    layers = [layer for layer in profile if math.prod(layer.kernel_size) > 1]
    if not layers:
        raise InputError("all convolutions are 1x1: there are no taps to draw")
    return layers


def printable(text: str) -> str:
    """The text on one line, without characters that move the cursor; never empty."""
    return "".join(c if c.isprintable() else "?" for c in text) or "(itself)"


def shortened(name: str, longest: int) -> str:
    """A name that loses its middle where it is longer; the end says more than the start."""
    text = printable(name)
    head = longest // 2 - 2
    return text if len(text) <= longest else f"{text[:head]}…{text[head + 1 - longest :]}"


def stride_text(stride: tuple[int, ...] | None) -> str:
    """``2``, ``2x1``, or ``?`` if unknown."""
    if stride is None:
        return "?"
    return str(stride[0]) if len(set(stride)) == 1 else size_text(stride)


def number(value: float | None) -> str:
    """A ratio with two decimals, or a dash."""
    return _NONE if value is None else f"{value:.2f}"


def with_interval(layer: LayerTaps, ratio: str) -> str:
    """``1.53 [1.41, 1.66]``."""
    interval = layer.intervals.get(ratio)
    span = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
    return number(getattr(layer, ratio)) + span


def _cells(layer: LayerTaps, started: bool) -> list[str]:
    def ratio(name: str) -> list[str]:
        before = None if layer.initial is None else getattr(layer.initial, name)
        return [with_interval(layer, name), *([number(before)] if started else [])]

    share = layer.centre_share
    return [
        shortened(layer.name, _LONGEST),
        layer.kind,
        size_text(layer.kernel_size),
        stride_text(layer.stride),
        str(layer.filters),
        *ratio("centre_edge"),
        *ratio("centre_corner"),
        _NONE if share is None else f"{share:.3f} ({layer.uniform_share:.3f})",
        number(layer.spearman),
    ]


def _summary_text(profile: "TapProfile", started: bool) -> str:
    groups = profile.summary()
    sizes = {by: sum(g["group"] == by for g in groups) for by in {g["group"] for g in groups}}
    # A partition with a single part says again what "all" says.
    shown = [group for group in groups if group["group"] == "layers" or sizes[group["group"]] > 1]
    start = ["initial"] if started else []
    head = ["geometric means", "", "layers", "center/edge", *start, "center/corner", *start]
    lines = [[*head, "above 1", "below 1"]]
    for group in shown:
        line = [group["group"], group["name"], str(group["layers"])]
        for name in ("centre_edge", "centre_corner"):
            line += [number(group[name])] + [number(group[f"initial_{name}"])] * started
        lines.append([*line, str(group["above"]), str(group["below"])])
    return aligned(lines, left=2)


def _group(by: str, name: str, layers: Sequence[LayerTaps]) -> dict[str, Any]:
    spans = [
        span
        for layer in layers
        if (span := layer.intervals.get("centre_corner") or layer.intervals.get("centre_edge"))
    ]
    starts = [layer.initial for layer in layers if layer.initial is not None]
    return {
        "group": by,
        "name": name,
        "layers": len(layers),
        "centre_edge": _geometric_mean(layer.centre_edge for layer in layers),
        "centre_corner": _geometric_mean(layer.centre_corner for layer in layers),
        "initial_centre_edge": _geometric_mean(start.centre_edge for start in starts),
        "initial_centre_corner": _geometric_mean(start.centre_corner for start in starts),
        "above": sum(low > 1 for low, _ in spans),
        "below": sum(high < 1 for _, high in spans),
    }


def _geometric_mean(values: Iterable[float | None]) -> float | None:
    logs = [math.log(value) for value in values if value]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


def aligned(lines: Sequence[Sequence[str]], left: int) -> str:
    """Columns two spaces apart, the first ``left`` of them to the left, a rule below the head."""
    if not lines:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "─" * max(map(len, text)), *text[1:]])
