"""The results of a study as files and as text: JSON and CSV with every cell, a table to read."""

import csv
import io
import math
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convprior import __version__
from convprior._files import write_atomic, write_json
from convprior.lab.study import wording
from convprior.lab.study.comparison import Comparison, Summary
from convprior.lab.study.rows import Row

_HEAD = (
    "arm", "accuracy", "sd", "n", "difference", "95 % interval", "won-lost-tied", "p (Holm)",
    "verdict",
)  # fmt: skip
_SENTENCES = 6
"""Arms that get a sentence each; with more, those alone of which there is something to say."""
_RULE = "─"
_COLUMNS = 96


def text_table(
    summaries: Sequence[Summary], comparisons: Sequence[Comparison], controls: Sequence[str] = ()
) -> str:
    """The results as aligned plain text, for a terminal, a file or a README.

    One block for each (data, model): the arms' mean and standard deviation over cells in percent,
    the paired difference to the baseline in points, the verdict; below it the same in words, and
    at last the sentences on the controls.
    """
    blocks = []
    for data, model in dict.fromkeys((one.data, one.model) for one in summaries):
        own = [one for one in summaries if (one.data, one.model) == (data, model)]
        against = {one.arm: one for one in comparisons if (one.data, one.model) == (data, model)}
        lines = [[*_accuracy(one), *_difference(against.get(one.arm))] for one in own]
        title = f"{printable(data)}, {printable(model)} ({own[0].metric.replace('_', ' ')} in %)"
        table = "\n".join([title, *_align([list(_HEAD), *lines])])
        blocks += [table, *_sentences(list(against.values()))]
    remarks = [textwrap.fill(remark, _COLUMNS) for remark in wording.remarks(comparisons)]
    if controls:
        filled = [textwrap.fill(printable(line), _COLUMNS) for line in controls]
        remarks.append("\n".join(["What the controls say:", *filled]))
    return "\n\n".join([*blocks, *remarks]) + "\n"


def write_text(path: Path, summaries: Sequence[Summary], comparisons: Sequence[Comparison]) -> None:
    """Writes :func:`text_table`, atomically."""
    write_atomic(path, text_table(summaries, comparisons))


def write_results(
    path: Path,
    rows: Sequence[Row],
    summaries: Sequence[Summary],
    comparisons: Sequence[Comparison],
    controls: Sequence[str] = (),
) -> None:
    """Writes everything as one JSON file: comparisons, controls, summaries and all raw rows.

    Numbers that JSON cannot hold (an infinite loss) become null.
    """
    content = {
        "format": 1,
        "version": __version__,
        "comparisons": [
            {**asdict(one), "sentence": one.sentence, "split_means": list(one.split_means.items())}
            for one in comparisons
        ],
        "controls": list(controls),
        "summaries": [asdict(one) for one in summaries],
        "rows": [asdict(row) for row in rows],
    }
    write_json(path, _finite(content))


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes one line a cell: its names, status, every scalar metric, and its error."""
    names = list(
        dict.fromkeys(
            name
            for row in rows
            for name, value in (row.metrics or {}).items()
            if not isinstance(value, dict | list | tuple) and name != "key"
        )
    )
    fixed = ("data", "model", "arm", "split", "seed", "key", "status")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*fixed, *names, "error"])
    for row in rows:
        metrics = row.metrics or {}
        own = [getattr(row, name) for name in fixed]
        writer.writerow([*own, *(metrics.get(name) for name in names), row.error])
    write_atomic(path, buffer.getvalue())


def printable(text: str) -> str:
    """The text on one line, characters that move the cursor replaced by a question mark."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _sentences(comparisons: list[Comparison]) -> list[str]:
    """The headlines, each with its notes below; with many arms, only what stands out."""
    every = len(comparisons) <= _SENTENCES
    lines = []
    for one in comparisons:
        notes = [*one.notes, one.by_split]
        if every or one.verdict != "not shown":
            lines.append(printable(one.headline))
        elif one.missing:
            lines.append(printable(one.arm))
            notes = wording.absent(one.missing)
        else:
            continue
        text = printable("; ".join(filter(None, notes)))
        wrapped = textwrap.wrap(text, _COLUMNS - 2, break_on_hyphens=False)
        lines += [f"  {line}" for line in wrapped]
    undecidable = sum(not one.decidable for one in comparisons)
    if undecidable and not every:
        lines.append(f"{wording.count(undecidable, 'arm')} with too few untied pairs for a verdict")
    return ["\n".join(lines)] if lines else []


def _accuracy(one: Summary) -> list[str]:
    mean = "-" if one.mean is None else f"{one.mean:.2f}"
    sd = "-" if one.sd is None else f"{one.sd:.2f}"
    return [printable(one.arm), mean, sd, str(one.n)]


def _difference(one: Comparison | None) -> list[str]:
    if one is None:
        return [""] * 5
    if one.mean is None:
        return ["-", "-", "-", "-", one.verdict]
    interval = "-"
    if one.low is not None and one.high is not None:
        interval = f"{wording.points(one.low, 2)} to {wording.points(one.high, 2)}"
    difference = wording.points(one.mean, 2, sign=True)
    record = f"{one.wins}-{one.losses}-{one.ties}"
    return [difference, interval, record, f"{one.p_holm:.4f}", one.verdict]


def _align(lines: list[list[str]]) -> Iterable[str]:
    """Columns as wide as their widest cell: first and last to the left, numbers to the right."""
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for index, line in enumerate(lines):
        cells = []
        for position, (cell, width) in enumerate(zip(line, widths, strict=True)):
            space = " " * (width - _width(cell))
            left = position in (0, len(line) - 1)
            cells.append(cell + space if left else space + cell)
        yield "  ".join(cells).rstrip()
        if index == 0:
            yield "  ".join(_RULE * width for width in widths)


def _width(text: str) -> int:
    """Columns of a terminal that the text takes: two for wide characters, none for combining."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
