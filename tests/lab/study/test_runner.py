"""The runner against workers that misbehave; a stand-in speaks the protocol without PyTorch."""

import os
import signal
import sys
import threading
import time

import pytest

from convprior.errors import RunError
from convprior.lab.study import Slot
from convprior.lab.study.design import make_cell
from convprior.lab.study.runner import Runner
from convprior.lab.study.store import Store, locked
from convprior.lab.train import Recipe

# What happens to a cell is decided by its seed.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

def say(**message):
    print(json.dumps(message), flush=True)

say(event="ready")
for line in sys.stdin:
    job = json.loads(line)
    folder, seed = Path(job["folder"]), job["recipe"]["seed"]
    folder.mkdir(parents=True, exist_ok=True)
    tries = folder / "tries"
    first = not tries.exists()
    with tries.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    status, error = "finished", None
    if seed == 101:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 102:
        os.abort()
    if seed == 103:
        sys.exit("out of cheese")
    if seed == 104 and first:
        sys.exit(0)
    if seed == 105 and first:
        status = "busy"
    if seed == 106:
        status, error = "interrupted", "could not save: no space"
    if seed == 107:
        (folder / "ready").touch()
        sys.stdin.read()
        (folder / "state.safetensors").touch()
        say(event="end", status="interrupted", error="stopped", fatal=False)
        break
    if status == "finished":
        say(event="progress", examples=1, total=2, loss=0.5)
        (folder / "metrics.json").write_text('{"format": 1, "accuracy": 0.5}')
    say(event="end", status=status, error=error, fatal=seed == 106)
"""


@pytest.fixture
def command(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(STAND_IN)
    return (sys.executable, "-S", str(script))


def cells_of(*seeds):
    slot = Slot("a", "digits", "plain_cnn")
    return [make_cell(slot, Recipe(seed=seed)) for seed in seeds]


def tries(store, cell):
    file = store.cell(cell.key) / "tries"
    return file.read_text().split() if file.exists() else []


def run(tmp_path, command, cells, workers=2, **options):
    events = []
    store = Store(tmp_path / "study")
    with Runner(
        store, ["cpu"] * workers, 1, lambda *event: events.append(event), command
    ) as runner:
        runner.run(cells, **options)
    return store, events


def statuses(store, cells):
    return [store.status(cell.key)[0] for cell in cells]


def test_all_cells_run_once_on_few_workers(tmp_path, command):
    cells = cells_of(*range(10))
    store, events = run(tmp_path, command, [*cells, *cells])
    assert statuses(store, cells) == ["finished"] * 10
    pids = [tries(store, cell) for cell in cells]
    assert all(len(found) == 1 for found in pids)
    assert len({pid for (pid,) in pids}) <= 2
    kinds = [kind for kind, _, _ in events]
    assert [kinds.count(kind) for kind in ("start", "progress", "end")] == [10, 10, 10]
    store, events = run(tmp_path, command, cells)
    assert events == []


@pytest.mark.parametrize(
    ("seed", "sentence"),
    [
        (101, "its worker process was killed by SIGKILL, perhaps for want of memory"),
        (102, "its worker process was killed by SIGABRT"),
        (103, "its worker process ended with code 1: out of cheese"),
    ],
)
def test_a_dead_worker_crashes_its_cell_and_the_rest_goes_on(tmp_path, command, seed, sentence):
    cells = cells_of(0, seed, 1, 2, 3)
    store, events = run(tmp_path, command, cells)
    assert statuses(store, cells) == ["finished", "crashed", *["finished"] * 3]
    assert store.status(cells[1].key)[2] == sentence
    assert ("end", cells[1], {"status": "crashed", "error": sentence}) in events
    run(tmp_path, command, cells)
    assert len(tries(store, cells[1])) == 1
    run(tmp_path, command, cells, retry=True)
    assert len(tries(store, cells[1])) == 2
    assert len(tries(store, cells[0])) == 1


def test_a_single_worker_that_dies_is_replaced(tmp_path, command):
    cells = cells_of(101, 0, 102, 1)
    store, _ = run(tmp_path, command, cells, workers=1)
    assert statuses(store, cells) == ["crashed", "finished", "crashed", "finished"]


def test_a_worker_that_left_in_order_did_not_crash_its_cell(tmp_path, command):
    cells = cells_of(104, 0)
    store, _ = run(tmp_path, command, cells, workers=1)
    assert statuses(store, cells) == ["finished"] * 2


def test_a_cell_of_another_process_is_looked_at_again(tmp_path, command):
    cells = cells_of(105, 0)
    store, _ = run(tmp_path, command, cells, workers=1)
    assert statuses(store, cells) == ["finished"] * 2
    assert len(tries(store, cells[0])) == 2


def test_a_cell_that_another_process_took_over_is_not_called_crashed(tmp_path, command):
    (cell,) = cells_of(101)
    with locked(Store(tmp_path / "study").cell(cell.key)):
        store, _ = run(tmp_path, command, [cell])
    assert store.status(cell.key)[0] == "waiting"


def test_a_full_disk_stops_the_study_with_one_sentence(tmp_path, command):
    cells = cells_of(106, *range(20))
    with pytest.raises(RunError, match=r"^could not save: no space$"):
        run(tmp_path, command, cells, workers=1)
    store = Store(tmp_path / "study")
    assert "waiting" in statuses(store, cells)
    assert not any(tries(store, cell) for cell in cells[2:])


def test_workers_that_cannot_start_are_one_sentence(tmp_path):
    command = (sys.executable, "-c", "raise SystemExit('no torch here')")
    with pytest.raises(RunError, match=r"could not start: it ended with code 1: no torch here"):
        run(tmp_path, command, cells_of(0))


def test_ctrl_c_lets_workers_save_and_leaves_no_process(tmp_path, command):
    cells = cells_of(107, 0)
    store = Store(tmp_path / "study")
    ready = store.cell(cells[0].key) / "ready"

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, command, cells)
    thread.join()
    assert statuses(store, cells) == ["interrupted", "finished"]
    (pid,) = tries(store, cells[0])
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_half_a_line_of_a_dying_worker_does_not_hang_the_study(tmp_path):
    torn = (
        'print(\'{"event": "ready"}\\n{"event": "pro\', end=\'\', flush=True)\n'
        "input()\n"
        "raise SystemExit(3)"
    )
    cells = cells_of(0)
    store, events = run(tmp_path, (sys.executable, "-S", "-c", torn), cells)
    assert statuses(store, cells) == ["crashed"]
    assert "ended with code 3" in events[-1][2]["error"]
