"""Files are old or new, never torn."""

import errno
import os
from pathlib import Path

import pytest
import torch

from convprior._files import load_tensors, read_json, save_tensors, write_atomic, write_json
from convprior.errors import RunError


@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(RunError, match=os.strerror(code)):
            write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    write_atomic(path, "new")
    assert path.read_text() == "new"


def test_written_files_obey_the_umask(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    write_atomic(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert not (tmp_path / "x.json").exists()


def test_unreadable_json_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in (None, b"{", b"\xff"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RunError, match=r"could not read .*x.json"):
            read_json(path)


def test_tensors_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(2, 3).T, "b": torch.tensor(3, dtype=torch.int64)}
    save_tensors(path, tensors, {"step": 3})
    loaded, header = load_tensors(path)
    assert header == {"step": 3}
    assert all(torch.equal(tensors[name], loaded[name]) for name in tensors)


@pytest.mark.parametrize("damage", ["truncate", "garble", "empty", "absent"])
def test_damaged_tensors_are_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.randn(100)})
    content = path.read_bytes()
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes({"truncate": content[:200], "garble": b"\xff" * 90, "empty": b""}[damage])
    with pytest.raises(RunError, match=r"could not read .*x.safetensors"):
        load_tensors(path)
