"""The house rule: imports run downward, and nothing optional is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import convprior

SOURCE = Path(convprior.__file__).parent

# A room may import the rooms to its right in this order, never those to its left.
ORDER = [
    "cli",
    "lab.report",
    "lab.study",
    "lab.train",
    "lab.data",
    "diagnose",
    "losses",
    "models",
    "local",
    "filters",
]
BASE = {"errors", "_drawing", "_files", "_optional", "_random", "_timm_hook", "_version"}
OPTIONAL = {
    *("PIL", "altair", "datasets", "jinja2", "numba", "optuna", "pandas", "pyarrow", "pydantic"),
    *("ray", "rich", "scipy", "sklearn", "timm", "torchvision", "triton", "typer"),
    *("vl_convert", "zarr"),
}


def room_of(path: Path) -> str | None:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    name = ".".join(parts[:2]) if parts[0] == "lab" else parts[0]
    return name if name in ORDER else None


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    own = [name.removeprefix("convprior.") for name in names if name.startswith("convprior.")]
    return {room for room in ORDER for name in own if f"{name}.".startswith(f"{room}.")}


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_downward(path: Path) -> None:
    room = room_of(path)
    if room is None:
        if path.stem in BASE:
            assert not imported_rooms(path)
        return
    allowed = set(ORDER[ORDER.index(room) :])
    assert imported_rooms(path) <= allowed


def test_every_room_is_in_the_order() -> None:
    rooms = {room_of(path) for path in FILES} - {None}
    assert rooms == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 400


@pytest.mark.parametrize(
    "module",
    ["convprior"] + [f"convprior.{room}" for room in ORDER if not room.startswith(("cli", "lab"))],
)
def test_the_library_imports_nothing_optional(module: str) -> None:
    code = (
        f"import sys; before = set(sys.modules); import torch, numpy, safetensors.torch; "
        f"base = set(sys.modules); import {module}; "
        f"print(*sorted({{name.split('.')[0] for name in set(sys.modules) - base}}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not set(result.stdout.split()) & OPTIONAL
    assert "convprior" in result.stdout


def test_public_names_resolve() -> None:
    for name in convprior.__all__:
        assert getattr(convprior, name) is not None
    assert set(convprior.__all__) <= set(dir(convprior))
    with pytest.raises(AttributeError, match="no attribute 'FilterPiror'"):
        _ = convprior.FilterPiror
