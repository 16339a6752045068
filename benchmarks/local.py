"""What a local layer costs, in convolutions.

``python benchmarks/local.py`` writes ``benchmarks/local.json`` (about 8 minutes on two cores); with
``--quick`` it prints a short run and writes nothing. In every round each way of computing a layer
takes one turn next to ``nn.Conv2d`` with the same arguments, channels-last, and each turn gives one
ratio; the order moves from round to round. Beside ours: the authors' formulation (one convolution
with K F outputs, weighted and summed), K outputs stacked and contracted by einsum, and unfold with
a product per position, the usual recipes.

"training" is forward and backward, with gradients of input, bases and weights; "inference" is
forward under ``no_grad``. Memory: the input, which every layer keeps for its backward pass, and
the highest resident set in a training step, in a process of its own, beyond inputs, output and
gradients; wanted is 1.3 times what a convolution keeps, its input, and the weights.
"""

import argparse
import datetime
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from convprior._files import write_json
from convprior.lab.train.run import hardware
from convprior.local.geometry import Geometry
from convprior.local.paths import gather, mix
from convprior.local.paths.dispatch import choose, choose_given

FLOORS = {("map", "float32"): 3.0, ("map", "bfloat16"): 2.0}  # times a convolution, at most
GOAL = 1.5
MEMORY_FLOOR = 1.3  # times the convolution's saved activations and the layer's weights
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """A layer and how it is computed.

    Attributes:
        images: N.
        rank: K.
        kind: the weights: "map", "rows", "columns", "input", or "full": a kernel a position.
        way: a path of ours, "auto", or a peer: "authors", "stack", "unfold", "nn.Conv2d".
        channels: of the input.
        stride: of the convolution.
        size: rows and columns of the input.
        filters: of the output.
    """

    images: int
    rank: int
    kind: str = "map"
    way: str = "auto"
    channels: int = 64
    stride: int = 1
    size: int = 32
    filters: int = 64

    @property
    def convolution(self) -> "Case":
        """The convolution it is compared with."""
        return Case(
            self.images, 1, "none", "nn.Conv2d", self.channels, self.stride, self.size, self.filters
        )

    @property
    def geometry(self) -> Geometry:
        """3x3 taps, padding 1."""
        return Geometry.of_conv(self.size, 3, self.stride, 1)

    @property
    def name(self) -> str:
        """For a table."""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.channels}->{self.filters}, {self.size}x{self.size}{stride}"


MAIN = [Case(128, rank) for rank in (1, 2, 4, 8)]
FORCED = [Case(128, rank, way=way) for rank in (4, 8) for way in ("kernels_first", "recompute")]
PEERS = [Case(128, rank, way=way) for rank in (4, 8) for way in ("authors", "stack")]
SMALL = [Case(16, 2), Case(16, 8), Case(16, 8, way="authors"), Case(16, 0, "full")]
OTHERS = [
    [Case(128, rank, channels=3) for rank in (4, 8)],
    [Case(128, rank, stride=2) for rank in (4, 8)],
    [Case(128, 4, "input"), Case(128, 8, "input")],
    [Case(128, 4, "rows"), Case(128, 4, "columns"), Case(128, 0, "full")],
    [Case(2, 0, "full"), Case(2, 0, "full", "unfold")],
]
INFERENCE = [Case(128, 8), Case(128, 8, way="authors")]
MEMORY = [
    *(Case(128, rank) for rank in (1, 8)),
    Case(128, 8, way="kernels_first"),
    Case(128, 8, "input"),
    Case(128, 8, way="authors"),
    Case(128, 1, "none", "nn.Conv2d"),
]


