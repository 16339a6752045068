"""Which floating-point type the network computes in; weights and their updates stay float32."""

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

# Multiply-add instructions on bf16 as the kernel names them: AVX-512, AMX, Arm.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def compute_dtype(choice: Literal["auto", "bf16", "fp32"], device: torch.device) -> torch.dtype:
    """The type of activations and of the weights' copies that meet them.

    Args:
        choice: ``auto`` takes bf16 where the hardware multiplies it and fp32 elsewhere.
        device: where the network runs.

    Returns:
        torch.bfloat16 or torch.float32; warns when bf16 is asked for and must be emulated.
    """
    if choice == "fp32":
        return torch.float32
    if bf16_in_hardware(device):
        return torch.bfloat16
    if choice == "bf16":
        warnings.warn(
            f"budget.precision = 'bf16' is emulated on this {device.type} and likely slower than "
            "'fp32'; 'auto' chooses by hardware",
            stacklevel=2,
        )
        return torch.bfloat16
    return torch.float32


def bf16_in_hardware(device: torch.device) -> bool:
    """Whether ``device`` has instructions that multiply bf16 numbers."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _cpu_has_bf16()


@lru_cache(maxsize=1)
def _cpu_has_bf16() -> bool:
    # oneDNN has the kernels; the type checker misses its annotation.
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not _CPU_FLAGS.isdisjoint(flags.split())
