"""What a running study shows, on a terminal and elsewhere."""

import io
import time

from rich.console import Console

from convprior._files import write_json
from convprior.lab.study import load_study, parse_study
from convprior.lab.study.live import Display, duration
from convprior.lab.study.run import outline
from convprior.lab.study.store import Store

MARKUP = "[red]b"


def setting(tmp_path, **options):
    study = parse_study(
        {"name": "s", "seeds": 2, "arms": {"a": {}, MARKUP: {"prior.law": "quadratic"}}}
    )
    console = Console(file=io.StringIO(), width=100, **options)
    return study, Store(tmp_path), console


def finish(store, display, cell, accuracy):
    display.progress.listen("start", cell, {"device": "cpu"})
    progress = {"examples": 500, "total": 1000, "loss": 0.25}
    display.progress.listen("progress", cell, progress)
    write_json(store.cell(cell.key) / "metrics.json", {"format": 1, "accuracy": accuracy})
    display.progress.listen("end", cell, {"status": "finished", "error": None})


def test_elsewhere_a_line_now_and_then(tmp_path):
    study, store, console = setting(tmp_path)
    cells = study.plan({slot: {} for slot in study.slots()})
    with Display(study, store, console) as display:
        display.progress.begin("training", cells, retry=False)
        for cell in cells[:3]:
            finish(store, display, cell, 0.5)
        display.progress.listen("start", cells[3], {"device": "cpu"})
        display.progress.listen("end", cells[3], {"status": "crashed", "error": "killed"})
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "training: 0 of 4 cells",
        "[red]b, digits, plain_cnn, split 0, seed 1 crashed: killed",
        "training: 4 of 4 cells, 1 crashed",
    ]


def test_a_terminal_shows_means_differences_and_running_cells(tmp_path):
    study, store, console = setting(tmp_path, force_terminal=True)
    cells = study.plan({slot: {} for slot in study.slots()})
    with Display(study, store, console) as display:
        display.progress.final = cells
        display.progress.begin("training", cells, retry=False)
        for cell, accuracy in zip(cells[:3], (0.5, 0.625, 0.75), strict=True):
            finish(store, display, cell, accuracy)
        display.progress.listen("start", cells[3], {"device": "cpu"})
        display.progress.listen("progress", cells[3], {"examples": 1, "total": 4, "loss": 0.5})
        plain = Console(file=io.StringIO(), width=100)
        plain.print(display._table())
    text = plain.file.getvalue()
    assert "training: 3 of 4 cells" in text
    assert "minus a" in text
    rows = [line.split() for line in text.splitlines()]
    assert rows[2] == ["arm", "data", "model", "cells", "accuracy", "%", "minus", "a"]
    assert ["a", "digits", "plain_cnn", "2", "62.50"] in rows
    assert ["[red]b", "digits", "plain_cnn", "1", "62.50", "+12.50"] in rows
    assert "[red]b, digits, plain_cnn, split 0, seed 1: 25%, loss 0.500" in text


def test_silence_without_a_console(tmp_path, capsys):
    study, store, _ = setting(tmp_path)
    cells = study.plan({slot: {} for slot in study.slots()})
    with Display(study, store, None) as display:
        display.progress.begin("training", cells, retry=False)
        finish(store, display, cells[0], 0.5)
    assert capsys.readouterr() == ("", "")


def test_the_time_left_counts_work_not_cells(tmp_path):
    study, store, _ = setting(tmp_path)
    cells = study.plan({slot: {} for slot in study.slots()})
    with Display(study, store, None) as display:
        progress = display.progress
        progress.begin("training", cells, later=2 * cells[0].recipe.budget.examples, retry=False)
        assert progress.seconds_left() is None
        progress._began = time.monotonic() - 100
        finish(store, display, cells[0], 0.5)
        assert abs(progress.seconds_left() - 500) < 5
        progress.listen("start", cells[1], {"device": "cpu"})
        progress.listen("progress", cells[1], {"examples": 1, "total": 2, "loss": 1.0})
        assert abs(progress.seconds_left() - 300) < 5


def test_durations_are_words():
    assert [duration(s) for s in (3.4, 89, 200, 7500)] == ["3 s", "89 s", "3 min", "2 h 5 min"]


def test_the_size_of_a_study_is_told_first():
    study = load_study(preset="digits")
    assert outline(study) == (
        "digits: 4 arms x 3 splits x 5 seeds = 60 cells, after at most 45 for tuning"
    )
    untuned = load_study(preset="digits", overrides=["tune=false", "seeds=1"])
    assert outline(untuned) == "digits: 3 arms x 3 splits = 9 cells"
