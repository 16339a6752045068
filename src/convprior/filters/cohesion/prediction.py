"""The outcome of a prediction: what layers should look like, and what they do look like."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from convprior._files import write_json
from convprior.errors import InputError
from convprior.filters.cohesion.agreement import Agreement, agreement
from convprior.filters.cohesion.lengthscale import LengthscaleFit
from convprior.filters.taps.layer import ratio_name
from convprior.filters.taps.table import printable

Moments = Literal["centered", "raw"]
Ratio = Literal["centre_corner", "centre_edge", "center_corner", "center_edge"]

FORMAT = 1
"""Of the files of :meth:`TapPrediction.save`."""


@dataclass(frozen=True, eq=False)
class Expected:
    """What the input of a layer makes one expect of its filters.

    Attributes:
        correlation: (taps, taps) between the taps of the layer's window, row-major.
        profile: the most cohesive filter under it, the kernel's shape, unit norm.
        positive: whether all its taps are > 0, as Perron's theorem says of positive correlations.
            Otherwise it is an edge detector and no profile, and there are no expected ratios.
        centre_edge: ratio of the profile's center to its edges; None without edges.
        centre_corner: likewise for the corners.
        exponential: length scale of the correlation under ``exp(-d / l)``.
        squared_exponential: likewise under ``exp(-d^2 / (2 l^2))``.
    """

    correlation: Tensor
    profile: Tensor
    positive: bool
    centre_edge: float | None
    centre_corner: float | None
    exponential: LengthscaleFit
    squared_exponential: LengthscaleFit


@dataclass(frozen=True, eq=False)
class LayerPrediction:
    """One layer: what its input makes one expect, and what its filters are.

    Attributes:
        name: of the layer.
        kind: ``dense``, ``grouped`` or ``depthwise``.
        kernel_size: one size an axis.
        stride: one an axis.
        dilation: one an axis; the taps of the window have it too.
        map_size: of the layer's input, without padding.
        measured: root mean square of the weights at each tap, the kernel's shape, unit norm.
        centre_edge: measured ratio; None without edges.
        centre_corner: measured ratio; None without corners.
        centered: expected from covariances: the prediction proper.
        raw: expected from second moments, channel means included.
    """

    name: str
    kind: str
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    map_size: tuple[int, ...]
    measured: Tensor
    centre_edge: float | None
    centre_corner: float | None
    centered: Expected
    raw: Expected


class TapPrediction(Sequence[LayerPrediction]):
    """The result of :func:`convprior.filters.predict_taps`: an entry a layer, in network order.

    Attributes:
        images: how many were looked at.
        skipped: layers that could not be predicted, with the reason.
    """

    def __init__(
        self, layers: Sequence[LayerPrediction], skipped: dict[str, str], images: int
    ) -> None:
        self._layers = tuple(layers)
        self.skipped = skipped
        self.images = images

    def agreement(
        self,
        ratio: Ratio = "centre_corner",
        moments: Moments = "centered",
        *,
        kernel_size: tuple[int, ...] | None = None,
        confidence: float = 0.95,
        draws: int = 2000,
        seed: int = 0,
    ) -> Agreement:
        """Predicted against measured ratios over the layers that have one.

        Across kernel sizes part of any agreement is that large kernels have large ratios; give
        ``kernel_size`` to leave that out.

        Args:
            ratio: which; ``center_`` means the same as ``centre_``.
            moments: which prediction.
            kernel_size: of the layers compared; None: all.
            confidence: as in :class:`Agreement`.
            draws: resampled sets of layers and random pairings.
            seed: of both.

        Raises:
            InputError: no layer has such a ratio, or an argument is none of the above.
        """
        pairs = self._comparable(ratio, moments, kernel_size)
        predicted, measured = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2).T
        return agreement(predicted, measured, confidence=confidence, draws=draws, seed=seed)

    def _comparable(
        self, ratio: str, moments: str, kernel_size: tuple[int, ...] | None = None
    ) -> list[tuple[float, float]]:
        """Predicted and measured ratio of each layer that has both."""
        ratio = ratio_name(ratio)
        pairs = [
            (getattr(_expected(layer, moments), ratio), getattr(layer, ratio))
            for layer in self
            if kernel_size in (None, layer.kernel_size)
        ]
        return [pair for pair in pairs if None not in pair]

    def rows(self) -> list[dict[str, Any]]:
        """One flat dictionary a layer: names, sizes and ratios, as a data frame takes them."""
        return [
            {
                "name": layer.name,
                "kind": layer.kind,
                "kernel_size": "x".join(map(str, layer.kernel_size)),
                "stride": "x".join(map(str, layer.stride)),
                "map_size": "x".join(map(str, layer.map_size)),
                "measured_centre_edge": layer.centre_edge,
                "measured_centre_corner": layer.centre_corner,
                "predicted_centre_edge": layer.centered.centre_edge,
                "predicted_centre_corner": layer.centered.centre_corner,
                "raw_centre_edge": layer.raw.centre_edge,
                "raw_centre_corner": layer.raw.centre_corner,
                "lengthscale": layer.centered.exponential.lengthscale,
                "lengthscale_error": layer.centered.exponential.error,
            }
            for layer in self
        ]

    def table(self) -> str:
        """The ratios as text, with what was skipped and the agreement below."""
        ratios = ("center/edge", "predicted", "center/corner", "predicted", "raw")
        title = ("layer", "kernel", "map", *ratios, "scale")
        body = [
            (
                printable(row["name"]),
                row["kernel_size"],
                row["map_size"],
                *(
                    _number(row[key])
                    for key in (
                        "measured_centre_edge",
                        "predicted_centre_edge",
                        "measured_centre_corner",
                        "predicted_centre_corner",
                        "raw_centre_corner",
                        "lengthscale",
                    )
                ),
            )
            for row in self.rows()
        ]
        wide = [max(len(line[i]) for line in (title, *body)) for i in range(len(title))]
        lines = [
            "  ".join(f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(cells))
            for line in (title, *body)
            if (cells := list(zip(line, wide, strict=True)))
        ]
        lines.append(
            "RMS of the center over edges and corners; predicted: expected from the covariances of "
            f"each layer's input over {self.images} images; raw: center/corner expected from its "
            "raw moments; scale: of exp(-d/l), in taps"
        )
        lines += [
            f"no prediction for {printable(layer.name)}: its leading filter has taps of both signs"
            for layer in self
            if not layer.centered.positive
        ]
        lines += [f"skipped {printable(name)}: {reason}" for name, reason in self.skipped.items()]
        if self._comparable("centre_corner", "centered"):
            lines.append(f"center/corner, {self.agreement()}")
        return "\n".join(lines)

    def chart(self, ratio: Ratio = "centre_corner") -> Any:
        """Predicted against measured ratios, and both by depth: an altair chart.

        Raises:
            MissingExtraError: altair is absent.
        """
        from convprior.filters.cohesion.chart import draw_prediction

        return draw_prediction(self.rows(), ratio)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it; a length scale of infinity is None."""
        found: dict[str, Any] = {"format": FORMAT, "images": self.images, "skipped": self.skipped}
        for moments in get_args(Moments):
            sizes = [None, *dict.fromkeys(layer.kernel_size for layer in self)]
            found[f"agreement_{moments}"] = {
                "x".join(map(str, size)) if size else "all": self.agreement(
                    moments=moments, kernel_size=size
                ).to_dict()
                for size in sizes
                if self._comparable("centre_corner", moments, size)
            }
        found["layers"] = [
            {
                **row,
                "lengthscale": _finite(row["lengthscale"]),
                "kernel_size": layer.kernel_size,
                "stride": layer.stride,
                "dilation": layer.dilation,
                "map_size": layer.map_size,
                "measured": layer.measured.tolist(),
                **{m: _as_dict(_expected(layer, m)) for m in get_args(Moments)},
            }
            for layer, row in zip(self, self.rows(), strict=True)
        ]
        return found

    def save(self, path: Path | str) -> None:
        """Writes :meth:`to_dict` as JSON, atomically.

        Raises:
            InputError: the name does not end in ``.json``.
            RunError: the disk is full, or the folder cannot be written.
        """
        if Path(path).suffix != ".json":
            raise InputError(f"{path} does not end in .json, the one form a prediction is saved in")
        write_json(Path(path), self.to_dict())

    @overload
    def __getitem__(self, index: int) -> LayerPrediction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerPrediction, ...]: ...
    def __getitem__(self, index: int | slice) -> LayerPrediction | tuple[LayerPrediction, ...]:
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[LayerPrediction]:
        return iter(self._layers)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"TapPrediction({len(self)} layers, {self.images} images)"


def _expected(layer: LayerPrediction, moments: str) -> Expected:
    return layer.centered if _one_of(moments, Moments) == "centered" else layer.raw


def _one_of(value: str, choices: Any) -> str:
    if value not in get_args(choices):
        raise InputError(f"{value!r} is unknown; choose one of {', '.join(get_args(choices))}")
    return value


def _as_dict(expected: Expected) -> dict[str, Any]:
    return {
        "correlation": expected.correlation.tolist(),
        "profile": expected.profile.tolist(),
        "positive": expected.positive,
        "centre_edge": expected.centre_edge,
        "centre_corner": expected.centre_corner,
        **{
            fit.family: {"lengthscale": _finite(fit.lengthscale), "error": fit.error}
            for fit in (expected.exponential, expected.squared_exponential)
        },
    }


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
