"""What LocoReg adds to a training step.

``python benchmarks/locoreg.py`` writes ``benchmarks/locoreg.json`` (about 7 minutes on two
cores); with ``--quick`` it prints a short run and writes nothing. One network takes turns with
several kinds of step in one process: without LocoReg, with ``decay_``, with the penalty in the
loss, with ``add_gradient_``; at the smaller batch, where LocoReg's part is largest, also with the
full precision of a correlated prior in each of these forms ("full"). The order moves from round
to round, and each round gives one ratio per form. The learning rate changes at every step, as
under a schedule, so ``decay_`` never reuses its factors. The step is SGD with momentum, the
cheapest optimizer and so the severest peer.

The time inside LocoReg's own calls is given too, as a share of the step it ran in: it hardly
depends on what else the machine does meanwhile. For ``decay_`` and ``add_gradient_`` that is all
they add; for the penalty it is forward and backward of its node, without the addition of its
gradient to the network's, which autograd does.
"""

import argparse
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from convprior._files import write_json
from convprior.filters import FilterPrior, LocoReg
from convprior.filters.laws import Law
from convprior.lab.train.run import hardware
from convprior.models import create_model

CASES = (("wrn16_2", 32), ("wrn16_2", 128), ("resnet18", 32), ("resnet18", 128))
FORMS = ("decay_", "penalty in the loss", "add_gradient_")
FULL = ", full"  # ends the name of a form with correlated taps
FLOORS = {"decay_": 3.0, "penalty in the loss": 5.0, "add_gradient_": 5.0}  # % of a step, at most
ADAMW_FLOOR = 1.35  # times plain AdamW's step, at most
STRENGTH = 2.5e-4

SMOOTH = FilterPrior.correlated(3, "matern32", lengthscale=1.0)

# Seconds of a whole step, and of LocoReg's calls in it.
Step = Callable[[int], tuple[float, float]]


def train_step(name: str, batch: int, form: str) -> Step:
    """One step of a network of its own: bf16 autocast, channels_last, SGD with momentum."""
    model = create_model(name, small_input=True, seed=0).to(memory_format=torch.channels_last)
    law: Law | FilterPrior = SMOOTH if form.endswith(FULL) else "quadratic"
    reg = LocoReg(model, STRENGTH, law)
    groups = LocoReg.param_groups(model, 2 * STRENGTH, law=law)
    form = form.removesuffix(FULL)
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    reg.check_optimizer(optimizer)
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=torch.channels_last)
    y = torch.arange(batch) % 10

    def step(turn: int) -> tuple[float, float]:
        lr = 0.01 / (1 + turn)
        for group in optimizer.param_groups:
            group["lr"] = lr
        begun = time.perf_counter()
        added = 0.0
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
        loss = cross_entropy(logits.float(), y)
        backward: list[float] = []
        if form == "penalty in the loss":
            called = time.perf_counter()
            penalty = reg()
            added = time.perf_counter() - called
            node = penalty.grad_fn.next_functions[0][0]  # below the multiplication by the strength
            node.register_prehook(lambda _: backward.append(-time.perf_counter()))
            node.register_hook(lambda *_: backward.append(time.perf_counter()))
            loss = loss + penalty
        optimizer.zero_grad()
        loss.backward()
        added += sum(backward)
        if form in ("decay_", "add_gradient_"):
            called = time.perf_counter()
            reg.decay_(lr) if form == "decay_" else reg.add_gradient_()
            added = time.perf_counter() - called
        optimizer.step()
        return time.perf_counter() - begun, added

    return step


def adamw_step(name: str, fused: bool, form: str) -> Step:
    """AdamW's step alone on gradients that are there, with and without ``decay_`` before it."""
    model = create_model(name, small_input=True, seed=0).to(memory_format=torch.channels_last)
    law: Law | FilterPrior = SMOOTH if form.endswith(FULL) else "quadratic"
    reg = LocoReg(model, STRENGTH, law)
    groups = LocoReg.param_groups(model, 2 * STRENGTH, law=law)
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=fused)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)

    def step(turn: int) -> tuple[float, float]:
        lr = 1e-3 / (1 + turn)
        for group in optimizer.param_groups:
            group["lr"] = lr
        begun = time.perf_counter()
        if form != "without":
            reg.decay_(lr)
        optimizer.step()
        return time.perf_counter() - begun, 0.0

    return step


def interleave(steps: dict[str, Step], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Runs each step once a round, in an order that moves, after two rounds of warm-up."""
    names = list(steps)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(-2, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            taken = steps[name](turn + 2)
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
    rounds, adamw_rounds = (5, 10) if quick else (24, 120)
    columns = ["step", "batch", "form", "ms (median)", "with / without", "its calls, % of the step"]
    print(" | ".join(columns), flush=True)
    rows: list[list[object]] = []
    sentences = []

    def record(row: list[object]) -> None:
        rows.append(row)
        print(" | ".join(map(str, row)), flush=True)

    for name, batch in CASES:
        full = [form + FULL for form in FORMS] if batch == min(b for _, b in CASES) else []
        names = ("without", *FORMS, *full)
        forms = {form: train_step(name, batch, form) for form in names}
        times = interleave(forms, rounds)
        plain = [total for total, _ in times["without"]]
        said = []
        for form, taken in times.items():
            ratios = [total / base for (total, _), base in zip(taken, plain, strict=True)]
            shares = [100 * added / total for total, added in taken]
            call = quartiles(shares, 2, " %") if any(shares) else ""
            ratio = "1" if form == "without" else quartiles(ratios, 3)
            milliseconds = f"{1e3 * statistics.median(total for total, _ in taken):.1f}"
            record([name, batch, form, milliseconds, ratio, call])
            if form != "without":
                wanted = f" (wanted: <= {FLOORS[form]:.0f} %)" if form in FLOORS else ""
                said.append(f"{form} {100 * (statistics.median(ratios) - 1):+.1f} %{wanted}")
        sentences.append(f"{name} at batch {batch}: {', '.join(said)}.")
    for fused in (False, True):
        kind = "AdamW(fused)" if fused else "AdamW"
        step = f"{kind} alone, resnet18"
        names = ("without", "decay_", "decay_" + FULL)
        times = interleave({f: adamw_step("resnet18", fused, f) for f in names}, adamw_rounds)
        base = [total for total, _ in times["without"]]
        said = []
        for form, taken in times.items():
            ratios = [total / b for (total, _), b in zip(taken, base, strict=True)]
            milliseconds = f"{1e3 * statistics.median(total for total, _ in taken):.1f}"
            ratio = "1" if form == "without" else quartiles(ratios, 3)
            record([step, "", form, milliseconds, ratio, ""])
            if form != "without":
                wanted = f" (wanted: < {ADAMW_FLOOR})" if form == "decay_" else ""
                said.append(f"{statistics.median(ratios):.2f} times as long with {form}{wanted}")
        sentences.append(f"{kind}'s step on resnet18 takes {' and '.join(said)} before it.")
    sentences.append("In brackets: the middle half of the rounds.")
    reading = " ".join(sentences)
    print(reading)
    if quick:
        return
    threads = torch.get_num_threads()
    result = {
        "name": "locoreg",
        "title": "What LocoReg adds to a training step at 32x32 px on a CPU",
        "command": "python benchmarks/locoreg.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{hardware(torch.device('cpu'))}, {threads} threads, bf16 autocast",
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
        "n": rounds,
        "columns": columns,
        "rows": rows,
        "reading": reading,
    }
    write_json(Path(__file__).with_suffix(".json"), result)


if __name__ == "__main__":
    main()
