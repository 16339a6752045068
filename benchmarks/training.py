"""Images per second of our training loop, against the loop people write and a bare step.

``python benchmarks/training.py`` writes ``benchmarks/training.json`` (about 12 minutes on two
cores); with ``--quick`` it prints a short run and writes nothing. Variants of the same training
take turns in one process:

* usual loop: PIL images in memory, torchvision transforms, DataLoader with two workers, NCHW,
  float32, ``torch.optim.SGD``, ``loss.item()`` at every step;
* bare step: the network alone on one fixed batch, channels_last, our precision and our optimizer:
  what remains when a loop costs nothing;
* compiled step: the same after ``torch.compile``, if it is compiled within 150 seconds;
* ours: ``convprior.lab.train.fit`` with the crop and flip of the usual loop.

A round times each variant once, in an order that moves from round to round, and gives one ratio.
Before it is timed, a variant takes a few steps: the usual loop would otherwise find the batches
that its workers prepared while another variant was timed. Images are random, since their content
changes no time.
"""

import argparse
import datetime
import itertools
import math
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision  # type: ignore[import-untyped]
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from convprior._files import write_json
from convprior.lab.data import Augment, ImageSet, Prepared
from convprior.lab.train import (
    BudgetRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    Training,
    World,
    build_model,
    compute_dtype,
    fit,
)
from convprior.lab.train.run import hardware

IMAGES, CLASSES, SIZE = 5_000, 10, 32
MEAN, STD = (0.5, 0.5, 0.5), (0.29, 0.29, 0.29)  # of uniform noise
CASES = (("resnet18", 128), ("wrn16_2", 128), ("wrn16_2", 50), ("wrn16_2", 25), ("wrn16_2", 10))
QUICK = (("wrn16_2", 128), ("wrn16_2", 10))
COMPILED = (("wrn16_2", 128), ("wrn16_2", 10))
COMPILE_SECONDS = 150
LEAD = {"usual loop": 5}  # untimed steps: the batches its workers hold, and one more
USUAL_FLOOR, BARE_FLOOR = 2.5, 0.95  # wanted at batch 128

# Trains for a number of steps; what it returns is not used.
Variant = Callable[[int], None]


