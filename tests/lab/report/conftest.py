"""Studies whose cells were made up: the files a real run leaves, without the training."""

import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from convprior.lab.study import Outcome, parse_study, read_study
from convprior.lab.study.run import chosen_values
from convprior.lab.study.store import Store, write_failure
from convprior.lab.study.tune import tune


def metrics(key: str, accuracy: float, on: str, **more: Any) -> dict[str, Any]:
    return {
        "format": 1, "version": "0.1.0", "key": key, "accuracy": accuracy,
        "balanced_accuracy": accuracy, "loss": 1 - accuracy, "train_accuracy": 0.999,
        "train_loss": 0.01, "examples": 3000, "steps": 60, "seconds": 2.5,
        "images_per_second": 1200.0, "precision": "fp32", "device": "cpu", "processes": 1,
        "threads": 1, "torch": "2.15.0", "python": "3.11.9", "hardware": "A Processor",
        "per_class_accuracy": [accuracy] * 10, "evaluated_on": on, "evaluated_images": 360,
        **more,
    }  # fmt: skip


Make = Callable[..., Outcome]


@pytest.fixture
def make_study(tmp_path: Path) -> Make:
    """``make_study(document, effects, failures, most, log)`` fills a folder and reads it."""

    def make(
        document: Mapping[str, Any],
        effects: Mapping[str, float] | None = None,
        failures: Mapping[tuple[str, int, int], tuple[str, str]] | None = None,
        *,
        most: int | None = None,
        log: str | None = None,
        **more: Any,
    ) -> Outcome:
        study = parse_study(document)
        store = Store(tmp_path / study.name)
        store.begin(study.document)

        def run(cells):
            for cell in cells:
                folder, on = store.cell(cell.key), cell.recipe.data.evaluate
                failure = (failures or {}).get((cell.slot.arm, cell.split, cell.seed))
                if on == "test" and failure:
                    write_failure(folder, *failure)
                    continue
                noise = random.Random(f"{cell.slot} {cell.split} {cell.seed}").gauss(0, 0.004)
                decay = math.log10(max(cell.recipe.optimizer.weight_decay, 1e-6))
                accuracy = 0.9 + (effects or {}).get(cell.slot.arm, 0.0) + noise
                accuracy = round((accuracy - 0.004 * (decay + 3) ** 2) * 360) / 360
                folder.mkdir(parents=True, exist_ok=True)
                points = [{"examples": 300 * i, "loss": 2 * 0.6**i} for i in range(1, 11)]
                lines = "".join(json.dumps(point) + "\n" for point in points)
                (folder / "log.jsonl").write_text(lines if log is None else log)
                found = metrics(cell.key, accuracy, on, **more)
                (folder / "metrics.json").write_text(json.dumps(found))

        run(study.plan(chosen_values(study, tune(study, store, run)))[:most])
        return read_study(store.folder)

    return make
