"""A whole run: from a recipe to the files of a finished cell."""

import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from convprior._files import read_json, save_tensors, write_atomic, write_json
from convprior._version import __version__
from convprior.errors import InputError, RunError
from convprior.lab.data import ImageSet, Prepared, StreamedSet, prepare
from convprior.lab.data.source import Rows
from convprior.lab.train.distributed import world
from convprior.lab.train.evaluate import Evaluation, evaluate
from convprior.lab.train.loop import fit
from convprior.lab.train.meter import Diverged
from convprior.lab.train.recipe import BudgetRecipe, Recipe, as_dict, recipe_key
from convprior.lab.train.state import Training, build_model

FORMAT = 1
"""Of ``metrics.json``."""

# Training images classified at the end, evenly spaced over the set: a standard error below 0.5 %.
_TRAIN_SAMPLE = 10_000

_PROGRESS_SECONDS = 0.2


class Interrupted(RunError):  # noqa: N818 - the status of a run, as a study shows it
    """The run was asked to stop, saved its state and can go on from there."""


def train(
    recipe: Recipe,
    folder: Path | str,
    *,
    device: str = "auto",
    threads: int | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    checkpoint_seconds: float = 60.0,
) -> dict[str, Any]:
    """Trains the network of a recipe, evaluates it once and leaves the result in a folder.

    The folder gets ``recipe.json``, ``log.jsonl`` (the learning curve), ``weights.safetensors``
    and, last, ``metrics.json``, which is there exactly when the run is finished; until then
    ``state.safetensors`` holds what is needed to go on, and calling again does so. A finished run
    is not run again. On a CPU the weights are a function of recipe and ``threads``, bit for bit.

    Args:
        recipe: the experiment.
        folder: of this run alone; made if absent.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; under torchrun each process has its own.
        threads: of PyTorch on the CPU; None: as set by the caller.
        on_progress: gets ``examples, total, loss, images_per_second``, at most five times a second.
        should_stop: asked after each step (every 50 over several processes).
        checkpoint_seconds: time between two saves of the state.

    Returns:
        The content of ``metrics.json``.

    Raises:
        InputError: the recipe does not fit the data, or the folder holds another run.
        Diverged: the loss became infinite or not a number.
        Interrupted: ``should_stop`` said so; the state is saved.
        RunError: the disk is full, or the state cannot be read.
    """
    folder, key = Path(folder), recipe_key(recipe)
    if (folder / "metrics.json").exists():
        return _finished(folder, key)
    with _threads(threads), world(device) as here, torch.random.fork_rng(devices=[]):
        data = prepare(recipe.data, here.device)
        training = Training.start(recipe, build_model(recipe, data), here)
        state = folder / "state.safetensors"
        if state.exists():
            training.load(state)
        if here.leads:
            write_json(folder / "recipe.json", as_dict(recipe))
        watch = _Watch(training, data, folder, on_progress, should_stop, checkpoint_seconds)
        fit(training, data, watch.after_step)
        return watch.conclude(key)


def _finished(folder: Path, key: str) -> dict[str, Any]:
    found = read_json(folder / "metrics.json")
    metrics: dict[str, Any] = found if isinstance(found, dict) else {}
    if metrics.get("format") != FORMAT:
        raise RunError(
            f"{folder} holds a result of format {metrics.get('format')}, this is convprior "
            f"{__version__} with format {FORMAT}: choose another folder"
        )
    if metrics.get("key") != key:
        raise InputError(
            f"{folder} holds the finished run of recipe {metrics.get('key')}, not of {key}: "
            "choose another folder"
        )
    return metrics


