"""Combining weights: how much of each basis a position takes."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

WeightsMode = Literal["separable", "map", "rows", "columns", "input"]
Normalize = Literal["softmax", "l2"] | None

# Which tables are added up, for the logits and for the spatial bias.
LOGIT_TABLES: dict[str, tuple[str, ...]] = {
    "separable": ("row", "column"),
    "map": ("map",),
    "rows": ("row",),
    "columns": ("column",),
    "input": (),
}
BIAS_TABLES = {**LOGIT_TABLES, "input": ("map",)}


def table_shape(table: str, output_size: tuple[int, int]) -> tuple[int, int]:
    """The shape in which a table is added to the others: (H', 1), (1, W') or (H', W')."""
    rows, columns = output_size
    return {"row": (rows, 1), "column": (1, columns), "map": (rows, columns)}[table]


def sum_of_tables(tables: Mapping[str, Tensor], output_size: tuple[int, int], *lead: int) -> Tensor:
    """Adds up tables over positions.

    Args:
        tables: "row" (*lead, H'), "column" (*lead, W'), "map" (*lead, H', W') or in 1-d
            (*lead, L'): some of them.
        output_size: (H', W'), in 1-d (1, L').
        lead: K for logits, nothing for biases.

    Returns:
        (*lead, H', W'), with 1 for H' or W' where no table depends on it.
    """
    parts = [t.reshape(*lead, *table_shape(name, output_size)) for name, t in tables.items()]
    return sum(parts[1:], parts[0])


def normalized(logits: Tensor, normalize: Normalize, dim: int) -> Tensor:
    """Logits to weights along ``dim``; half-precision logits give float32 weights.

    ``softmax``: ``exp(l_k) / sum_m exp(l_m)``. ``l2``: ``l_k / sqrt(sum_m l_m^2)``, with a norm
    of at least 1e-6. None: the logits themselves.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if normalize == "softmax":
        return logits.softmax(dim)
    return nn.functional.normalize(logits, dim=dim, eps=1e-6) if normalize == "l2" else logits


def first_logit(rank: int, tables: int) -> float:
    """What every entry of ``tables`` tables starts with: together ``1 / sqrt(rank)``.

    Without normalization K independent bases then add up to the variance of one; any constant is
    the same to the softmax.
    """
    return 1.0 / (tables * math.sqrt(rank))
