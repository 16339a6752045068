"""Feature diversity as text."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from convprior.diagnose.diversity.conclusion import percent
from convprior.diagnose.diversity.deciles import count_text
from convprior.diagnose.diversity.layer import LayerDiversity
from convprior.filters.taps.layer import size_text
from convprior.filters.taps.table import aligned, printable, shortened

if TYPE_CHECKING:
    from convprior.diagnose.diversity.result import FeatureDiversity

HEAD = (
    "layer", "features", "eff. rank", "part. ratio", "AUROC", "rank corr. with loss",
    "lowest tenth", "mean weight",
)  # fmt: skip
"""Names of the :func:`cells` of a layer."""

_NONE = "-"
_LONGEST = 40


def text_table(diversity: "FeatureDiversity") -> str:
    """A line a layer, the deciles of the last layer, and how to read both."""
    last, confidence = diversity.layers[-1], f"{100 * diversity.settings.confidence:g} %"
    lines = [list(HEAD), *map(cells, diversity)]
    notes = [f"{printable(one.name)}: {one.note}" for one in diversity if one.note]
    overall = (
        f"{count_text(diversity.images)}, {diversity.classes} classes: accuracy "
        f"{percent(diversity.accuracy)}, by chance {percent(diversity.chance)}, "
        f"loss {number(diversity.loss, 3)}"
    )
    blocks = [overall, aligned(lines, left=2), "\n".join(notes)]
    if last.deciles:
        blocks.append(
            aligned(
                [["variance", "images", "from", "to", "accuracy", "", "loss"], *_groups(last)], 0
            )
        )
    settings = diversity.settings
    blocks.append(
        "AUROC: how often an image classified right has more feature variance than one classified "
        f"wrong\n(0.5: variance says nothing), with its {confidence} interval. lowest tenth: "
        "accuracy of the images\nwith the least variance, and the p-value of being no better than "
        "predictions that do not look at\nthe image. eff. rank, part. ratio: in how many "
        "directions the pooled features vary.\n"
        f"mean weight: of Bias Loss (alpha {settings.alpha:g}, beta {settings.beta:g}) in random "
        f"batches of {settings.batch_size}."
    )
    return "\n\n".join(block for block in blocks if block)


def number(value: float | None, digits: int = 2) -> str:
    """With that many decimals, or a dash."""
    return _NONE if value is None else f"{value:.{digits}f}"


def p_text(p: float) -> str:
    """``p = 0.013``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def side_text(layer: LayerDiversity) -> str:
    """``input of avgpool``, or the name alone for an output."""
    return f"input of {layer.name}" if layer.side == "input" else layer.name


def overview(networks: Iterable[tuple[str, "FeatureDiversity"]]) -> str:
    """The last layer of several named networks, a line each."""
    lines = [
        [shortened(name, _LONGEST), percent(one.accuracy), *cells(one.layers[-1])]
        for name, one in networks
    ]
    return aligned([["network", "accuracy", *HEAD], *lines], left=1)


def cells(layer: LayerDiversity) -> list[str]:
    """A layer as texts, a text for each column of :data:`HEAD`."""
    rank, lowest, weights = layer.rank, layer.lowest, layer.weights
    return [
        shortened(side_text(layer), _LONGEST),
        size_text(layer.shape),
        number(None if rank is None else rank.effective, 1),
        number(None if rank is None else rank.participation, 1),
        _NONE if layer.auroc is None else str(layer.auroc),
        _NONE if layer.spearman is None else str(layer.spearman),
        _NONE if lowest is None else f"{percent(lowest.accuracy)} ({p_text(lowest.p)})",
        number(None if weights is None else weights.mean, 3),
    ]


def _groups(layer: LayerDiversity) -> list[list[str]]:
    return [
        [
            f"tenth {group.number}",
            f"{group.images:,}",
            f"{group.least:.3g}",
            f"{group.most:.3g}",
            percent(group.accuracy),
            f"[{100 * group.low:.1f}, {100 * group.high:.1f}]",
            f"{group.loss:.3f}",
        ]
        for group in layer.deciles
    ]
