"""Tables: aligned, complete, and never torn."""

import csv
import io
import math
import unicodedata

import pytest

from convprior import _files
from convprior._files import read_json
from convprior.errors import RunError
from convprior.lab.study.rows import Row
from convprior.lab.study.statistics import compare, summarize
from convprior.lab.study.tables import text_table, write_csv, write_results, write_text

HOSTILE = 'a,"b"\n\x1b[31m</script>'


def metrics(accuracy, **more):
    return {"accuracy": accuracy, "loss": 0.5, "per_class_accuracy": [1.0, 0.5], **more}


@pytest.fixture
def rows() -> list[Row]:
    own = []
    for arm, shift in (("baseline", 0.0), ("locality", 0.02), ("局所性", -0.01), (HOSTILE, 0.0)):
        for seed in range(7):
            value = 0.8 + shift + 0.001 * (seed * len(arm) % 5)
            key = f"{len(arm):08d}{seed:08d}"
            own.append(Row(arm, "digits", "cnn", 0, seed, key, "finished", metrics(value)))
    own[-1] = Row(HOSTILE, "digits", "cnn", 0, 6, "dead", "diverged", None, "the loss became nan")
    return own


@pytest.fixture
def results(rows):
    return summarize(rows), compare(rows, "baseline")


def test_text_table_says_what_was_found(results):
    text = text_table(*results)
    assert text.startswith("digits, cnn (accuracy in %)\narm ")
    assert "\nbaseline " in text
    (line,) = [line for line in text.splitlines() if line.startswith("locality  ")]
    # the arm's accuracy and the paired difference are different columns of one line
    assert line.split()[:4] == ["locality", "82.19", "0.16", "7"]
    assert "+2.00" in line
    assert line.endswith("helps")
    assert "1 pair missing: split 0 seed 6" in text
    assert "locality - baseline = +2.00 points, 95 % interval" in text
    assert " 7-0-0 " in line
    assert "not about other" in text
    assert "corrected by Holm for 3 arms" in text


def test_text_table_of_many_arms_speaks_of_those_that_matter():
    rows = [
        Row(arm, "d", "m", split, 0, f"{arm}{split}", "finished", metrics(value))
        for arm in ("baseline", *(f"arm {i}" for i in range(9)))
        for split in range(9)
        for value in [0.8 + 0.01 * (arm == "arm 3") + (split if arm == "arm 4" else 0) / 999]
    ]
    rows[-1] = Row("arm 8", "d", "m", 8, 0, "dead", "diverged", None, "the loss became nan")
    text = text_table(summarize(rows), compare(rows, "baseline"))
    assert text.count("arm 3 - baseline = +1.00 points") == text.count(" - baseline = ") == 1
    assert "\narm 8\n  1 pair missing: split 8 seed 0 (arm 8 diverged)\n" in text
    assert "8 arms with too few untied pairs for a verdict" in text


def test_text_table_is_aligned_and_safe_for_a_terminal(results):
    text = text_table(*results)
    assert all(character.isprintable() or character == "\n" for character in text)
    _, head, rule, *body = text.splitlines()
    columns = [i for i, c in enumerate(head) if head[i : i + 13] == "95 % interval"]
    assert set(rule) == {"─", " "}
    for line in body[1:3]:  # locality and the arm whose characters are two columns wide
        cells = "".join(c + " " * (unicodedata.east_asian_width(c) in "WF") for c in line)
        interval = cells[columns[0] - 2 : columns[0] + 13]
        assert " to " in interval
        assert cells[columns[0] + 13 : columns[0] + 15] == "  "


def test_text_table_of_an_unfinished_study():
    rows = [Row(arm, "d", "m", 0, 0, arm, "waiting") for arm in ("baseline", "x")]
    text = text_table(summarize(rows), compare(rows, "baseline"))
    assert "x - baseline: no pair finished in both arms, so nothing can be said" in text
    assert "1 pair missing: split 0 seed 0 (baseline has not run, x has not run)" in text
    assert text_table([], []) == "\n"


def test_results_hold_everything_and_are_json(tmp_path, rows, results):
    rows[0] = Row(**{**vars(rows[0]), "metrics": metrics(0.8, train_loss=math.inf)})
    summaries, comparisons = results
    write_results(tmp_path / "results.json", rows, summaries, comparisons)
    content = read_json(tmp_path / "results.json")
    assert len(content["rows"]) == len(rows)
    assert content["rows"][0]["metrics"]["train_loss"] is None
    assert content["rows"][-1] == {**vars(rows[-1])}
    assert content["comparisons"][0]["sentence"] == comparisons[0].sentence
    assert content["comparisons"][0]["split_means"] == [[0, comparisons[0].split_means[0]]]
    assert content["summaries"][1]["mean"] == summaries[1].mean
    assert content["format"] == 1


def test_csv_reads_back_cell_by_cell(tmp_path, rows):
    write_csv(tmp_path / "results.csv", rows)
    with (tmp_path / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    assert "per_class_accuracy" not in table[0]
    for line, row in zip(table, rows, strict=True):
        assert (line["arm"], line["key"], line["status"]) == (row.arm, row.key, row.status)
        assert line["accuracy"] == ("" if row.metrics is None else str(row.metrics["accuracy"]))
    assert table[-1]["error"] == "the loss became nan"


def test_a_full_disk_leaves_the_old_files(tmp_path, rows, results, monkeypatch):
    paths = [tmp_path / name for name in ("results.json", "results.csv", "table.txt")]
    for path in paths:
        path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files.os, "fsync", full)
    for write in (
        lambda: write_results(paths[0], rows, *results),
        lambda: write_csv(paths[1], rows),
        lambda: write_text(paths[2], *results),
    ):
        with pytest.raises(RunError, match="No space left"):
            write()
    assert [path.read_text() for path in paths] == ["old"] * 3
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_an_empty_study_gives_empty_files(tmp_path):
    write_csv(tmp_path / "a.csv", [])
    write_results(tmp_path / "a.json", [], [], [])
    assert next(csv.reader(io.StringIO((tmp_path / "a.csv").read_text())))[0] == "data"
