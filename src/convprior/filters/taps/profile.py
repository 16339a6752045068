"""What a network's filters look like: how large each tap is, layer by layer."""

import csv
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from convprior._files import write_atomic, write_json
from convprior._random import mix
from convprior._version import __version__
from convprior.errors import InputError
from convprior.filters.filter_banks import FilterBank, Source, filter_banks
from convprior.filters.selection import Selection
from convprior.filters.taps.bootstrap import bootstrap_sums, percentile_interval
from convprior.filters.taps.layer import LayerTaps, TapRatios
from convprior.filters.taps.rank_correlation import distance_correlation
from convprior.filters.taps.regions import TapRegions, center_ratios, tap_regions

FORMAT = 1
"""Of the JSON that :meth:`TapProfile.save` writes."""


class TapProfile(Sequence[LayerTaps]):
    """The taps of a network, a :class:`LayerTaps` a layer in the order of the network.

    ``profile[0]``, ``profile["layer1.0.conv1"]``, ``len(profile)``, a loop over it; printed, it is
    its :meth:`table`.

    Attributes:
        confidence: of the intervals.
        draws: resampled sets of filters behind each interval.
        seed: of the resampling.
    """

    def __init__(
        self, layers: Sequence[LayerTaps], confidence: float, draws: int, seed: int
    ) -> None:
        self.layers = tuple(layers)
        self.confidence, self.draws, self.seed = confidence, draws, seed

    @overload
    def __getitem__(self, index: int | str) -> LayerTaps: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerTaps, ...]: ...
    def __getitem__(self, index: int | str | slice) -> LayerTaps | tuple[LayerTaps, ...]:
        if isinstance(index, str):
            for layer in self.layers:
                if layer.name == index:
                    return layer
            raise KeyError(index)
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerTaps]:
        return iter(self.layers)

    def __repr__(self) -> str:
        return self.table()

    def table(self) -> str:
        """The profile as aligned text: a line a layer, and below it the summary."""
        from convprior.filters.taps.table import text_table

        return text_table(self)

    def summary(self) -> list[dict[str, Any]]:
        """Geometric means of the ratios over groups of layers, a plain dict a group.

        Groups are all layers, each kind, kernel size and stride, and the first, middle and last
        third of the depth. ``above`` and ``below`` count the layers whose interval of
        ``centre_corner`` (``centre_edge`` where there is no corner) lies above or below 1.
        Pointwise layers, which have no ratio, are left out.
        """
        from convprior.filters.taps.table import summarize

        return summarize(self)

    def rows(self) -> list[dict[str, Any]]:
        """The layers as plain data."""
        return [layer.row() for layer in self.layers]

    def as_dict(self) -> dict[str, Any]:
        """The profile as plain data, ready for JSON."""
        return {
            "format": FORMAT,
            "version": __version__,
            "confidence": self.confidence,
            "draws": self.draws,
            "seed": self.seed,
            "layers": self.rows(),
        }

    def to_csv(self, **first: Any) -> str:
        """The layers as CSV, without their tables of taps.

        ``first`` are columns put in front of the others.
        """
        text = io.StringIO()
        writer: csv.DictWriter[str] | None = None
        for layer in self.layers:
            flat = {**first, **layer.flat_row()}
            if writer is None:
                writer = csv.DictWriter(text, list(flat), lineterminator="\n")
                writer.writeheader()
            writer.writerow(flat)
        return text.getvalue()

    def save(self, path: str | Path) -> None:
        """Writes the profile to a ``.json`` or ``.csv`` file, atomically.

        Only JSON holds the size of every tap; a CSV holds one number a cell.

        Raises:
            InputError: another ending.
            RunError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix == ".json":
            write_json(path, self.as_dict())
        elif path.suffix == ".csv":
            write_atomic(path, self.to_csv())
        else:
            raise InputError(f"{path} ends neither in .json nor in .csv; choose one of them")

    def chart(self) -> Any:
        """Heat maps of all layers larger than 1x1, and their ratios from first to last.

        Raises:
            InputError: no layer is larger than 1x1.
            MissingExtraError: altair is not installed.
        """
        from convprior.filters.taps.chart import tap_chart

        return tap_chart(self)


def tap_profile(
    model: Source,
    *,
    initial: Source | None = None,
    include: Selection = None,
    exclude: Selection = None,
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> TapProfile:
    r"""Measures how large the taps of a network's filters are.

    For each convolution ``m2[u, v] = mean over filters and channels of w[..., u, v]^2`` and
    ``rms = sqrt(m2)``, from which the ratios of :class:`TapRatios` follow. Before training, taps
    are of one size and the ratios 1; give ``initial`` where they were not (a locality prior), or
    to see the noise of a draw.

    The interval of a ratio is the (expanded) percentile bootstrap over output filters, which are
    the independent unit, see ``taps.bootstrap``. It says how well
    this network's ratio is determined by its filters, not how much it varies between training
    runs: for that, profile several.

    Args:
        model: a network (any ``nn.Module``; compiled, data-parallel and parametrized ones too), its
            ``state_dict()``, or the path of a safetensors file; see
            :func:`~convprior.filters.filter_banks.filter_banks` for what the latter two cannot
            say.
        initial: the network before training, in any of these forms, with the same layer names.
        include: names, shell patterns or types of the layers wanted; None: all convolutions.
        exclude: the same, taken away afterwards.
        confidence: of the intervals, in (0, 1).
        draws: resampled sets of filters for each interval.
        seed: of the resampling; a layer's interval is a function of it, the layer's name and its
            weights.

    Returns:
        One entry a convolution; tied weights appear once.

    Raises:
        InputError: no convolution, weights that are not finite, a rule that matches nothing, or
            ``initial`` that lacks a layer or has another shape.

    Example:
        >>> conv = torch.nn.Conv2d(8, 16, 3)
        >>> with torch.no_grad():
        ...     _ = conv.weight.fill_(0.1)
        ...     conv.weight[..., 1, 1] *= 2
        >>> round(tap_profile(conv)[0].centre_corner, 3)
        2.0

    Source: the observation is that of J. Schneider (arXiv 1905.10661); measures and intervals are
    our choice.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}; give a share above 0 and below 1")
    if draws < 1:
        raise InputError(f"draws is {draws}; give at least 1, or keep the default")
    banks = filter_banks(model, include, exclude)
    start = {} if initial is None else {bank.name: bank for bank in filter_banks(initial)}
    layers = []
    for bank in banks:
        before = None
        if initial is not None:
            before = _measure(_partner(bank, start), confidence, 0, seed).ratios
        layers.append(_measure(bank, confidence, draws, seed, before))
    return TapProfile(layers, confidence, draws, seed)


