"""Writes the report of a study: one HTML file that loads nothing from anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from convprior._files import write_atomic
from convprior._optional import require
from convprior.lab.report.page import content
from convprior.lab.report.words import control_sentences
from convprior.lab.study.comparison import Comparison, Summary
from convprior.lab.study.run import Outcome, read_study
from convprior.lab.study.statistics import compare, summarize
from convprior.lab.study.tables import text_table, write_csv, write_results


@dataclass(frozen=True)
class Written:
    """What :func:`write_study_report` leaves."""

    path: Path
    """The report."""
    text: str
    """The table for the terminal: what ``table.txt`` holds."""


def write_study_report(folder: str | Path) -> Written:
    """Writes results.json, results.csv, table.txt and report.html into a study's folder.

    An unfinished study gives an interim report that says so.

    Raises:
        RunError: it is no study's folder, another version wrote it, or the disk is full.
        MissingExtraError: a package of the extra ``lab`` is not installed.
    """
    outcome = read_study(folder)
    comparisons = compare(outcome.rows, outcome.study.baseline)
    summaries = summarize(outcome.rows)
    controls = control_sentences(outcome.study, outcome.rows)
    text = text_table(summaries, comparisons, controls)
    write_results(outcome.folder / "results.json", outcome.rows, summaries, comparisons, controls)
    write_csv(outcome.folder / "results.csv", outcome.rows)
    write_atomic(outcome.folder / "table.txt", text)
    return Written(write_report(outcome, comparisons, summaries), text)


def write_report(
    outcome: Outcome, comparisons: Sequence[Comparison], summaries: Sequence[Summary]
) -> Path:
    """Writes ``report.html`` into the study's folder.

    Args:
        outcome: the study with its rows; learning curves are read from its folder.
        comparisons: from :func:`convprior.lab.study.statistics.compare`.
        summaries: from :func:`convprior.lab.study.statistics.summarize`.

    Returns:
        The path of the report.

    Raises:
        RunError: the disk is full; an earlier report is intact.
        MissingExtraError: a package of the extra ``lab`` is not installed.
    """
    path = outcome.folder / "report.html"
    write_atomic(path, render_page(outcome, comparisons, summaries))
    return path


def render_page(
    outcome: Outcome, comparisons: Sequence[Comparison], summaries: Sequence[Summary]
) -> str:
    """The report as HTML; everything but our own charts and style is escaped."""
    jinja2 = require("jinja2", "lab")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("convprior.lab.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (files("convprior.lab.report") / "template" / "style.css").read_text()
    template = environment.get_template("report.html.jinja")
    page: str = template.render(style=style, **content(outcome, comparisons, summaries))
    return page
