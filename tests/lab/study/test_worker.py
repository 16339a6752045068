"""One cell in a worker's hands, with stand-ins for training: every way it can end."""

import errno
import json
import threading

import pytest

from convprior._files import write_json
from convprior.errors import InputError, RunError
from convprior.lab.study.store import locked, read_status
from convprior.lab.study.worker import run_cell
from convprior.lab.train import Diverged, Interrupted, Recipe, as_dict

METRICS = {"format": 1, "accuracy": 0.5}


def job(folder, **changes):
    return {
        "folder": str(folder),
        "recipe": as_dict(Recipe(seed=7)),
        "device": "cpu",
        "threads": 1,
        "keep_weights": True,
        "retry": False,
    } | changes


def finish(recipe, folder, *, device, threads, on_progress, should_stop):
    assert (recipe, device, threads, should_stop()) == (Recipe(seed=7), "cpu", 1, False)
    on_progress({"examples": 1, "total": 2, "loss": 0.5})
    (folder / "weights.safetensors").touch()
    write_json(folder / "metrics.json", METRICS)
    return METRICS


def run(folder, train, **changes):
    told = []
    end = run_cell(job(folder, **changes), train, told.append, lambda: False)
    json.dumps(end)
    return end, told


def raises(error, cause=None):
    def train(*_, **__):
        raise error from cause

    return train


def test_a_finished_cell_is_told_and_never_run_again(tmp_path):
    end, told = run(tmp_path, finish)
    assert end == {"status": "finished", "error": None, "fatal": False}
    assert told == [{"examples": 1, "total": 2, "loss": 0.5}]
    assert (tmp_path / "weights.safetensors").exists()
    assert run(tmp_path, raises(AssertionError("ran again")))[0]["status"] == "finished"


def test_weights_of_trials_are_not_kept(tmp_path):
    run(tmp_path, finish, keep_weights=False)
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (Diverged("the loss is nan"), "diverged", "the loss is nan"),
        (InputError("crop is too large"), "crashed", "crop is too large"),
        (RunError("could not read x"), "crashed", "could not read x"),
        (ZeroDivisionError("a\nb"), "crashed", "ZeroDivisionError: a b"),
        (MemoryError(), "crashed", "MemoryError"),
    ],
)
def test_a_failure_is_recorded_and_only_a_crash_is_rerun(tmp_path, error, status, sentence):
    end, _ = run(tmp_path, raises(error))
    assert end == {"status": status, "error": sentence, "fatal": False}
    assert read_status(tmp_path) == (status, None, sentence)
    assert "raise error from cause" in json.loads((tmp_path / "error.json").read_text())["detail"]
    assert run(tmp_path, raises(AssertionError("ran again")))[0] == end
    run(tmp_path, finish, retry=True)
    rerun = status == "crashed"
    assert read_status(tmp_path)[0] == ("finished" if rerun else "diverged")
    assert (tmp_path / "error.json").exists() != rerun


def test_a_stopped_cell_is_not_a_failure(tmp_path):
    end, _ = run(tmp_path, raises(Interrupted("stopped")))
    assert end == {"status": "interrupted", "error": "stopped", "fatal": False}
    assert not (tmp_path / "error.json").exists()


def test_a_full_disk_is_for_the_whole_study(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    end, _ = run(tmp_path, raises(RunError("could not save x: No space left on device"), full))
    assert end["fatal"]
    assert "No space left" in end["error"]
    assert read_status(tmp_path)[0] == "waiting"


def test_a_folder_that_cannot_be_made_is_for_the_whole_study(tmp_path):
    (tmp_path / "cells").touch()
    end, _ = run(tmp_path / "cells" / "key", finish)
    assert end["fatal"]
    assert "could not make" in end["error"]


def test_of_two_workers_one_works(tmp_path):
    inside, go = threading.Event(), threading.Event()

    def slow(recipe, folder, **_):
        inside.set()
        assert go.wait(10)
        write_json(folder / "metrics.json", METRICS)
        return METRICS

    ends = []
    thread = threading.Thread(target=lambda: ends.append(run(tmp_path, slow)[0]))
    thread.start()
    assert inside.wait(10)
    with locked(tmp_path) as free:
        assert not free
    assert run(tmp_path, raises(AssertionError("ran too")))[0]["status"] == "busy"
    go.set()
    thread.join()
    assert ends[0]["status"] == "finished"
