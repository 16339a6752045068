"""Whether SkipNet-M is as fast as its multiply-adds say, beside four compact networks of timm.

``python benchmarks/compact.py`` writes ``benchmarks/compact.json`` (about 8 minutes on two cores,
more than half of them spent compiling); with ``--quick`` it prints a short run, without compiled
networks and at a smaller batch, and writes nothing. Every network takes part in three forms:
as it is ("eager"); with its batch normalizations folded into the convolutions by
``torch.jit.freeze``; and compiled by ``torch.compile`` with frozen weights, which folds too and
also fuses. All of one precision run in one process and in turn, in an order drawn anew for each
round; "middle half" is that of the rounds. In float32 the three forms have to agree.

Images have 224 px and are in channels_last; "bfloat16" means weights and images of that type.
Latency is that of one image, throughput that of a batch of 64. Statistics of the batch
normalizations come from one batch of noise, so that no layer works on numbers out of range.
MobileNetV3-Large is also here in our form: between it and SkipNet-M without skips lie an expansion
in the first block and a wider sixth block, between that and SkipNet-M only the skips.
"""

import argparse
import datetime
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch._inductor.config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import convprior  # noqa: F401  registers our networks in timm
from convprior._files import write_json
from convprior.lab.train.run import hardware

OURS, WITHOUT, PEER = (
    "convprior_skipnet_m",
    "convprior_skipnet_m_no_skips",
    "mobilenetv3_large_100",
)
OTHERS = ("mobilenetv4_conv_small", "ghostnet_100", "efficientnet_lite0")
NETWORKS = (OURS, WITHOUT, "convprior_mobilenet_v3_large", PEER, *OTHERS)
# A compiled form takes 15 s, so those that add least are left out: our MobileNetV3-Large, which is
# timm's, and in bfloat16 single images and the other networks.
COMPILED = (OURS, WITHOUT, PEER, *OTHERS)
COMPILED_BF16 = (OURS, WITHOUT, PEER)
PRECISIONS = (torch.float32, torch.bfloat16)
FORMS = ("eager", "folded", "compiled")
COLUMNS = [
    *("network", "million MACs", "million parameters", "precision", "form"),
    *("one image: ms", "ms per billion MACs", "batch of 64: images/s", "ms per billion MACs"),
]

Network = Callable[[Tensor], Tensor]
Key = tuple[str, str, int]  # network, form, images in a batch


def build(name: str, x: Tensor) -> nn.Module:
    """A network of timm in evaluation mode, its statistics those of the images ``x``."""
    torch.manual_seed(0)
    model = timm.create_model(name).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(x)
    return model.eval()