class _Watch:
    """What happens around the steps: the learning curve, progress, saving and stopping."""

    def __init__(
        self,
        training: Training,
        data: Prepared,
        folder: Path,
        on_progress: Callable[[dict[str, Any]], None] | None,
        should_stop: Callable[[], bool] | None,
        checkpoint_seconds: float,
    ) -> None:
        self.training, self.data, self.folder = training, data, folder
        self.on_progress = on_progress if training.world.leads else None
        self.should_stop = should_stop
        self.checkpoint_seconds = checkpoint_seconds
        self.state = folder / "state.safetensors"
        self.steps = 0
        self.resumed_at = (training.examples, training.seconds)
        self.saved = self.told = time.monotonic()
        self.evaluation: Evaluation | None = None

    def after_step(self) -> None:
        """Does what is due; the loop calls it."""
        training, budget = self.training, self.training.recipe.budget
        self.steps += 1
        before = (training.step - 1) * budget.batch_size
        if _points(budget, training.examples) > _points(budget, before):
            self._add_point()
        if self.on_progress is not None and time.monotonic() - self.told >= _PROGRESS_SECONDS:
            self._tell(self.on_progress)
        # Over processes an agreement is a message to all, so not at every step.
        alone = training.world.size == 1
        if training.finished or not (alone or self.steps % training.meter.window == 0):
            return
        if training.world.agree(self.should_stop is not None and self.should_stop()):
            training.save(self.state)
            raise Interrupted(
                f"stopped after {training.examples} of {budget.examples} examples with the state "
                f"saved in {self.folder}; run the same command again to go on"
            )
        if training.world.agree(time.monotonic() - self.saved >= self.checkpoint_seconds):
            training.save(self.state)
            self.saved = time.monotonic()

    def conclude(self, key: str) -> dict[str, Any]:
        """Evaluates the trained network and writes the result."""
        training, data = self.training, self.data
        with self._averaged():
            result = self.evaluation or self._evaluate(data.evaluation)
            train = self._evaluate(_evenly(data.train, _TRAIN_SAMPLE))
            if not math.isfinite(result.loss + train.loss):
                raise Diverged(
                    f"the trained network's loss is {result.loss}: lower optimizer.lr or set "
                    "optimizer.clip, for example to 1.0"
                )
            metrics = {
                "format": FORMAT,
                "version": __version__,
                "key": key,
                "accuracy": result.accuracy,
                "balanced_accuracy": result.balanced_accuracy,
                "loss": result.loss,
                "train_accuracy": train.accuracy,
                "train_loss": train.loss,
                "examples": training.examples,
                "steps": training.step,
                "seconds": training.seconds,
                "images_per_second": training.examples / training.seconds,
                "precision": "bf16" if training.dtype == torch.bfloat16 else "fp32",
                "device": training.world.device.type,
                "processes": training.world.size,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "python": platform.python_version(),
                "hardware": hardware(training.world.device),
                "per_class_accuracy": result.per_class_accuracy,
                "evaluated_on": training.recipe.data.evaluate,
                "evaluated_images": result.images,
            }
            weights_seen = training.objective.weights
            if weights_seen is not None:
                metrics["mean_weight"] = float(weights_seen.total) / training.examples
                metrics["largest_weight"] = float(weights_seen.largest)
            if training.world.leads:
                size = list(data.train.size)
                header = {"format": FORMAT, "version": __version__, "key": key, "image_size": size}
                weights = training.model.state_dict()
                save_tensors(self.folder / "weights.safetensors", weights, header)
                write_json(self.folder / "metrics.json", metrics)
                self.state.unlink(missing_ok=True)
        return metrics

    def _add_point(self) -> None:
        training, meter = self.training, self.training.meter
        meter.flush()
        point: dict[str, Any] = {
            "examples": training.examples,
            "loss": meter.loss / meter.count,
            "lr": training.optimizer.param_groups[0]["lr"],
            "train_accuracy": meter.correct / meter.count,
        }
        if training.objective.weights is not None:
            point["mean_weight"] = training.objective.weights.take(meter.count)
        meter.reset()
        if training.recipe.data.evaluate == "validation":
            with self._averaged():
                result = self._evaluate(self.data.evaluation)
            point["accuracy"] = result.accuracy
            self.evaluation = result if training.finished else None
        training.curve.append(point)
        if training.world.leads:
            lines = [json.dumps(entry) + "\n" for entry in training.curve]
            write_atomic(self.folder / "log.jsonl", "".join(lines))

    def _tell(self, on_progress: Callable[[dict[str, Any]], None]) -> None:
        training = self.training
        if math.isnan(training.meter.recent):
            return
        examples, seconds = self.resumed_at
        self.told = time.monotonic()
        on_progress(
            {
                "examples": training.examples,
                "total": training.recipe.budget.examples,
                "loss": training.meter.recent,
                "images_per_second": (training.examples - examples) / (training.seconds - seconds),
            }
        )

    def _averaged(self) -> AbstractContextManager[None]:
        average = self.training.average
        return nullcontext() if average is None else average.applied()

    def _evaluate(self, images: ImageSet | StreamedSet) -> Evaluation:
        training, data = self.training, self.data
        return evaluate(
            training.model, images, data.mean, data.std, dtype=training.dtype, world=training.world
        )


def _points(budget: BudgetRecipe, examples: int) -> int:
    return examples * budget.evaluations // budget.examples


def _evenly(images: ImageSet | StreamedSet, most: int) -> ImageSet | StreamedSet:
    if len(images) <= most:
        return images
    rows = torch.arange(most) * len(images) // most
    if isinstance(images, StreamedSet):
        return replace(images, part=Rows(images.part, rows), labels=images.labels[rows])
    rows = rows.to(images.device)
    return replace(images, images=images.images[rows], labels=images.labels[rows])


def hardware(device: torch.device) -> str:
    """The name of the processor or GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        if count < 1:
            raise InputError(f"threads = {count} must be >= 1")
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
