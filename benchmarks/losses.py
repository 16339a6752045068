"""What Bias Loss adds to a training step.

``python benchmarks/losses.py`` writes ``benchmarks/losses.json`` (about 5 minutes on two cores);
with ``--quick`` it prints a short run and writes nothing. One network takes turns with two kinds
of step in one process: cross-entropy, and :class:`BiasLoss` with a :class:`FeatureTap` on the
tensor that the tap finds by itself. Both train the same weights, so nothing differs but the hook
and the loss; the order moves from round to round, and each round gives one ratio. The step is SGD
with momentum, the cheapest optimizer and so the severest peer.

The time inside the loss's own call is given too, as a share of the step it ran in: it hardly
depends on what else the machine does meanwhile. The backward pass of both losses is the same but
for one product of N numbers.
"""

import argparse
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import CrossEntropyLoss

from convprior._files import write_json
from convprior.lab.train.run import hardware
from convprior.losses import BiasLoss, FeatureTap
from convprior.models import create_model

NETWORKS = ("resnet18", "mobilenet_v2", "wrn16_2")
BATCHES = (32, 128)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
GOAL, PAPER = 3.0, 1.0  # % of a step, at most: ours, and what the paper's arithmetic allows

# Seconds of a whole step, and of the loss's call in it.
Step = Callable[[], tuple[float, float]]


def train_steps(name: str, batch: int, dtype: torch.dtype) -> dict[str, Step]:
    """Steps of one network with either loss: channels_last, SGD with momentum."""
    model = create_model(name, small_input=True, seed=0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=torch.channels_last)
    y = torch.arange(batch) % 10
    with FeatureTap(model, example_input=x[:2]) as found:
        layer, side = found.layer, found.side
    plain, bias = CrossEntropyLoss(), BiasLoss()

    def step(loss_of: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        begun = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(x)
        called = time.perf_counter()
        loss = loss_of(logits.float())
        added = time.perf_counter() - called
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.perf_counter() - begun, added

    def cross_entropy_step() -> tuple[float, float]:
        return step(lambda logits: plain(logits, y))

    def bias_step() -> tuple[float, float]:
        with FeatureTap(model, layer, side=side) as tap:
            return step(lambda logits: bias(logits, y, tap))

    return {"cross-entropy": cross_entropy_step, "BiasLoss + FeatureTap": bias_step}


def interleave(steps: dict[str, Step], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Runs each step once a round, in an order that moves, after two rounds of warm-up."""
    names = list(steps)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(-2, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            taken = steps[name]()
            if turn >= 0:
                times[name].append(taken)
    return times


def quartiles(values: list[float], digits: int, unit: str = "") -> str:
    """Median, and the middle half of the rounds."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short run; writes no file")
    quick: bool = parser.parse_args().quick
    rounds = 5 if quick else 11
    precisions = ["bf16"] if quick else list(PRECISIONS)
    batches = BATCHES[:1] if quick else BATCHES
    columns = [
        *("network", "batch", "precision", "ms with cross-entropy", "with Bias Loss / without"),
        *("in the calls, % of the step more", "ms more in the calls"),
    ]
    print(" | ".join(columns), flush=True)
    rows: list[list[object]] = []
    medians, calls = [], []
    for name in NETWORKS:
        for batch in batches:
            for precision in precisions:
                times = interleave(train_steps(name, batch, PRECISIONS[precision]), rounds)
                plain, bias = times.values()
                pairs = list(zip(plain, bias, strict=True))
                ratios = [b[0] / p[0] for p, b in pairs]
                shares = [100 * (b[1] - p[1]) / p[0] for p, b in pairs]
                milliseconds = [1e3 * (b[1] - p[1]) for p, b in pairs]
                rows.append(
                    [
                        *(name, batch, precision),
                        f"{1e3 * statistics.median(total for total, _ in plain):.1f}",
                        quartiles(ratios, 3),
                        quartiles(shares, 2, " %"),
                        f"{statistics.median(milliseconds):.2f}",
                    ]
                )
                medians.append(100 * (statistics.median(ratios) - 1))
                calls.append(statistics.median(shares))
                print(" | ".join(map(str, rows[-1])), flush=True)
    reading = (
        f"A step with Bias Loss and its tap takes {min(medians):+.1f} to {max(medians):+.1f} % "
        f"longer than with cross-entropy (wanted: <= {GOAL:.0f} %), and {min(calls):.2f} to "
        f"{max(calls):.2f} % of the step is in the loss's call beyond cross-entropy's (wanted: <= "
        f"{PAPER:.0f} %). In brackets: the middle half of the rounds."
    )
    print(reading)
    if quick:
        return
    threads = torch.get_num_threads()
    result = {
        "name": "losses",
        "title": "What Bias Loss adds to a training step at 32x32 px on a CPU",
        "command": "python benchmarks/losses.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{hardware(torch.device('cpu'))}, {threads} threads",
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
        "n": rounds,
        "columns": columns,
        "rows": rows,
        "reading": reading,
    }
    write_json(Path(__file__).with_suffix(".json"), result)


if __name__ == "__main__":
    main()