def sizes(name: str) -> tuple[float, float]:
    """Multiply-adds of convolutions and linear layers for one image, and parameters."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = timm.create_model(name).eval()
        model(torch.empty(1, 3, 224, 224))
    return counter.get_total_flops() / 2, sum(p.numel() for p in model.parameters())


def in_form(model: nn.Module, form: str, x: Tensor) -> Network:
    """The network in one of the forms; ``x`` is an example."""
    if form == "compiled":
        return torch.compile(model, dynamic=False)
    if form == "eager":
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; what replaces it folds nothing
        return torch.jit.freeze(torch.jit.trace(model, x))


def measure(
    precision: torch.dtype, batches: tuple[int, int], forms: tuple[str, ...], rounds: int
) -> dict[Key, list[float]]:
    """Seconds of one call in each round, after two rounds of warm-up."""
    noise = torch.randn(batches[1], 3, 224, 224, generator=torch.Generator().manual_seed(0))
    noise = noise.to(memory_format=torch.channels_last)
    images = {batch: noise[:batch].to(precision) for batch in batches}
    networks: dict[Key, Network] = {}
    for name in NETWORKS:
        model = build(name, noise[:8]).to(precision)
        for form in forms:
            if form == "compiled" and name not in COMPILED:
                continue
            network = in_form(model, form, images[batches[0]])
            if precision == torch.float32:
                check_same(model(noise[:1]), network(noise[:1]), name, form)
            for batch in batches:
                if (form, precision) == ("compiled", torch.bfloat16) and (
                    batch == 1 or name not in COMPILED_BF16
                ):
                    continue
                networks[name, form, batch] = network
    keys = list(networks)
    times: dict[Key, list[float]] = {key: [] for key in keys}
    for turn in range(-2, rounds):
        for key in random.Random(turn).sample(keys, len(keys)):
            network, x = networks[key], images[key[2]]
            taken = [seconds(network, x) for _ in range(5 if key[2] == 1 else 1)]
            if turn >= 0:
                times[key].append(statistics.median(taken))
    return times


def check_same(eager: Tensor, other: Tensor, name: str, form: str) -> None:
    """Rounding moves logits by 1e-5 of their spread or so; another function would by far more."""
    if not (other - eager).abs().max() <= 1e-2 * eager.std():
        raise AssertionError(f"{name} computes something else when {form}")


def seconds(network: Network, x: Tensor) -> float:
    """Time of one call."""
    begun = time.perf_counter()
    network(x)
    return time.perf_counter() - begun


def quartiles(values: list[float], digits: int, unit: str = "") -> str:
    """Median, and the middle half of the rounds."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def rows_of(
    times: dict[Key, list[float]], precision: str, batches: tuple[int, int]
) -> list[list[object]]:
    """One row a network and form."""
    rows: list[list[object]] = []
    for name, form in dict.fromkeys(key[:2] for key in times):
        macs, parameters = sizes(name)
        row: list[object] = [name, f"{macs / 1e6:.0f}", f"{parameters / 1e6:.2f}", precision, form]
        latency = [1e3 * t for t in times.get((name, form, batches[0]), [])]
        per_mac = 1e9 / macs
        row += (
            [quartiles(latency, 2), f"{statistics.median(latency) * per_mac:.0f}"]
            if latency
            else ["", ""]
        )
        whole = times[name, form, batches[1]]
        rate = statistics.median(whole) / batches[1]
        row += [quartiles([batches[1] / t for t in whole], 1), f"{1e3 * rate * per_mac:.0f}"]
        rows.append(row)
    return rows


def compared(times: dict[Key, list[float]], precision: str, form: str, batch: int) -> str | None:
    """What SkipNet-M takes beside the peer, and beside itself without skips, in the same rounds."""
    if (OURS, form, batch) not in times:
        return None
    ours = times[OURS, form, batch]

    def ratios(name: str) -> list[float]:
        return [a / b for a, b in zip(ours, times[name, form, batch], strict=True)]

    skips = [100 * (ratio - 1) for ratio in ratios(WITHOUT)]
    many = "1 image" if batch == 1 else f"{batch} images"
    return (
        f"{precision}, {form}, {many}: {quartiles(ratios(PEER), 2)} times {PEER}'s time; "
        f"the skips add {quartiles(skips, 1, ' %')}."
    )


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short run; writes no file")
    quick: bool = parser.parse_args().quick
    batches, forms, rounds = ((1, 4), FORMS[:2], 3) if quick else ((1, 64), FORMS, 5)
    torch._inductor.config.freezing = True
    print(" | ".join(COLUMNS), flush=True)
    rows: list[list[object]] = []
    macs = {name: sizes(name)[0] for name in (OURS, WITHOUT, PEER)}
    sentences = [
        f"SkipNet-M has {macs[OURS] / macs[PEER]:.2f} times the multiply-adds of {PEER}; its skips "
        f"add {100 * (macs[OURS] / macs[WITHOUT] - 1):.1f} %."
    ]
    for dtype in PRECISIONS:
        precision = str(dtype).removeprefix("torch.")
        torch.compiler.reset()
        with torch.no_grad():
            times = measure(dtype, batches, forms, rounds)
        for row in rows_of(times, precision, batches):
            rows.append(row)
            print(" | ".join(map(str, row)), flush=True)
        said = [compared(times, precision, form, batch) for form in forms for batch in batches]
        sentences += [sentence for sentence in said if sentence]
    sentences.append("In brackets: the middle half of the rounds.")
    reading = " ".join(sentences)
    print(reading)
    if quick:
        return
    threads = torch.get_num_threads()
    result = {
        "name": "compact",
        "title": "Latency and throughput of compact networks at 224x224 px on a CPU",
        "command": "python benchmarks/compact.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{hardware(torch.device('cpu'))}, {threads} threads",
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
        "n": rounds,
        "columns": COLUMNS,
        "rows": rows,
        "reading": reading,
    }
    write_json(Path(__file__).with_suffix(".json"), result)


if __name__ == "__main__":
    main()
