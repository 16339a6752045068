"""Which path a layer takes, and where ordinary operations must be left to those who look."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from convprior.local import plain
from convprior.local.geometry import Geometry
from convprior.local.paths import PATHS, gather, mix, use_path
from convprior.local.paths.cost import RATES, Problem, seconds
from convprior.local.paths.dispatch import KEPT_BYTES, choose, choose_given, why_not

GEOMETRY = Geometry((32, 32), (3, 3), padding=(1, 1, 1, 1))
SMALL = Geometry((6, 5), (3, 3), padding=(1, 1, 1, 1))


def parts(
    geometry: Geometry, *, images: int, rank: int, channels: int, kind: str = "map"
) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = geometry.output_size
    shape = {
        "map": (rank, rows, columns),
        "rows": (rank, rows, 1),
        "input": (images, rank, rows, columns),
    }[kind]
    x = torch.randn(images, channels, *geometry.input_size, requires_grad=True)
    bases = torch.randn(rank, channels, channels, *geometry.kernel_size, requires_grad=True)
    return x, bases, torch.rand(shape, requires_grad=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["map", "rows", "input"])
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("images", [1, 8, 64])
def test_auto_takes_the_cheapest(images: int, rank: int, kind: str, training: bool) -> None:
    found = parts(GEOMETRY, images=images, rank=rank, channels=16, kind=kind)
    with torch.set_grad_enabled(training):
        chosen = choose(*found, GEOMETRY)
        problem = Problem.of(*found, GEOMETRY)
    able = [path for path in PATHS if why_not(path, *found, GEOMETRY) is None]
    if training and images * rank * 16 * GEOMETRY.positions * 4 > KEPT_BYTES:
        able.remove("plain")  # it would keep K outputs
    assert seconds(chosen, problem) == min(seconds(path, problem) for path in able)


@pytest.mark.parametrize("kind", ["map", "rows", "input"])
@pytest.mark.parametrize(("images", "rank"), [(1, 2), (2, 4), (8, 2), (9, 2), (16, 8)])
def test_what_auto_keeps_beside_its_inputs(images: int, rank: int, kind: str) -> None:
    """Nothing, or K outputs of ``KEPT_BYTES`` at most in all; "plain" would keep them at any size.

    At 16 channels of 16x16, eight images and rank two are the limit.
    """
    geometry = Geometry((16, 16), (3, 3), padding=(1, 1, 1, 1))
    found = parts(geometry, images=images, rank=rank, channels=16, kind=kind)
    outputs = images * rank * 16 * geometry.positions * 4

    def kept_by(path: str) -> int:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = mix(*found, geometry, path)
        assert y.requires_grad
        return sum(size for at, size in kept.items() if at not in {p.data_ptr() for p in found})

    assert kept_by("plain") == outputs
    assert kept_by("auto") in ((0, outputs) if outputs <= KEPT_BYTES else (0,))


EXAMPLE = Problem(128, 8, 32, 32, 1024, 64 * 64 * 9, 64, True, "cpu", torch.float32)


@pytest.mark.parametrize(
    ("problem", "cheapest"),
    [
        (EXAMPLE, "kernels_first"),
        (replace(EXAMPLE, rank=4), "kernels_first"),
        (replace(EXAMPLE, dtype=torch.bfloat16), "kernels_first"),
        (replace(EXAMPLE, rank=1), "recompute"),  # "conv" by another name: nothing to mix
        (replace(EXAMPLE, images=1), "recompute"),  # a mixed kernel would serve one image
        (replace(EXAMPLE, images=1, training=False), "recompute"),
    ],
)
def test_kernels_first_pays_with_rank_and_batch(problem: Problem, cheapest: str) -> None:
    """Without compiled paths: the crossover of K (1 + f) against K / N, see ``cost``."""
    ours = ("kernels_first", "recompute")
    assert min(ours, key=lambda path: seconds(path, problem)) == cheapest
    assert seconds("compiled", problem) < seconds("kernels_first", problem)


def test_more_work_never_costs_less() -> None:
    for path in PATHS:
        for device, size in RATES:
            dtype = torch.float32 if size == 4 else torch.bfloat16
            base = replace(EXAMPLE, device=device, dtype=dtype, training=False)
            cost = seconds(path, base)
            assert seconds(path, replace(base, training=True)) > cost
            assert seconds(path, replace(base, images=256)) > cost
            assert seconds(path, replace(base, rank=16)) >= cost


def test_use_path_counts_where_a_call_names_none() -> None:
    found = parts(SMALL, images=2, rank=2, channels=3)
    weight = torch.randn(*SMALL.output_size, 3, 3, 3, 3)
    with use_path("recompute"):
        assert choose(*found, SMALL) == "recompute"
        assert choose(*found, SMALL, "kernels_first") == "kernels_first"
        with use_path("plain"):
            assert choose(*found, SMALL) == "plain"
            assert choose_given(found[0], weight, SMALL) == "plain"
        assert choose(*found, SMALL) == "recompute"
    with use_path("kernels_first"):
        assert choose_given(found[0], weight, SMALL) == "kernels_first"


# torch's own rules for forward mode, and its tracer, warn that torch.jit is deprecated.
OLD_JIT = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")


@OLD_JIT
@pytest.mark.parametrize("kind", ["map", "input"])
def test_transforms_and_forward_mode_see_ordinary_operations(kind: str) -> None:
    x, bases, weights = (
        part.detach().double() for part in parts(SMALL, images=2, rank=2, channels=3, kind=kind)
    )

    def function(bases: Tensor) -> Tensor:
        return mix(x, bases, weights, SMALL, "recompute")

    def wanted(bases: Tensor) -> Tensor:
        return plain.mix_outputs(x, bases, weights, SMALL)

    direction = torch.randn_like(bases)
    found = torch.func.jvp(function, (bases,), (direction,))
    torch.testing.assert_close(found, torch.func.jvp(wanted, (bases,), (direction,)))
    both = torch.stack([bases, 2 * bases])
    torch.testing.assert_close(torch.vmap(function)(both), torch.vmap(wanted)(both))
    rows = torch.func.jacrev(lambda b: function(b).sum((0, 2, 3)))(bases)
    torch.testing.assert_close(rows, torch.func.jacrev(lambda b: wanted(b).sum((0, 2, 3)))(bases))


@OLD_JIT
def test_a_trace_holds_ordinary_operations() -> None:
    found = [part.detach() for part in parts(SMALL, images=2, rank=2, channels=3)]
    traced = torch.jit.trace(lambda x: mix(x, *found[1:], SMALL, "recompute"), (found[0],))
    assert "convolution" in str(traced.graph)
    torch.testing.assert_close(traced(found[0]), mix(*found, SMALL, "recompute"))


def test_an_empty_batch() -> None:
    x, bases, weights = parts(SMALL, images=2, rank=2, channels=3)
    y = mix(x[:0], bases, weights, SMALL, "kernels_first")
    assert y.shape == (0, 3, *SMALL.output_size)
    y.sum().backward()
    assert not bases.grad.any()
    weight = torch.randn(*SMALL.output_size, 3, 3, 3, 3)
    assert gather(x[:0], weight, SMALL).shape == (0, 3, *SMALL.output_size)


def test_autocast_around_a_path_changes_nothing_in_it() -> None:
    found = parts(SMALL, images=2, rank=2, channels=3)
    for path in ("kernels_first", "recompute"):
        alone = mix(*found, SMALL, path)
        grads = torch.autograd.grad(alone.sum(), found)
        with torch.autocast("cpu", torch.bfloat16):
            inside = mix(*found, SMALL, path)
            inside_grads = torch.autograd.grad(inside.sum(), found)
        assert torch.equal(inside, alone)
        assert all(map(torch.equal, inside_grads, grads))
