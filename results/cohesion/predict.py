"""Does the correlation of what a layer sees predict where its filters are large?

``python results/cohesion/predict.py RUN [RUN ...]`` takes folders of finished runs and writes
``layers.json`` and ``layers.svg`` beside this file; nothing is trained. For each run,
``predict_taps`` measures the input of every convolution on images the run was judged on, and
compares the most cohesive filter with the root mean square of the trained weights.

Fixed before any network was looked at: the prediction is the leading eigenvector of the centered
correlation, what is compared is the logarithm of center over corner, and nothing is fitted. The
raw second moments are given beside it. Controls: "always 1", the best constant in hindsight, and
the prediction from the inputs of the *untrained* network: where that does as well, training has
not shaped the maps to fit the filters.

``--sources NAME [NAME ...]`` instead measures image sets themselves, as a first layer sees them,
and writes ``images.json``.
"""

import argparse
import datetime
import math
from pathlib import Path
from typing import Any

import torch

from convprior._drawing import INK, VERMILION, inline
from convprior._files import read_json, write_atomic, write_json
from convprior._optional import require
from convprior._version import __version__
from convprior.errors import InputError
from convprior.filters import (
    SpatialCorrelation,
    TapPrediction,
    correlation_by_distance,
    fit_lengthscale,
    most_cohesive_filter,
    predict_taps,
)
from convprior.filters.cohesion.agreement import agreement
from convprior.lab.data import DataRecipe, Prepared, batches, prepare
from convprior.lab.report.drawing import render
from convprior.lab.train.run import hardware
from convprior.lab.train.saved import load_run

FOLDER = Path(__file__).parent
RATIO = "centre_corner"