def _measure(
    bank: FilterBank, confidence: float, draws: int, seed: int, initial: TapRatios | None = None
) -> LayerTaps:
    sizes = tuple(bank.weight.shape[2:])
    regions = tap_regions(sizes)
    taps = bank.weight.flatten(2)
    scale = float(taps.abs().max()) or 1.0
    taps = taps / scale  # squares of tiny weights would vanish
    sums = taps.square().sum(1, dtype=torch.float64)
    moments = sums.mean(0) / taps.shape[1]
    total = float(moments.sum())
    found = {name: float(value) for name, value in center_ratios(moments, regions).items()}
    # Neither zero nor infinite: one tap that is zero in all filters has no place on a scale.
    known = {name: value for name, value in found.items() if 0.0 < value < float("inf")}
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(found)
    if draws and known and len(sums) > 1:
        generator = torch.Generator().manual_seed(mix(seed, zlib.crc32(bank.name.encode())))
        drawn = center_ratios(bootstrap_sums(sums, draws, generator), regions)
        for name in known:
            intervals[name] = percentile_interval(drawn[name], confidence, len(sums))
    share = float(moments[regions.center].sum()) / total if found and total else None
    return LayerTaps(
        centre_edge=known.get("centre_edge"),
        centre_corner=known.get("centre_corner"),
        centre_share=share,
        spearman=distance_correlation(bank.weight) if found else None,
        name=bank.name,
        kind=bank.kind,
        kernel_size=sizes,
        stride=bank.stride,
        filters=len(bank.weight),
        rms=scale * moments.sqrt().view(sizes),
        mean_abs=scale * taps.abs().mean((0, 1), dtype=torch.float64).view(sizes),
        uniform_share=len(regions.center) / moments.numel(),
        intervals=intervals,
        initial=initial,
        note=_note(moments, regions, len(sums), intervals),
    )


def _note(
    moments: Tensor,
    regions: TapRegions,
    filters: int,
    intervals: dict[str, tuple[float, float] | None],
) -> str:
    """What keeps a ratio or an interval from being there, or nothing."""
    if not bool(moments.any()):
        return "all weights are zero"
    places = {"center": regions.center, "edge": regions.edge, "corner": regions.corner}
    zero = [name for name, at in places.items() if len(at) and not bool(moments[at].any())]
    if intervals and zero:
        return f"zero in every filter: {', '.join(zero)}"
    if filters == 1 and intervals:
        return "one filter, so no interval"
    if None in intervals.values():
        return "no interval: few filters are not zero"
    return ""


def _partner(bank: FilterBank, others: dict[str, FilterBank]) -> FilterBank:
    other = others.get(bank.name)
    if other is None or other.weight.shape != bank.weight.shape:
        found = "lacks it" if other is None else f"has {tuple(other.weight.shape)} there"
        raise InputError(
            f"layer {bank.name!r} has weights of shape {tuple(bank.weight.shape)} and the initial "
            f"network {found}; give the same network before training"
        )
    return other
