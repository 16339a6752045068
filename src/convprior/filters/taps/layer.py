"""What is measured of one convolution: the size of its taps and how central they are."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from convprior.errors import InputError

RATIO_TEXTS = {"centre_edge": "center/edge", "centre_corner": "center/corner"}
"""The ratios of a layer and what a reader calls them."""


@dataclass(frozen=True)
class TapRatios:
    """How central the filters of a layer are; None where a kernel has no such tap.

    Attributes:
        centre_edge: RMS of the center over that of the middles of the sides.
        centre_corner: RMS of the center over that of the corners.
        centre_share: share of the squared weights that lies in the center.
        spearman: rank correlation of ``|w|`` with the distance from the center, over all weights.
    """

    centre_edge: float | None
    centre_corner: float | None
    centre_share: float | None
    spearman: float | None


@dataclass(frozen=True, eq=False)
class LayerTaps(TapRatios):
    """The taps of one convolution.

    Attributes:
        name: of the layer.
        kind: ``dense``, ``grouped``, ``depthwise`` or ``pointwise``, or one of them after
            ``transposed``.
        kernel_size: of the layer.
        stride: of the layer, None if unknown.
        filters: number of output filters.
        rms: float64 of the kernel's shape, the root mean square of each tap over all filters.
        mean_abs: float64 of the kernel's shape, the mean magnitude likewise.
        uniform_share: the ``centre_share`` of taps of one size: center taps / taps.
        intervals: for ``centre_edge`` and ``centre_corner`` the bootstrap interval, or None.
        initial: the same ratios of the initial weights, if these were given.
        note: why a ratio is missing, or empty.
    """

    name: str
    kind: str
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] | None
    filters: int
    rms: Tensor
    mean_abs: Tensor
    uniform_share: float
    intervals: dict[str, tuple[float, float] | None]
    initial: TapRatios | None = None
    note: str = ""

    def relative(self, ratio: str) -> float | None:
        """``centre_edge`` or ``centre_corner`` over its initial value (1 if that is not known).

        Raises:
            InputError: another name; ``center_edge`` and ``center_corner`` mean the same.
        """
        ratio = ratio_name(ratio)
        value = getattr(self, ratio)
        start = 1.0 if self.initial is None else getattr(self.initial, ratio)
        return None if value is None or not start else float(value / start)

    @property
    def ratios(self) -> TapRatios:
        """The ratios alone."""
        return TapRatios(self.centre_edge, self.centre_corner, self.centre_share, self.spearman)

    def row(self) -> dict[str, Any]:
        """The layer as plain data, ready for JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "kernel_size": list(self.kernel_size),
            "stride": None if self.stride is None else list(self.stride),
            "filters": self.filters,
            **asdict(self.ratios),
            "uniform_share": self.uniform_share,
            "intervals": {k: None if v is None else list(v) for k, v in self.intervals.items()},
            "initial": None if self.initial is None else asdict(self.initial),
            "rms": self.rms.tolist(),
            "mean_abs": self.mean_abs.tolist(),
            "note": self.note,
        }

    def flat_row(self) -> dict[str, Any]:
        """The layer as one line of a CSV: sizes as ``3x3``, each end of an interval a column.

        Without the tables of taps, which no spreadsheet reads: those are in :meth:`row`.
        """
        row = self.row()
        del row["rms"], row["mean_abs"]
        intervals, initial = row.pop("intervals"), row.pop("initial") or {}
        row["kernel_size"] = size_text(self.kernel_size)
        row["stride"] = "" if self.stride is None else size_text(self.stride)
        for name in ("centre_edge", "centre_corner"):
            row[f"{name}_low"], row[f"{name}_high"] = intervals.get(name) or (None, None)
        for name in ("centre_edge", "centre_corner", "centre_share", "spearman"):
            row[f"initial_{name}"] = initial.get(name)
        return row


def size_text(sizes: tuple[int, ...]) -> str:
    """``3x3``."""
    return "x".join(map(str, sizes))


def ratio_name(name: str) -> str:
    """``centre_edge`` or ``centre_corner``, from these or their American spelling.

    Raises:
        InputError: another name.
    """
    found = name.replace("center_", "centre_") if isinstance(name, str) else name
    if found not in RATIO_TEXTS:
        raise InputError(f"{name!r} is unknown; choose one of centre_corner, centre_edge")
    return found
