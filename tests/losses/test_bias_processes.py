"""Two processes with unequal and empty shares train as one process on the joint batch."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("two_processes_losses.py")
PROGRAM = runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-W", "error", SCRIPT, f"file://{folder / 'meeting'}"),
                *(str(rank), "2", folder / f"{rank}.safetensors"),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    return [load_file(folder / f"{rank}.safetensors") for rank in (0, 1)]


@pytest.mark.parametrize("case", PROGRAM["CASES"])
def test_two_processes_are_one(case, shares):
    for name, wanted in PROGRAM["results_of"](case, 0, 1).items():
        first, second = (share[f"{case}: {name}"] for share in shares)
        assert torch.equal(first, second), name
        torch.testing.assert_close(first, wanted, rtol=0, atol=1e-12, msg=name)
