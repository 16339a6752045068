"""The GPU path without a GPU: in Triton's interpreter against float64, and compiled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convprior.local import gpu
from convprior.local.geometry import Geometry

pytest.importorskip("triton", reason="no CUDA device, and Triton is not installed")

CASES = [
    "same",
    "strided",
    "channels last",
    "stride 2",
    "uneven",
    "taps that meet no input",
    "groups",
    "rows",
    "columns",
    "blocks of channels",
    "blocks of samples",
    "rank above the unrolled",
    "rank above one launch",
    "bfloat16",
    "float16",
    "empty batch",
    "local",
    "local, groups",
    "local, bfloat16",
]
# What a program may ask for: 99 KB on consumer GPUs of compute capability 8.6 to 12.
SHARED_MEMORY = 101376


def answer(program: str, *arguments: str, **environment: str) -> dict:
    """The JSON that a program of this folder prints; what Triton reads at import needs its own."""
    path = Path(__file__).with_name(program)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    run = subprocess.run(
        [sys.executable, path, *arguments], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def errors() -> dict:
    return answer("triton_interpreted.py", TRITON_INTERPRET="1")


@pytest.mark.parametrize("case", CASES)
def test_a_pass_in_the_interpreter_is_as_right_as_rounding_allows(errors, case):
    """The output, then the gradients; in units of the allowed error."""
    assert max(errors[case]) <= 1.0


def test_every_case_is_looked_at(errors):
    assert list(errors) == CASES


def test_the_kernels_compile_and_fit_into_shared_memory(tmp_path):
    memory = answer("triton_compiled.py", "90", TRITON_CACHE_DIR=str(tmp_path))
    assert set(memory) == {"gather", "mixture_gradient", "kernel_gradient"}
    assert max(memory.values()) <= SHARED_MEMORY


def test_a_cpu_tensor_is_declined_with_the_reason():
    geometry = Geometry.of_conv(4, 3)
    x, bases, weights = torch.ones(1, 2, 4, 4), torch.ones(2, 3, 2, 3, 3), torch.ones(2, 2, 2)
    assert not gpu.available(x, bases, weights, geometry)
    assert "cpu, not on an NVIDIA GPU" in str(gpu.why_not(x, bases, weights, geometry))
    each = weights.expand(1, 2, 2, 2)
    assert "each sample" in str(gpu.why_not(x, bases, each, geometry))
    assert not gpu.available_given(x, torch.ones(2, 2, 3, 2, 3, 3), geometry)
