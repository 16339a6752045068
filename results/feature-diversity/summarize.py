"""Feature diversity of every trained network of a study, by arm.

``python results/feature-diversity/summarize.py runs/bias-loss`` takes the weights of each finished
cell, classifies its evaluation images once more, and writes beside this file ``summary.json``, the
table by arm, and ``cells.csv``, a line a network. ``--name OTHER`` writes ``OTHER.json`` and
``OTHER.csv`` instead, for a second study.
"""

import argparse
import csv
import datetime
import io
import statistics
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from convprior import __version__
from convprior._files import write_atomic, write_json
from convprior.diagnose import LayerDiversity, feature_diversity
from convprior.lab.data import batches, prepare
from convprior.lab.study import Row, read_study
from convprior.lab.train import compute_dtype, load_run
from convprior.lab.train.run import hardware

FOLDER = Path(__file__).parent
BATCH = 500
LEVEL = 0.05
"""Of the test of the lowest tenth against chance."""

# Name in the table, key of a cell, digits.
COLUMNS = (
    ("accuracy %", "accuracy", 2),
    ("AUROC", "auroc", 3),
    ("rank corr. with loss", "spearman", 3),
    ("lowest tenth %", "lowest", 2),
    ("its p, largest", "p", None),
    ("mean weight", "weight", 3),
    ("effective rank", "rank", 1),
)

loaded = lru_cache(maxsize=32)(prepare)


def measure(folder: Path, row: Row) -> dict[str, Any]:
    """One network on its evaluation images: a number for each column, None where undefined."""
    network, recipe = load_run(folder)
    data, dtype = loaded(recipe.data), compute_dtype(recipe.budget.precision, torch.device("cpu"))
    network = network.to(memory_format=torch.channels_last)
    images = batches(data.evaluation, BATCH, mean=data.mean, std=data.std, dtype=dtype)
    found = feature_diversity(network, images, dtype=dtype)
    layer: LayerDiversity = found.layers[-1]
    return {
        "data": row.data,
        "model": row.model,
        "arm": row.arm,
        "split": row.split,
        "seed": row.seed,
        "key": row.key,
        "layer": layer.name,
        "images": found.images,
        "classes": found.classes,
        "accuracy": 100 * found.accuracy,
        "auroc": layer.auroc and layer.auroc.value,
        "spearman": layer.spearman and layer.spearman.value,
        "chance": 100 * layer.chance,
        "lowest": layer.lowest and 100 * layer.lowest.accuracy,
        "p": layer.lowest and layer.lowest.p,
        "kept": layer.lowest and layer.lowest.kept,
        "weight": layer.weights and layer.weights.mean,
        "rank": layer.rank and layer.rank.effective,
    }


def known(cells: Iterable[dict[str, Any]], key: str) -> list[float]:
    """The numbers of a column that are defined."""
    return [cell[key] for cell in cells if cell[key] is not None]


def spread(values: Sequence[float], digits: int) -> str:
    """``0.781 ± 0.004``: mean and standard deviation."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def line(cells: Sequence[dict[str, Any]]) -> list[Any]:
    """One line of the table: the cells of an arm."""
    numbers = []
    for _, key, digits in COLUMNS:
        values = known(cells, key)
        numbers.append(
            spread(values, digits) if digits is not None else f"{max(values, default=1.0):.2g}"
        )
    return [*(cells[0][key] for key in ("data", "model", "arm")), len(cells), *numbers]


def reading(cells: Sequence[dict[str, Any]]) -> str:
    """What the columns mean, and the test of random predictions over all networks."""
    tested = known(cells, "p")
    above = sum(p < LEVEL for p in tested)
    kept = known(cells, "kept")
    share = f"{100 * min(kept):.0f} to {100 * max(kept):.0f} %" if kept else "none"
    return (
        "Mean ± standard deviation over the networks of an arm, on their evaluation images. AUROC: "
        "how often an image classified right has more feature variance than one classified wrong "
        "(0.5: variance says nothing). Rank correlation of variance and cross-entropy: negative "
        "where images with more variance are easier. Lowest tenth: accuracy of the images with the "
        "least variance; in "
        f"{above} of {len(tested)} networks it is above chance, the accuracy of predictions "
        f"that do not look at the image (exact test at {LEVEL}), and it "
        f"keeps {share} of the accuracy above chance that all images have. Mean weight: what Bias "
        "Loss would give in random batches of 128. Effective rank: of the pooled features."
    )


def size_text(cells: Sequence[dict[str, Any]]) -> str:
    """``90 networks, 2,000 images each``."""
    counts = sorted({cell["images"] for cell in cells})
    images = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    return f"{len(cells)} network{'' if len(cells) == 1 else 's'}, {images} images each"


def main() -> None:
    """Measures every finished cell and writes both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="a study's folder, such as runs/bias-loss")
    parser.add_argument("--name", default="summary", help="of the files")
    parser.add_argument("--arms", nargs="*", help="these arms; default all")
    chosen = parser.parse_args()
    outcome = read_study(chosen.study)
    rows = [
        row
        for row in outcome.rows
        if row.status == "finished" and (not chosen.arms or row.arm in chosen.arms)
    ]
    if not rows:
        sys.exit(f"error: {chosen.study} has no finished cell of these arms; run the study first")
    cells = []
    # By split, so that each split's images are decoded once.
    for row in sorted(rows, key=lambda one: (one.data, one.split)):
        cells.append(measure(outcome.folder / "cells" / row.key, row))
        print(f"{len(cells)} of {len(rows)}: {' '.join(map(str, line(cells[-1:])))}", flush=True)
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        own = next(cell for cell in cells if cell["key"] == row.key)
        groups.setdefault((row.data, row.model, row.arm), []).append(own)
    name = "cells" if chosen.name == "summary" else chosen.name
    table = io.StringIO()
    writer = csv.DictWriter(table, list(cells[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    write_atomic(FOLDER / f"{name}.csv", table.getvalue())
    versions = {"convprior": __version__, "torch": torch.__version__}
    write_json(
        FOLDER / f"{chosen.name}.json",
        {
            "title": f"Do diverse features mean right answers? Networks of {outcome.study.name}",
            "columns": ["data", "model", "arm", "networks", *(head for head, *_ in COLUMNS)],
            "rows": [line(group) for group in groups.values()],
            "reading": reading(cells),
            "command": f"python results/feature-diversity/summarize.py runs/{outcome.study.name}",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "hardware": hardware(torch.device("cpu")),
            "versions": versions,
            "n": size_text(cells),
        },
    )


if __name__ == "__main__":
    main()
