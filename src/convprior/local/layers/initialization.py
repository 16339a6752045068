"""How fresh local layers are drawn."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["variance", "authors"]
LocalInit = Literal["fan_in", "keras"]


@torch.no_grad()
def draw_bases_(weight: Tensor, init: Init, gain: float) -> None:
    """Draws filter banks: ``N(0, gain^2 2 / fan_in)``, or the authors' uniform law.

    The authors draw each basis from He's uniform law, whatever the rank. Under a softmax the first
    effective kernel is their mean, with a K-th of the variance; ``gain = sqrt(K)`` makes up for it.

    Args:
        weight: (K F, C / groups, *kernel_size); numbers do not depend on its memory format.
        init: "variance" or "authors".
        gain: on the standard deviation, for "variance".

    Source: He et al. (arXiv 1502.01852), equation 10; the gain is our choice.
    """
    fresh = torch.empty_like(weight, memory_format=torch.contiguous_format)
    if init == "authors":
        nn.init.kaiming_uniform_(fresh, nonlinearity="relu")
    else:
        nn.init.normal_(fresh, std=gain * math.sqrt(2.0 / weight[0].numel()))
    weight.copy_(fresh)


def draw_local_(weight: Tensor, init: LocalInit, position_axes: int) -> None:
    """Draws the kernels of every position: ``N(0, 2 / fan_in)``, or Keras' uniform law.

    Keras' ``LocallyConnected`` layers count the positions as inputs of a filter, so that their
    he_uniform kernels are ``sqrt(positions)`` too small; kept for comparison.

    Args:
        weight: (*positions, F, C / groups, *kernel_size).
        init: "fan_in" or "keras".
        position_axes: 1 or 2.
    """
    fan_in = math.prod(weight.shape[position_axes + 1 :])
    if init == "keras":
        bound = math.sqrt(6.0 / (math.prod(weight.shape[:position_axes]) * fan_in))
        nn.init.uniform_(weight, -bound, bound)
    else:
        nn.init.normal_(weight, std=math.sqrt(2.0 / fan_in))