def tensors(case: Case, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The inputs that want gradients."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = case.geometry.output_size

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    x = draw(case.images, case.channels, case.size, case.size).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    kernel = (case.filters, case.channels, 3, 3)
    if case.kind == "none":
        kernels = draw(*kernel).to(dtype).contiguous(memory_format=torch.channels_last)
        return x, kernels.requires_grad_()
    if case.kind == "full":
        return x, draw(rows, columns, *kernel).to(dtype).requires_grad_()
    shape = {
        "map": (case.rank, rows, columns),
        "rows": (case.rank, rows, 1),
        "columns": (case.rank, 1, columns),
        "input": (case.images, case.rank, rows, columns),
    }[case.kind]
    bases = draw(case.rank, *kernel).to(dtype).requires_grad_()
    return x, bases, draw(*shape).softmax(-3).requires_grad_()


def authors(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """The published code: one convolution with K F outputs, weighted, summed over K."""
    y = functional.conv2d(x, bases.flatten(0, 1), None, geometry.stride, 1)
    split = torch.unflatten(y, 1, (bases.shape[0], -1))
    return (split * weights.to(x.dtype).unsqueeze(1)).sum(1)


def stack(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """Public implementations of relaxed convolutions: K outputs, then an einsum."""
    y = torch.stack([functional.conv2d(x, kernel, None, geometry.stride, 1) for kernel in bases])
    return torch.einsum("knfhw,khw->nfhw", y, weights.to(x.dtype))


def unfold(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Public recipes for a locally connected layer: every patch, multiplied and summed."""
    patches = functional.unfold(x, 3, padding=1, stride=geometry.stride)
    rows, columns = geometry.output_size
    split = torch.unflatten(patches, 2, (rows, columns))
    return torch.einsum("nthw,hwft->nfhw", split, weight.flatten(3))


def layer(case: Case, parts: tuple[Tensor, ...]) -> Tensor:
    """The outputs of a case."""
    geometry = case.geometry
    if case.kind == "none":
        return functional.conv2d(parts[0], parts[1], None, case.stride, 1)
    if case.kind == "full":
        x, weight = parts
        return unfold(x, weight, geometry) if case.way == "unfold" else gather(x, weight, geometry)
    x, bases, weights = parts
    if case.way in ("authors", "stack"):
        return {"authors": authors, "stack": stack}[case.way](x, bases, weights, geometry)
    return mix(x, bases, weights, geometry, case.way)


def step(case: Case, dtype: torch.dtype, training: bool) -> Callable[[], float]:
    """One turn of a case, in seconds."""
    parts = tensors(case, dtype)
    rows, columns = case.geometry.output_size
    grad = torch.ones(case.images, case.filters, rows, columns, dtype=dtype)
    grad = grad.contiguous(memory_format=torch.channels_last)

    def turn() -> float:
        begun = time.perf_counter()
        with torch.set_grad_enabled(training):
            y = layer(case, parts)
        if training:
            torch.autograd.grad(y, parts, grad)
        return time.perf_counter() - begun

    return turn


def taken(case: Case, dtype: torch.dtype, training: bool) -> str:
    """The path, where "auto" takes one."""
    if case.way != "auto":
        return case.way
    x, *kernels = tensors(case, dtype)
    with torch.set_grad_enabled(training):
        if case.kind == "full":
            return choose_given(x, kernels[0], case.geometry)
        return choose(x, kernels[0], kernels[1], case.geometry)


def named(case: Case, dtype: torch.dtype, training: bool) -> str:
    """The way, for a table."""
    path = taken(case, dtype, training)
    return path if path == case.way else f"auto ({path})"


def ratios(
    cases: list[Case], dtype: torch.dtype, training: bool, rounds: int
) -> dict[Case, list[float]]:
    """Each case's time over that of the convolution right before it, after a round of warm-up."""
    found: dict[Case, list[float]] = {case: [] for case in cases}
    plain = step(cases[0].convolution, dtype, training)
    turns = {case: step(case, dtype, training) for case in cases}
    for turn in range(-1, rounds):
        shift = turn % len(cases)
        for case in cases[shift:] + cases[:shift]:
            base = plain()
            ratio = turns[case]() / base
            if turn >= 0:
                found[case].append(ratio)
    return found


def working_memory(case: Case, dtype: str) -> float:
    """MB of a training step in this process beyond its inputs, output and gradients."""
    way = taken(case, DTYPES[dtype], training=True)
    small = replace(case, images=2, size=8, way=way)
    step(small, DTYPES[dtype], training=True)()  # loads what the first call of a path loads
    turn = step(case, DTYPES[dtype], training=True)
    before = resident()
    reset_peak()
    turn()
    grown = peak() - before
    parts = tensors(case, DTYPES[dtype])
    output = case.images * case.filters * case.geometry.positions * parts[0].element_size()
    results = output + sum(part.numel() * part.element_size() for part in parts)
    return (grown - results) / 1e6


def resident() -> int:
    """Bytes this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def reset_peak() -> None:
    """Forgets the highest value of ``resident`` (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The highest value of ``resident`` since then."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10


def memory_in_a_process(index: int, dtype: str) -> float:
    """``working_memory`` of a case of MEMORY, measured by itself."""
    command = [sys.executable, __file__, "--memory", str(index), dtype]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def verdict(case: Case, dtype: str, ratio: float) -> str:
    """Whether the ratio of a training step is what was wanted."""
    if case.kind == "input":
        wanted = case.rank + 1.0
        return f"<= {wanted:.0f}: {'met' if ratio <= wanted else 'missed'}"
    floor = FLOORS.get((case.kind, dtype))
    if floor is None or case.rank < 4 or case.images < 128 or case.way != "auto":
        return ""
    if ratio <= GOAL:
        return f"<= {GOAL}: met"
    return f"<= {floor}: {'met' if ratio <= floor else 'missed'}; <= {GOAL}: missed"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short run; writes no file")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        index, dtype = arguments.memory
        print(working_memory(MEMORY[int(index)], dtype))
        return
    quick: bool = arguments.quick
    columns = ["dtype", "step", "layer", "N", "weights", "rank", "way", "n", "times", "wanted"]
    print(" | ".join(columns), flush=True)
    rows: list[list[object]] = []
    said: list[str] = []

    def measure(dtype: str, cases: list[Case], training: bool, rounds: int) -> None:
        word = "training" if training else "inference"
        for case, found in ratios(cases, DTYPES[dtype], training, rounds).items():
            low, middle, high = statistics.quantiles(found, n=4)
            times = f"{middle:.2f} ({low:.2f} to {high:.2f})"
            wanted = verdict(case, dtype, middle) if training else ""
            way = named(case, DTYPES[dtype], training)
            rank = case.rank or ""
            row = [dtype, word, case.name, case.images, case.kind, rank, way, rounds, times, wanted]
            rows.append(row)
            print(" | ".join(map(str, row)), flush=True)
            if wanted:
                said.append(
                    f"{dtype}, {case.name}, {case.kind}, rank {case.rank}: {middle:.2f} ({wanted})"
                )

    for dtype in DTYPES:
        measure(dtype, MAIN, True, 3 if quick else 9)
        measure(dtype, INFERENCE, False, 3 if quick else 9)
        measure(dtype, SMALL, True, 3 if quick else 9)
        if quick:
            continue
        measure(dtype, FORCED, True, 3)
        for group in OTHERS:
            measure(dtype, group, True, 5)
        measure(dtype, PEERS, True, 3)
    for dtype in DTYPES:
        for index, case in enumerate(MEMORY[:2] if quick else MEMORY):
            used = memory_in_a_process(index, dtype)
            parts = tensors(case, DTYPES[dtype])
            kept, *weights = (part.numel() * part.element_size() / 1e6 for part in parts)
            allowed = MEMORY_FLOOR * kept + sum(weights)
            met = "met" if kept + used <= allowed else "missed"
            text = f"{kept:.1f} MB kept and {used:.1f} MB of work"
            wanted = f"<= {allowed:.1f}: {met}" if case.kind == "map" else ""
            row = [dtype, "memory", case.name, case.images, case.kind, case.rank or ""]
            row += [named(case, DTYPES[dtype], True), 1, text, wanted]
            rows.append(row)
            print(" | ".join(map(str, row)), flush=True)
    said.append(
        "In brackets in the table: the middle half of the rounds. Negative work: a process "
        "reused memory that it had freed before, so that the figure says nothing."
    )
    reading = "Training step over a convolution's: " + "; ".join(said)
    print(reading)
    if quick:
        return
    threads = torch.get_num_threads()
    result = {
        "name": "local",
        "title": "What a local layer costs on a CPU, in convolutions",
        "command": "python benchmarks/local.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{hardware(torch.device('cpu'))}, {threads} threads",
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "numba": version("numba"),
        },
        "n": 9,
        "columns": columns,
        "rows": rows,
        "reading": reading,
    }
    write_json(Path(__file__).with_suffix(".json"), result)


if __name__ == "__main__":
    main()
