"""Whole studies on digits, with real workers: to the end, and through every kind of death."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convprior.errors import InputError
from convprior.lab.study import parse_study, read_study, run_study
from convprior.lab.study.run import worker_devices

SCRIPT = """
import sys
from convprior.lab.study import load_study, run_study

if __name__ == "__main__":
    result = run_study(load_study(sys.argv[1]), sys.argv[2], jobs=1, retry="retry" in sys.argv)
    sys.exit(len(result.failures))
"""
FILE = """
name = "small"
seeds = 1
[base]
data.per_class = 5
model.width = 4
budget = { examples = %d, batch_size = 20, precision = "fp32", evaluations = 2 }
[arms.plain]
[arms.locality.prior]
law = "quadratic"
"""


def start(tmp_path, examples, *words):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "small.toml").write_text(FILE % examples)
    arguments = [tmp_path / "script.py", tmp_path / "small.toml", tmp_path / "small", *words]
    return subprocess.Popen([sys.executable, *map(str, arguments)], stderr=subprocess.PIPE)


def wait_for(found, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.01)
    raise AssertionError("nothing happened")


def training(folder):
    """The cell that is being trained, when one is, and the process that does it."""
    for cell in folder.glob("cells/*"):
        if (cell / "recipe.json").exists() and not (cell / "metrics.json").exists():
            pid = (cell / "lock").read_text().strip()  # empty until its owner signs it
            if pid and not gone(pid) and not (cell / "error.json").exists():
                return cell, int(pid)
    return None


def statuses(folder):
    return sorted(row.status for row in read_study(folder).rows)


def gone(pid):
    """Whether a process has ended; an orphan stays a zombie until somebody reaps it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_tuned_study_to_its_rows(tmp_path):
    study = parse_study(
        {
            "name": "tuned",
            "seeds": 1,
            "base": {
                "data": {"per_class": 5, "rule": "random"},
                "model": {"width": 4},
                "budget": {"examples": 100, "precision": "fp32"},
            },
            "arms": {
                "plain": {},
                "locality": {"prior.law": "quadratic"},
                "wild": {"optimizer.lr": 1e30, "tune": {}},
            },
            "tune": {"space": {"optimizer.weight_decay": {"values": [0.0, 1e-3]}}},
        }
    )
    folder = tmp_path / "digits"
    result = run_study(study, folder, jobs=1)
    assert result.failures == ()
    *rows, wild = result.rows
    assert (wild.arm, wild.status, wild.metrics) == ("wild", "diverged", None)  # a result too
    assert wild.error
    for row in rows:
        cell = folder / "cells" / row.key
        assert row.metrics["evaluated_on"] == "test"
        assert row.metrics["threads"] == 1
        assert json.loads((cell / "metrics.json").read_text()) == row.metrics
        assert (cell / "weights.safetensors").exists()
    for tuning in result.tunings:
        for key in (key for trial in tuning.trials for key in trial.cells):
            metrics = json.loads((folder / "cells" / key / "metrics.json").read_text())
            assert metrics["evaluated_on"] == "validation"
            assert not (folder / "cells" / key / "weights.safetensors").exists()
    # Everything has ended: the same again needs neither data nor workers.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    again = run_study(study, folder, jobs=1)
    assert again == result == read_study(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")} == before


def test_nothing_finished_is_lost_whoever_dies(tmp_path):
    folder, examples = tmp_path / "small", 15_000
    # The runner is killed: its orphan saves what it has and leaves.
    with start(tmp_path, examples) as runner:
        cell, worker = wait_for(lambda: training(folder))
        runner.kill()
    wait_for(lambda: gone(worker))
    assert statuses(folder) == ["interrupted", "waiting"]
    assert (cell / "state.safetensors").exists()
    # The worker is killed: its cell crashed, the other one is run, the exit code says so.
    with start(tmp_path, examples) as runner:
        cell, worker = wait_for(lambda: training(folder))
        os.kill(worker, signal.SIGKILL)
        assert runner.wait() == 1
    assert statuses(folder) == ["crashed", "finished"]
    (failure,) = read_study(folder).failures
    assert failure.key == cell.name
    assert "killed by SIGKILL" in failure.error
    # Ctrl-C while the crashed one is run again.
    finished = {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/metrics.json")}
    with start(tmp_path, examples, "retry") as runner:
        cell, worker = wait_for(lambda: training(folder))
        runner.send_signal(signal.SIGINT)
        assert runner.wait() == -signal.SIGINT
    assert gone(worker)
    assert statuses(folder) == ["finished", "interrupted"]
    # Two at once finish it, and what was finished stays untouched.
    with start(tmp_path, examples) as one, start(tmp_path, examples) as two:
        assert (one.wait(), two.wait()) == (0, 0)
    assert statuses(folder) == ["finished"] * 2
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in finished.items())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": ["./no_such_folder"]}, "no_such_folder"),
        ({"base": {"data": {"per_class": 5000}}}, "needs 5000"),
        ({"models": ["wrm16_2"]}, "wrm16_2"),
        ({"base": {"data": {"crop": 20}}}, "crop"),
    ],
)
def test_bad_data_stop_a_study_before_its_first_cell(tmp_path, changes, sentence):
    arms = {"a": {}, "b": {"prior.law": "quadratic"}}
    study = parse_study({"name": "bad", "seeds": 1, "arms": arms} | changes)
    with pytest.raises(InputError, match=sentence) as caught:
        run_study(study, tmp_path / "bad", jobs=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bad" / "cells").exists()


def test_devices_of_workers(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert worker_devices("auto", None, 1) == ["cpu"] * 8
    assert worker_devices("cpu", None, 3) == ["cpu"] * 2
    assert worker_devices("cpu", 5, 3) == ["cpu"] * 5
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert worker_devices("auto", None, 1) == ["cuda:0", "cuda:1"]
    assert worker_devices("cuda", 3, 1) == ["cuda:0", "cuda:1", "cuda:0"]
    assert worker_devices("cuda:1", None, 1) == ["cuda:1"]
    for device, jobs, threads in (("cuda:2", 1, 1), ("gpu", 1, 1), ("cpu", 0, 1), ("cpu", 1, 0)):
        with pytest.raises(InputError):
            worker_devices(device, jobs, threads)
