"""Directives that render committed measurements: the page cannot disagree with the data."""

import json
from dataclasses import fields
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from convprior.lab.report.charts import differences
from convprior.lab.study.comparison import Comparison

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
    app.add_directive("study-result", StudyResult)
    app.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
