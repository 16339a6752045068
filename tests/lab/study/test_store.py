"""The folder is the truth: statuses from files, locks, other formats."""

import json
import subprocess
import sys

import pytest

from convprior._files import write_json
from convprior.errors import InputError, RunError
from convprior.lab.study import Slot, read_study
from convprior.lab.study.design import make_cell
from convprior.lab.study.store import Store, clear_failure, locked, read_status, write_failure
from convprior.lab.train import Recipe

STUDY = {"name": "tiny", "arms": {"a": {}}}


def listing(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_status_is_what_the_files_say(tmp_path):
    assert read_status(tmp_path / "absent") == ("waiting", None, None)
    cell = tmp_path / "cell"
    with locked(cell) as free:
        assert free
    assert read_status(cell)[0] == "waiting"
    (cell / "state.safetensors").touch()
    assert read_status(cell)[0] == "interrupted"
    write_failure(cell, "diverged", "the loss is nan")
    assert read_status(cell) == ("diverged", None, "the loss is nan")
    clear_failure(cell)
    assert read_status(cell)[0] == "interrupted"
    write_failure(cell, "crashed", "killed")
    metrics = {"format": 1, "accuracy": 0.5}
    write_json(cell / "metrics.json", metrics)
    assert read_status(cell) == ("finished", metrics, None)


def test_rows_name_cell_and_status(tmp_path):
    cell = make_cell(Slot("a", "digits", "plain_cnn"), Recipe(seed=3))
    store = Store(tmp_path)
    write_failure(store.cell(cell.key), "crashed", "killed")
    (row,) = store.rows([cell])
    assert (row.arm, row.data, row.model, row.split, row.seed) == ("a", "digits", "plain_cnn", 0, 3)
    assert (row.key, row.status, row.error) == (cell.key, "crashed", "killed")


def test_a_lock_keeps_others_out_until_its_process_is_gone(tmp_path):
    with locked(tmp_path) as free, locked(tmp_path) as second:
        assert free
        assert not second
    code = (
        "import fcntl, sys\n"
        f"file = open({str(tmp_path / 'lock')!r}, 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"locked\n"
        with locked(tmp_path) as free:
            assert not free
        process.kill()
        process.wait()
        with locked(tmp_path) as free:
            assert free


def test_a_study_comes_back_as_it_was_written(tmp_path):
    store = Store(tmp_path / "runs" / "tiny")
    store.begin(STUDY)
    assert store.document() == STUDY
    store.begin(STUDY | {"seeds": 2})
    assert store.document() == STUDY | {"seeds": 2}
    result = read_study(store.folder)
    assert [row.status for row in result.rows] == ["waiting"] * 2


def test_another_format_is_refused_and_left_alone(tmp_path):
    content = {"format": 99, "version": "9.9", "study": STUDY}
    (tmp_path / "study.json").write_text(json.dumps(content))
    before = listing(tmp_path)
    with pytest.raises(RunError, match=r"format 99 by convprior 9\.9, .* reads format 1; use that"):
        Store(tmp_path).begin(STUDY)
    assert listing(tmp_path) == before
    write_json(tmp_path / "cell" / "metrics.json", {"format": 2})
    with pytest.raises(RunError, match=r"metrics.json was written in format 2, .* reads format 1"):
        read_status(tmp_path / "cell")


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"has files but no study\.json"):
        Store(tmp_path).begin(STUDY)
    with pytest.raises(InputError, match="is a file; choose another"):
        Store(tmp_path / "thesis.tex").begin(STUDY)
    with pytest.raises(RunError, match="holds no study"):
        Store(tmp_path).document()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": None},
        {"accuracy": "0.5"},
        {"accuracy": True},
        {"loss": None},
        {"seconds": []},
        {"evaluated_images": "many"},
        {"per_class_accuracy": 5},
    ],
)
def test_damaged_metrics_are_told_in_a_sentence(tmp_path, change):
    write_json(tmp_path / "metrics.json", {"format": 1, "accuracy": 0.5, "loss": 1.0} | change)
    (name,) = change
    with pytest.raises(RunError, match=rf"metrics\.json is damaged \(its {name} is no .*delete it"):
        read_status(tmp_path)


def test_metrics_without_an_accuracy_are_damaged(tmp_path):
    write_json(tmp_path / "metrics.json", {"format": 1})
    with pytest.raises(RunError, match="it has no accuracy"):
        read_status(tmp_path)


@pytest.mark.parametrize(
    "content", [{}, {"status": "banana", "error": ""}, {"status": "crashed"}, {"status": []}]
)
def test_a_damaged_failure_is_told_in_a_sentence(tmp_path, content):
    write_json(tmp_path / "error.json", {"format": 1, **content})
    with pytest.raises(
        RunError, match=r"error\.json is damaged \(it names no failure\); delete it"
    ):
        read_status(tmp_path)


@pytest.mark.parametrize("study", [{}, {"study": None}, {"study": [1]}])
def test_a_damaged_study_is_told_in_a_sentence(tmp_path, study):
    write_json(tmp_path / "study.json", {"format": 1, **study})
    with pytest.raises(RunError, match=r"study\.json is damaged \(it has no study\)"):
        Store(tmp_path).document()