def main() -> None:
    """Evaluates runs, image sets, or both, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs")
    parser.add_argument("--sources", nargs="*", default=[], help="image sets to measure")
    parser.add_argument("--images", type=int, default=2000, help="of each run and source")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.sources:
        sets = [measure_images(source, options.images) for source in options.sources]
        write_json(FOLDER / "images.json", of_images(sets, options.images))
    if options.runs:
        runs = [evaluate_run(folder, options.images, options.device) for folder in options.runs]
        write_json(FOLDER / "layers.json", of_layers(runs, options.images))
        write_atomic(FOLDER / "layers.svg", render(draw(runs)))


def of_images(sets: list[dict[str, Any]], images: int) -> dict[str, Any]:
    """The image sets as a table, with everything measured below it."""
    rows = [
        [
            one["source"],
            f"{dict(map(tuple, one['3x3']['centered']['by_distance']))[1.0]:.3f}",
            one["3x3"]["centered"]["exponential"][0],
            one["3x3"]["centered"]["centre_edge"],
            one["3x3"]["centered"]["centre_corner"],
            one["5x5"]["centered"]["centre_corner"],
        ]
        for one in sets
    ]
    return {
        "title": "What an image set predicts for the filters of a first layer",
        "columns": [
            "images",
            "correlation at 1 px",
            "length scale of exp(-d/l), px",
            "3x3 center/edge",
            "3x3 center/corner",
            "5x5 center/corner",
        ],
        "rows": rows,
        "reading": "The correlation of a window's taps, channel means taken off, averaged over "
        "training images, channels and positions; and the ratios of its leading eigenvector.",
        **origin(f"{images:,} images a set", "--sources " + " ".join(o["source"] for o in sets)),
        "image_sets": sets,
    }


def of_layers(runs: list[dict[str, Any]], images: int) -> dict[str, Any]:
    """The runs as a table, with every layer below it."""
    rows = []
    for run in runs:
        found, untrained = run["agreement"], run["agreement_untrained_inputs"]
        if found is None:
            continue
        rank = found["spearman"]
        rows.append(
            [
                run["model"],
                f"{100 * run['accuracy']:.1f}",
                found["layers"],
                "" if rank is None else f"{rank['value']:+.2f} (p = {rank['p']:.2f})",
                f"{found['error']:.3f}",
                f"{found['error_of_one']:.3f}",
                f"{found['error_of_constant']:.3f}",
                "" if untrained is None else f"{untrained['error']:.3f}",
            ]
        )
    return {
        "title": "Does the correlation of a layer's input predict its center/corner ratio?",
        "columns": [
            "network",
            "accuracy %",
            "layers",
            "rank correlation",
            "error of the prediction",
            'of "always 1"',
            "of the best constant",
            "of the untrained network's inputs",
        ],
        "rows": rows,
        "reading": "Errors are means over layers of |log measured - log predicted|: 0.1 is about "
        "ten percent. The best constant is chosen in hindsight. p counts random pairings of layers "
        "with at least this rank correlation of either sign.",
        **origin(f"{images:,} test images a network", "RUN ..."),
        "prediction": "leading eigenvector of the centered correlation of each layer's input",
        "runs": runs,
    }


def origin(n: str, arguments: str) -> dict[str, Any]:
    """Where, when and with what it was measured."""
    return {
        "command": f"python results/cohesion/predict.py {arguments}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware(torch.device("cpu")),
        "versions": {"convprior": __version__, "torch": torch.__version__},
        "n": n,
    }


def evaluate_run(folder: Path, images: int, device: str) -> dict[str, Any]:
    """Prediction and agreement of one run, and of its inputs before training."""
    model, recipe = load_run(folder)
    untrained, _ = load_run(folder, initial=True)
    data = prepare(recipe.data, device)
    found = predict_taps(model.to(device), images_of(data), limit=images)
    before = predict_taps(untrained.to(device), images_of(data), limit=images)
    source = Path(recipe.data.source).name
    print(f"{recipe.model.name} on {source}\n{found}")
    raw = found.agreement(RATIO, "raw") if comparable(found, "raw") else None
    metrics = folder / "metrics.json"
    result = {
        "model": recipe.model.name,
        "data": source,
        "seed": recipe.seed,
        "weight_decay": recipe.optimizer.weight_decay,
        "accuracy": read_json(metrics)["accuracy"] if metrics.exists() else None,
        "agreement": found.agreement(RATIO).to_dict() if comparable(found, "centered") else None,
        "agreement_raw": None if raw is None else raw.to_dict(),
        "agreement_untrained_inputs": untrained_agreement(found, before),
        "by_kernel_size": by_kernel_size(found),
        "skipped": found.skipped,
        "without_prediction": [one.name for one in found if not one.centered.positive],
        "layers": [rounded(row) for row in found.rows()],
    }
    for name in ("agreement_raw", "agreement_untrained_inputs"):
        print(name, result[name])
    return result


def images_of(data: Prepared) -> Any:
    """Evaluation images, normalized and shuffled, in batches."""
    return batches(data.evaluation, 100, mean=data.mean, std=data.std, seed=0)


def comparable(found: TapPrediction, moments: str) -> bool:
    """Whether any layer has a predicted and a measured ratio."""
    return any(getattr(getattr(layer, moments), RATIO) and getattr(layer, RATIO) for layer in found)


def untrained_agreement(found: TapPrediction, before: TapPrediction) -> dict[str, Any] | None:
    """Trained filters against the prediction from the untrained network's maps."""
    expected = {layer.name: layer.centered.centre_corner for layer in before}
    pairs = [
        (predicted, layer.centre_corner)
        for layer in found
        if (predicted := expected.get(layer.name)) and layer.centre_corner
    ]
    if not pairs:
        return None
    return agreement(*torch.tensor(pairs, dtype=torch.float64).T).to_dict()


def by_kernel_size(found: TapPrediction) -> dict[str, Any]:
    """Agreement within each kernel size: large kernels have large ratios of either kind."""
    result = {}
    for size in dict.fromkeys(layer.kernel_size for layer in found):
        layers = [layer for layer in found if layer.kernel_size == size]
        if comparable(TapPrediction(layers, {}, found.images), "centered"):
            name = "x".join(map(str, size))
            result[name] = found.agreement(RATIO, kernel_size=size).to_dict()
    return result