class Photographs(Dataset[tuple[Tensor, int]]):
    """PIL images in memory, transformed when asked for."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.images = [Image.fromarray(image) for image in pixels]
        self.labels = [int(label) for label in labels]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(SIZE, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def recipe_of(name: str, batch_size: int) -> Recipe:
    """A run without end whose learning rate is small enough for random labels."""
    return Recipe(
        model=ModelRecipe(name=name),
        optimizer=OptimizerRecipe(lr=0.01, warmup=0.0, schedule="constant"),
        budget=BudgetRecipe(examples=10**12, batch_size=batch_size, evaluations=0),
    )


def prepared(pixels: np.ndarray, labels: np.ndarray) -> Prepared:
    """The same images as our loop takes them."""
    classes = tuple(str(label) for label in range(CLASSES))
    images = ImageSet(torch.from_numpy(pixels), torch.from_numpy(labels), classes)
    return Prepared(images, images, MEAN, STD, classes, Augment(flip=True, crop=4))


def started(recipe: Recipe, data: Prepared) -> Training:
    """A network with its optimizer as our loop sets them up."""
    return Training.start(recipe, build_model(recipe, data), World(0, 1, torch.device("cpu")))


def usual_loop(recipe: Recipe, data: Prepared, photographs: Photographs) -> Variant:
    """The loop people write."""
    slot, size = recipe.optimizer, recipe.budget.batch_size
    model = build_model(recipe, data).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=slot.lr,
        momentum=slot.momentum,
        weight_decay=slot.weight_decay,
        nesterov=slot.nesterov,
    )
    # Workers stay from epoch to epoch, which favors this variant.
    loader = DataLoader(
        photographs, size, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def run(steps: int) -> None:
        total = 0.0
        for x, y in itertools.islice(batches, steps):
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()

    return run


def bare_step(recipe: Recipe, data: Prepared, compiled: bool = False) -> Variant:
    """Forward, backward and optimizer on one batch that is there already."""
    training = started(recipe, data)
    optimizer, dtype, size = training.optimizer, training.dtype, recipe.budget.batch_size
    model: Callable[[Tensor], Tensor] = training.model.train()
    if compiled:
        model = torch.compile(model)
    x = torch.randn(size, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    x = x.to(dtype, memory_format=torch.channels_last)
    y = torch.arange(size) % CLASSES

    def run(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                logits = model(x)
            loss = cross_entropy(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return run


class Pause(Exception):  # noqa: N818 - not an error: the way out of the loop after enough steps
    """Leaves our loop with its state intact."""


def ours(recipe: Recipe, data: Prepared) -> Variant:
    """Our loop, entered and left for each round."""
    training = started(recipe, data)

    def run(steps: int) -> None:
        left = iter(range(steps - 1, -1, -1))

        def after_step() -> None:
            if next(left) == 0:
                raise Pause

        try:
            fit(training, data, after_step)
        except Pause:
            return

    return run


def compiled_step(recipe: Recipe, data: Prepared) -> Variant | None:
    """The bare step after torch.compile, or None where that fails or takes too long."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"not compiled within {COMPILE_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(COMPILE_SECONDS)
    try:
        run = bare_step(recipe, data, compiled=True)
        run(1)
    except Exception as error:  # no compiler, an unsupported version, no time: all end here
        print(f"torch.compile: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
        return None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return run


def timed(run: Variant, steps: int) -> float:
    """Seconds of one step, on average."""
    begun = time.perf_counter()
    run(steps)
    return (time.perf_counter() - begun) / steps


def compare(variants: dict[str, Variant], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of a step of each variant in each round, after two steps of warm-up."""
    steps = {}
    for name, run in variants.items():
        run(2)
        steps[name] = max(1, math.ceil(seconds / timed(run, 1)))
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            variants[name](LEAD.get(name, 1))
            times[name].append(timed(variants[name], steps[name]))
    return times


def ratios(times: dict[str, list[float]], peer: str) -> list[float]:
    """How many times as fast as ``peer`` our loop was, round by round."""
    return [theirs / own for theirs, own in zip(times[peer], times["ours"], strict=True)]


def spread(values: list[float]) -> str:
    """Median, and the range over rounds."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def measure(
    cases: tuple[tuple[str, int], ...], rounds: int, seconds: float, compiling: bool
) -> Iterator[tuple[str, int, dict[str, list[float]]]]:
    """Yields network, batch size and times of each case."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, IMAGES)
    data, photographs = prepared(pixels, labels), Photographs(pixels, labels)
    for name, batch_size in cases:
        recipe = recipe_of(name, batch_size)
        variants = {
            "usual loop": usual_loop(recipe, data, photographs),
            "bare step": bare_step(recipe, data),
            "ours": ours(recipe, data),
        }
        if compiling and (name, batch_size) in COMPILED:
            compiled = compiled_step(recipe, data)
            if compiled is not None:
                variants["compiled step"] = compiled
        yield name, batch_size, compare(variants, rounds, seconds)


def reading(found: dict[tuple[str, int], dict[str, list[float]]]) -> str:
    """What the numbers say, in words."""

    def middle(case: tuple[str, int], peer: str) -> float:
        return statistics.median(ratios(found[case], peer))

    sentences = []
    for case in found:
        if case[1] == 128:
            sentences.append(
                f"{case[0]} at batch 128: our loop is {middle(case, 'usual loop'):.2f} times as "
                f"fast as the usual one (wanted: {USUAL_FLOOR}) and at "
                f"{middle(case, 'bare step'):.2f} of the bare step (wanted: {BARE_FLOOR})."
            )
    small = [case for case in found if case[1] < 128]
    if small:
        listed = ", ".join(f"{middle(c, 'bare step'):.2f} at batch {c[1]}" for c in small)
        sentences.append(f"Small batches, of the bare step: {listed}.")
    for case, times in found.items():
        if "compiled step" in times:
            slower = statistics.median(times["compiled step"]) / statistics.median(
                times["bare step"]
            )
            sentences.append(
                f"torch.compile takes {slower:.2f} times as long as the bare step at batch "
                f"{case[1]}."
            )
    return " ".join(sentences)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short run; writes no file")
    quick: bool = parser.parse_args().quick
    rounds, seconds = (3, 0.5) if quick else (7, 2.0)
    columns = ["network", "batch", "variant", "images/s (median)", "images/s (best)", "ours / this"]
    print(" | ".join(columns), flush=True)
    rows: list[list[object]] = []
    found = {}
    for name, batch_size, times in measure(QUICK if quick else CASES, rounds, seconds, not quick):
        found[name, batch_size] = times
        for variant, taken in times.items():
            speeds = [f"{batch_size / t:.0f}" for t in (statistics.median(taken), min(taken))]
            ratio = "1" if variant == "ours" else spread(ratios(times, variant))
            rows.append([name, batch_size, variant, *speeds, ratio])
            print(" | ".join(str(cell) for cell in rows[-1]), flush=True)
    print(reading(found))
    if quick:
        return
    cpu = torch.device("cpu")
    precision = "bf16" if compute_dtype("auto", cpu) == torch.bfloat16 else "fp32"
    result = {
        "name": "training",
        "title": f"Training at {SIZE}x{SIZE} px on a CPU, images per second",
        "command": "python benchmarks/training.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{hardware(cpu)}, {torch.get_num_threads()} threads, {precision}",
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "pillow": PIL.__version__,
        },
        "n": rounds,
        "columns": columns,
        "rows": rows,
        "reading": reading(found),
    }
    write_json(Path(__file__).with_suffix(".json"), result)


if __name__ == "__main__":
    main()
