"""Combining weights: how much of each basis a position takes."""

from typing import Literal

import torch
from torch import Tensor, nn

WeightsMode = Literal["separable", "map", "rows", "columns", "input"]
Normalize = Literal["softmax", "l2"] | None


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
