"""Directives that render committed measurements: the page cannot disagree with the data."""

import json
from dataclasses import fields
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from convprior.lab.report.charts import differences
from convprior.lab.report.dose import NARROW, POINTS, dose_panels, draw_dose, line_looks
from convprior.lab.study.comparison import Comparison, Summary
from convprior.lab.study.design import Study
from convprior.lab.study.parse import parse_study

ROOT = Path(__file__).resolve().parents[2]


class Measurement(Directive):
    """``{measurement} benchmarks/NAME.json``: its table, how it ran, how to read it."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        data = _load(self, self.arguments[0])
        versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
        where = f"{data['hardware']}; {versions}"
        origin = f"{data['command']} on {data['date']}; {where}; n = {data['n']}"
        return [
            nodes.paragraph("", "", nodes.strong("", data["title"])),
            _table(data["columns"], data["rows"]),
            nodes.paragraph("", data["reading"]),
            nodes.paragraph("", "", nodes.emphasis("", origin)),
        ]


class StudyResult(Directive):
    """``{study-result} results/NAME``: the table, chart and sentences of a committed study."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        data = _load(self, f"{self.arguments[0]}/results.json")
        sentences = nodes.bullet_list()
        for sentence in [one["sentence"] for one in data["comparisons"]] + data["controls"]:
            sentences += nodes.list_item("", nodes.paragraph("", sentence))
        columns = ["data", "model", "arm", "cells", "accuracy %", "sd", "95 % interval"]
        rows = [
            [
                row["data"],
                row["model"],
                row["arm"],
                row["n"],
                _decimal(row["mean"]),
                _decimal(row["sd"]),
                f"{_decimal(row['low'])} to {_decimal(row['high'])}",
            ]
            for row in data["summaries"]
        ]
        chart = differences([_comparison(found) for found in data["comparisons"]])
        figure = nodes.raw("", f"<figure>{chart}</figure>", format="html")
        return [_table(columns, rows), figure, sentences, *_conditions(data["rows"])]


class StudyOverview(Directive):
    """``{study-overview} results/NAME``: a committed study with many arms on several data sets.

    Its curve, if it has one; a table of arms by data sets; and what the controls say.
    """

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        data = _load(self, f"{self.arguments[0]}/results.json")
        study = parse_study(_load(self, f"{self.arguments[0]}/study.json")["study"])
        panels = list(dict.fromkeys((one["data"], one["model"]) for one in data["summaries"]))
        means = {(one["arm"], one["data"], one["model"]): one for one in data["summaries"]}
        found = {(one["arm"], one["data"], one["model"]): one for one in data["comparisons"]}
        rows = [
            [arm, *[_mean_and_difference(means, found, (arm, *panel)) for panel in panels]]
            for arm in dict.fromkeys(one["arm"] for one in data["summaries"])
        ]
        controls = nodes.bullet_list()
        for sentence in data["controls"]:
            controls += nodes.list_item("", nodes.paragraph("", sentence))
        return [
            *_curve(study, [Summary(**one) for one in data["summaries"]]),
            _table(["arm", *[name for name, _ in panels]], rows),
            controls,
            *_conditions(data["rows"]),
        ]


class Drawing(Directive):
    """``{drawing} results/NAME/CHART.svg``: a committed chart, in the colors of the page."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        path = ROOT / self.arguments[0]
        self.state.document.settings.record_dependencies.add(str(path))
        if not path.is_file():
            raise self.error(f"no chart at {self.arguments[0]}")
        return [nodes.raw("", f"<figure>{path.read_text()}</figure>", format="html")]


def _load(directive: Directive, name: str) -> dict:
    path = ROOT / name
    directive.state.document.settings.record_dependencies.add(str(path))
    if not path.is_file():
        raise directive.error(f"no measurement at {name}")
    return json.loads(path.read_text())


def _mean_and_difference(means: dict, found: dict, at: tuple[str, str, str]) -> str:
    """``43.06 (+6.41, 2.02 to 10.81: helps)``: accuracy, and the difference to the baseline."""
    mean, one = _decimal(means[at]["mean"]), found.get(at)
    if one is None or one["low"] is None:
        return mean
    verdict = "" if one["verdict"] == "not shown" else f": {one['verdict']}"
    return f"{mean} ({one['mean']:+.2f}, {one['low']:.2f} to {one['high']:.2f}{verdict})"


def _curve(study: Study, summaries: list[Summary]) -> list[nodes.Node]:
    """Accuracy against the dose, a panel for each data set, with the names of the lines."""
    panels = dose_panels(study, summaries)
    if study.curve is None or not panels:
        return []
    looks = line_looks(panels)
    drawn = "".join(
        f"<figure style='margin: 0'><figcaption><b>{panel.data}</b></figcaption>"
        f"{draw_dose(panel, study.curve, looks, NARROW)}</figure>"
        for panel in panels
    )
    bars = [f"border-top: 3px solid {color}" for color in looks.colors.values()]
    bars += [f"border-top: 2px {style} gray" for style in looks.styles.values()]
    names = [*looks.colors, *(f"{POINTS[style]} {name}" for name, style in looks.styles.items())]
    legend = " &emsp; ".join(
        f'<span style="display: inline-block; width: 1.5em; {bar}; margin-bottom: 0.3em"></span> '
        f"{name}"
        for name, bar in zip(names, bars, strict=True)
        if name
    )
    row = f'<div style="display: flex; flex-wrap: wrap; gap: 1em">{drawn}</div><p>{legend}</p>'
    return [nodes.raw("", row, format="html")]


def _comparison(found: dict) -> Comparison:
    names = {field.name for field in fields(Comparison)}
    return Comparison(**{name: value for name, value in found.items() if name in names})


def _conditions(rows: list[dict]) -> list[nodes.Node]:
    """What the cells ran on, and what they cost."""
    metrics = [row["metrics"] for row in rows if row["metrics"]]
    keys = ("hardware", "device", "precision", "torch", "version")
    where = [", ".join(sorted({str(one[key]) for one in metrics})) for key in keys]
    hours = sum(one["seconds"] for one in metrics) / 3600
    images = ", ".join(sorted({f"{one['evaluated_images']:,}" for one in metrics}))
    text = (
        f"{len(metrics)} cells evaluated on {images} test images each, {hours:.1f} hours of "
        f"training in all; {where[0]} ({where[1]}, {where[2]}), torch {where[3]}, "
        f"convprior {where[4]}"
    )
    return [nodes.paragraph("", "", nodes.emphasis("", text))]


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(columns: list[str], rows: list[list[object]]) -> nodes.table:
    group = nodes.tgroup(cols=len(columns))
    group += [nodes.colspec(colwidth=1) for _ in columns]
    group += nodes.thead("", _row(columns))
    group += nodes.tbody("", *[_row(row) for row in rows])
    return nodes.table("", group)


def _row(values: list[object]) -> nodes.row:
    return nodes.row("", *[nodes.entry("", nodes.paragraph("", str(value))) for value in values])


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("measurement", Measurement)
    app.add_directive("study-overview", StudyOverview)
    app.add_directive("study-result", StudyResult)
    app.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
