"""Made-up image files in every layout the sources read."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convprior.lab.data import load

Shape = tuple[int, ...]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test has its own cache folder and starts with nothing in memory."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CONVPRIOR_CACHE", str(folder))
    monkeypatch.delenv("CONVPRIOR_DATA", raising=False)
    monkeypatch.delenv("CONVPRIOR_MEMORY_LIMIT", raising=False)
    load._kept.clear()
    yield folder
    load._kept.clear()


@pytest.fixture
def pixels() -> Callable[..., np.ndarray]:
    """``pixels(number, shape)``: random pixels that differ from number to number."""

    def make(number: int, shape: Shape = (6, 6, 3)) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture
def png() -> Callable[[np.ndarray], bytes]:
    """The bytes of a PNG file with the given pixels."""

    def encode(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture
def image_folder(tmp_path: Path, pixels, png) -> Callable[..., Path]:
    """``image_folder("train", {"cat": 3})`` writes ``images/train/cat/0.png`` ... ."""

    def make(split: str, counts: dict[str, int], shape: Shape = (6, 6, 3)) -> Path:
        root = tmp_path / "images"
        for label, (name, count) in enumerate(counts.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                data = png(pixels(hash_of(split, label, number), shape))
                (folder / f"{number:03}.png").write_bytes(data)
        return root

    return make


@pytest.fixture
def parquet_file(tmp_path: Path, pixels, png) -> Callable[..., Path]:
    """``parquet_file("train-0.parquet", labels)`` writes one image for each label."""

    def make(
        name: str,
        labels: list,
        names: list[str] | None = None,
        columns: tuple[str, str] = ("image", "label"),
        shape: Shape = (6, 6, 3),
        seed: int = 0,
        group: int = 4,
    ) -> Path:
        files = [
            {"bytes": png(pixels(seed * 1000 + number, shape)), "path": f"{number}.png"}
            for number in range(len(labels))
        ]
        table = pa.table({columns[0]: files, columns[1]: labels})
        if names is not None:
            features = {
                columns[0]: {"_type": "Image"},
                columns[1]: {"names": names, "_type": "ClassLabel"},
            }
            text = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": text})
        path = tmp_path / "parquet" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=group)
        return path

    return make


def hash_of(split: str, label: int, number: int) -> int:
    return len(split) * 100_000 + label * 1000 + number
