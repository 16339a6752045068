"""Compiles what a GPU would run, without one: the interpreter forgives what the compiler does not.

Run by test_triton.py with the compute capability to compile for; prints the shared memory that
each kernel asks for, in bytes, as JSON.
"""

import functools
import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget

from convprior.local import gpu
from convprior.local.geometry import Geometry
from convprior.local.gpu import passes


class NoDevice:
    """Answers what compilation asks of a driver."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled_only(kernel, memory: dict[str, int]) -> None:
    """Calls of ``kernel`` compile and do not launch."""
    compile_ = kernel.run

    @functools.wraps(compile_)
    def run(*args, **options):
        made = compile_(*args, **{**options, "warmup": True})
        memory[kernel.__name__] = max(memory.get(kernel.__name__, 0), made.metadata.shared)

    kernel.run = run


if __name__ == "__main__":
    triton.runtime.driver.set_active(NoDevice(int(sys.argv[1])))
    passes.gather.configs = passes.gather.configs[-1:]  # the largest; one needs no timing
    memory: dict[str, int] = {}
    for kernel in (passes.gather.fn, passes.mixture_gradient, passes.kernel_gradient):
        compiled_only(kernel, memory)
    geometry = Geometry.of_conv(4, 3, padding=1)
    x, bases = torch.ones(128, 64, 4, 4), torch.ones(2, 64, 64, 3, 3)
    gpu.backward(x.bfloat16(), bases.bfloat16(), torch.ones(2, 4, 4), x.bfloat16(), geometry)
    weight = torch.ones(4, 4, 64, 64, 3, 3)
    gpu.forward_given(x, weight, geometry)
    gpu.backward_given(x, weight, x, geometry, (False, True))
    # Numbers that are one are compiled in.
    one = torch.ones(1, 1, 1, 1)
    gpu.backward(one, one[None], one[0], one, Geometry.of_conv(1, 1))
    print(json.dumps(memory))
