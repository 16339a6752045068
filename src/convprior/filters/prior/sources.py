"""Which filters a prior is measured from: one kernel size of a network, a file or a weight."""

import math
import os
from pathlib import Path

from torch import nn

from convprior.errors import InputError
from convprior.filters.filter_banks import FilterBank, Source, filter_banks
from convprior.filters.laws import KernelSize, as_kernel_size


def all_banks(source: Source, layer: str | None = None) -> list[FilterBank]:
    """The convolutions of ``source``; a single one without a name is called by what it is.

    Raises:
        InputError: there is no convolution in it, or ``layer`` matches none.
    """
    if isinstance(source, str | os.PathLike) and Path(source).is_dir():
        source = Path(source) / "weights.safetensors"
    banks = filter_banks(source, layer)
    if len(banks) == 1 and not banks[0].name:
        name = str(source) if isinstance(source, nn.Module) else "this weight"
        return [FilterBank(name, banks[0].weight, banks[0].kind, banks[0].stride)]
    return banks


def banks_of_one_size(
    source: Source, layer: str | None, kernel_size: KernelSize | None
) -> list[FilterBank]:
    """Those of one kernel size, by default the only one beyond 1x1.

    Raises:
        InputError: there are several sizes, or none of that size; the message lists them.
    """
    banks = all_banks(source, layer)
    sizes = [size_of(bank) for bank in banks]
    listed = ", ".join(f"{size} ({sizes.count(size)})" for size in sorted(set(sizes)))
    large = {size for size in sizes if math.prod(size) > 1} or set(sizes[:1])
    if kernel_size is None and len(large) > 1:
        raise InputError(
            f"there are convolutions of several kernel sizes (layers): {listed}; choose one with "
            "kernel_size=, or a layer"
        )
    wanted = large.pop() if kernel_size is None else as_kernel_size(kernel_size)
    if wanted not in sizes:
        raise InputError(f"no convolution has kernel size {wanted}; there is {listed}")
    return [bank for bank, size in zip(banks, sizes, strict=True) if size == wanted]


def size_of(bank: FilterBank) -> tuple[int, ...]:
    """The kernel size of a bank."""
    return tuple(bank.weight.shape[2:])
