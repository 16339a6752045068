"""Puts the profiles of several networks into one table and one picture.

``python results/tap-profiles/summarize.py profiles.json`` reads what ``convprior inspect RUN ...
--out profiles.json`` wrote, and writes ``summary.json`` and ``depth.svg`` beside this file.
"""

import datetime
import json
import math
import sys
from pathlib import Path
from typing import Any

from convprior import __version__
from convprior._drawing import INK, inline
from convprior._files import write_atomic, write_json
from convprior._optional import require
from convprior.lab.report.drawing import render

FOLDER = Path(__file__).parent
Layer = dict[str, Any]


def label(profile: dict[str, Any]) -> str:
    """The name of a published network is that of its file; ours are folders of runs."""
    path = Path(profile["target"])
    return path.stem if path.suffix == ".safetensors" else f"{path.name}, CIFAR-10"


def spatial(profile: dict[str, Any]) -> list[Layer]:
    """The layers that have a ratio, in order."""
    return [layer for layer in profile["layers"] if layer["centre_edge"] is not None]


def third(layers: list[Layer], part: int) -> str:
    """Geometric mean of center/edge over a third of the layers."""
    chosen = layers[part * len(layers) // 3 : (part + 1) * len(layers) // 3]
    return f"{math.exp(sum(math.log(layer['centre_edge']) for layer in chosen) / len(chosen)):.2f}"


def row(profile: dict[str, Any]) -> list[Any]:
    """One line of the table."""
    layers = spatial(profile)
    bounds = [layer["intervals"]["centre_edge"] for layer in layers]
    return [
        label(profile),
        len(layers),
        sum(low > 1 for low, _ in bounds),
        sum(high < 1 for _, high in bounds),
        *(third(layers, part) for part in range(3)),
        f"{layers[0]['centre_edge']:.2f}",
        f"{layers[-1]['centre_edge']:.2f}",
    ]


def draw(profiles: list[dict[str, Any]]) -> Any:
    """Center/edge by depth, one panel a network, each layer with its interval."""
    alt = require("altair", "lab")
    panels = []
    for profile in profiles:
        layers = spatial(profile)
        points = [
            {
                "depth": index / max(1, len(layers) - 1),
                "ratio": layer["centre_edge"],
                "low": layer["intervals"]["centre_edge"][0],
                "high": layer["intervals"]["centre_edge"][1],
            }
            for index, layer in enumerate(layers)
        ]
        scale = alt.Scale(type="log", domain=[0.5, 4], clamp=True)
        x = alt.X("depth:Q", title="depth", axis=alt.Axis(values=[0, 1], format="d"))
        axis = alt.Axis(values=[0.5, 1, 2, 4], grid=True, format="~g")
        y = alt.Y("ratio:Q", title="center / edge", scale=scale, axis=axis)
        base = alt.Chart(inline(points))
        one = alt.Chart(inline([{"ratio": 1}])).mark_rule(aria=False, color=INK).encode(y=y)
        spans = base.mark_rule(aria=False, color="#0072b2", opacity=0.6).encode(
            x=x, y=alt.Y("low:Q", scale=scale, axis=axis, title="center / edge"), y2="high:Q"
        )
        dots = base.mark_point(aria=False, filled=True, size=28, color="#0072b2").encode(x=x, y=y)
        title = alt.Title(label(profile), color=INK, fontSize=12, fontWeight="normal")
        panels.append(alt.layer(one, spans, dots).properties(width=150, height=120, title=title))
    return alt.concat(*panels, columns=4)


def main(path: Path) -> None:
    """Writes the summary and the picture."""
    profiles = json.loads(path.read_text())["profiles"]
    write_json(
        FOLDER / "summary.json",
        {
            "title": "Is the center larger? Center/edge in ten trained networks",
            "columns": [
                "network",
                "spatial layers",
                "center larger",
                "center smaller",
                "first third",
                "middle third",
                "last third",
                "first layer",
                "last layer",
            ],
            "rows": [row(profile) for profile in profiles],
            "reading": "Root mean square of the center tap over that of the middles of a filter's "
            "sides (for 1xk: its ends). Larger, smaller: layers whose 95 % bootstrap interval over "
            "filters lies on that side of 1; 2.5 % would by chance. Thirds: geometric means over "
            "the layers in the order of the network.",
            "command": "convprior inspect RUN ... networks/*.safetensors --out profiles.json, then "
            "python results/tap-profiles/summarize.py profiles.json",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "hardware": "any",
            "versions": {"convprior": __version__},
            "n": "one network a row, 1,000 bootstrap draws",
        },
    )
    write_atomic(FOLDER / "depth.svg", render(draw(profiles)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