def measure_images(source: str, images: int) -> dict[str, Any]:
    """The spatial correlation of an image set's training images, as a first layer sees them."""
    data = prepare(DataRecipe(source=source))
    result: dict[str, Any] = {"source": Path(source).name}
    windows = {k: SpatialCorrelation(k) for k in (3, 5)}
    used = 0
    for x, _, _ in batches(data.train, 500, mean=data.mean, std=data.std, seed=0):
        x = x[: images - used]
        for window in windows.values():
            window.update(x)
        used += len(x)
        if used >= images:
            break
    result["images"] = used
    for k, window in windows.items():
        result[f"{k}x{k}"] = {
            moments: describe(window.correlation(moments == "centered"), k)
            for moments in ("centered", "raw")
        }
    return result


def describe(correlation: torch.Tensor, k: int) -> dict[str, Any]:
    """What the correlation of a k x k window makes one expect of a filter."""
    taps, middle = most_cohesive_filter(k, correlation).square(), k // 2
    edges = taps[[0, -1, middle, middle], [middle, middle, 0, -1]].mean()
    corners = taps[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
    fits = [fit_lengthscale(correlation, k, f) for f in ("exponential", "squared_exponential")]
    return {
        "centre_edge": round(math.sqrt(float(taps[middle, middle] / edges)), 3),
        "centre_corner": round(math.sqrt(float(taps[middle, middle] / corners)), 3),
        **{fit.family: [round(fit.lengthscale, 2), round(fit.error, 3)] for fit in fits},
        "by_distance": [
            [round(d, 3), round(c, 4)] for d, c in correlation_by_distance(correlation, k)
        ],
    }


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Four digits after the point; an infinite length scale is null."""
    return {
        key: (round(value, 4) if math.isfinite(value) else None)
        if isinstance(value, float)
        else value
        for key, value in row.items()
    }


def draw(runs: list[dict[str, Any]]) -> Any:
    """One panel a run: predicted against measured center/corner, with the line of equality."""
    alt = require("altair", "lab")
    points = [
        {
            "run": f"{run['model']}, {run['data']}",
            "kernel": row["kernel_size"],
            "x": row[f"predicted_{RATIO}"],
            "y": row[f"measured_{RATIO}"],
        }
        for run in runs
        for row in run["layers"]
        if row[f"predicted_{RATIO}"] is not None and row[f"measured_{RATIO}"] is not None
    ]
    if not points:
        raise InputError("no run has a layer with center and corners; there is nothing to draw")
    ends = [min(1.0, *(p[k] for p in points for k in "xy")) * 0.95]
    ends.append(max(1.0, *(p[k] for p in points for k in "xy")) * 1.05)
    scale = alt.Scale(domain=ends, nice=False, zero=False)
    ticks = alt.Axis(tickCount=4)
    x = alt.X("x:Q", title="predicted center / corner", scale=scale, axis=ticks)
    y = alt.Y("y:Q", title="measured", scale=scale, axis=alt.Axis(grid=True, tickCount=4))
    legend = alt.Legend(title="kernel", labelColor=INK, titleColor=INK)
    panels = []
    for run in dict.fromkeys(point["run"] for point in points):
        own = inline([point for point in points if point["run"] == run])
        equal = (
            alt.Chart(inline([{"x": end, "y": end} for end in ends]))
            .mark_line(aria=False, color=INK, opacity=0.55, strokeDash=[4, 3])
            .encode(x=x, y=y)
        )
        dots = alt.Chart(own).mark_point(aria=False, filled=True, size=45, color=VERMILION)
        dots = dots.encode(x=x, y=y, shape=alt.Shape("kernel:N", sort=None, legend=legend))
        title = alt.Title(run, color=INK, fontSize=12, fontWeight="normal", anchor="start")
        panels.append(alt.layer(equal, dots).properties(width=180, height=180, title=title))
    return alt.concat(*panels, columns=3)


if __name__ == "__main__":
    main()
