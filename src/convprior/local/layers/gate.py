"""Combining weights from the input: a small network beside the layer.

Paper: Elsayed et al., ICML 2020 (arXiv 2002.02959).

Reference code: google-research/google-research, folder ``low_rank_local_connectivity``.

Differences: the last convolution starts with zeros, so that a fresh layer is a convolution;
``reset_parameters(uniform=False)`` draws it as theirs.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convprior.errors import InputError
from convprior.local.layers.combining import first_logit
from convprior.local.paths.dispatch import needs_plain

CHUNK_BYTES = 8 << 20
"""The largest step in between takes at most about this on a CPU, whatever the number of samples."""

_DILATIONS = (1, 2, 4, 8)


class InputGate(nn.Module):
    """Logits that depend on the input: what is here, on average, and in growing neighborhoods.

    ``z`` is a 1x1 convolution to K channels. Its branches are ``z``, its mean over the image, and
    for each dilation 1, 2, 4, 8 that fits into the image a 3x3 depthwise convolution of it without
    padding. Resized to (H', W') and concatenated they go through 1x1 convolutions: to 3K channels
    and a ReLU, to 6K and a sigmoid, to K. In 1-d the neighborhoods are of 3 positions.

    Its weights are no ``nn.Conv2d``, so that nothing takes them for filters of the network.

    Args:
        in_channels: C.
        rank: K.
        input_size: (H, W), or (L,).
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        rank: int,
        input_size: tuple[int, ...],
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        largest = (min(input_size) - 1) // 2
        self.dilations = tuple(d for d in _DILATIONS if d <= largest)
        window = (3, 3) if len(input_size) == 2 else (1, 3)
        merged = (2 + len(self.dilations)) * rank
        shapes = {"reduce": (rank, in_channels, 1, 1)}
        shapes |= {f"context{d}": (rank, 1, *window) for d in self.dilations}
        shapes["merge"] = (3 * rank, merged, 1, 1)
        shapes["widen"] = (6 * rank, 3 * rank, 1, 1)
        shapes["logits"] = (rank, 6 * rank, 1, 1)
        for name, shape in shapes.items():
            weight = torch.empty(shape, device=device, dtype=dtype)
            self.register_parameter(f"{name}_weight", nn.Parameter(weight))
            self.register_parameter(f"{name}_bias", nn.Parameter(weight.new_empty(shape[0])))
        self.rank = rank
        self.reset_parameters()

    def reset_parameters(self, *, uniform: bool = True) -> None:
        """Draws the weights again (Glorot's uniform law), with zero biases.

        Args:
            uniform: start with equal logits ``1 / sqrt(K)`` whatever the input, by zeros in the
                last convolution: the layer then is a convolution at first.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("_weight"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
        if uniform:
            nn.init.zeros_(self.get_parameter("logits_weight"))
            nn.init.constant_(self.get_parameter("logits_bias"), first_logit(self.rank, 1))

    def check_fits(self, input_size: Sequence[int]) -> None:
        """Refuses inputs smaller than the widest neighborhood.

        Raises:
            InputError: they are.
        """
        reach = 2 * max(self.dilations, default=0) + 1
        if min(input_size) < reach:
            raise InputError(
                f"the new input size is {tuple(input_size)} and the gate looks at neighborhoods of "
                f"{reach}; give at least that, or make a new layer"
            )

    def forward(self, x: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Maps (N, C, H, W) to logits (N, K, H', W'); in 1-d H = H' = 1.

        Nothing but ``x`` is kept for the gradient: the steps in between are several times larger
        and cost next to nothing to compute again. They are of a few samples at a time, since
        memory that is asked for anew costs more than what happens in it.
        """
        weights = {name: getattr(self, name) for name in self._parameters}
        if needs_plain(x) or not len(x):
            return gate_logits(x, weights, self.dilations, output_size)
        # The tensors go in as arguments: by the time of the gradient, torch.func.functional_call
        # may have put others in their place.
        logits = [
            checkpoint(
                gate_logits,
                *(some, weights, self.dilations, output_size),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for some in torch.split(x, self._samples(x, output_size))
        ]
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def _samples(self, x: Tensor, output_size: tuple[int, int]) -> int:
        """How many are computed at once."""
        if x.device.type != "cpu":
            return len(x)
        largest = 6 * self.rank * output_size[0] * output_size[1] * x.element_size()
        return max(CHUNK_BYTES // largest, 1)


def gate_logits(
    x: Tensor,
    weights: Mapping[str, Tensor],
    dilations: Sequence[int],
    output_size: tuple[int, int],
) -> Tensor:
    """The function of :class:`InputGate`, of its parameters by name."""

    def conv(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        weight, bias = weights[f"{name}_weight"], weights[f"{name}_bias"]
        groups = x.shape[1] // weight.shape[1]
        return nn.functional.conv2d(x, weight, bias, dilation=dilation, groups=groups)

    z = conv(x, "reduce")
    # Under autocast all but the products is done in full precision: on a CPU the gradients of
    # depthwise convolutions with a dilation are slow in bfloat16.
    full = weights["reduce_weight"].dtype
    lowered = z.dtype != full
    with torch.autocast(x.device.type, enabled=False) if lowered else nullcontext():
        z = z.to(full)
        own = _resized(z, output_size)
        # Added to zeros, so that all branches have one memory format, which cat then keeps.
        branches = [own, torch.zeros_like(own) + z.mean((2, 3), keepdim=True)]
        branches += [_resized(conv(z, f"context{d}", d), output_size) for d in dilations]
    h = conv(torch.cat(branches, 1), "merge").relu()
    return conv(conv(h, "widen").sigmoid(), "logits")


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[2:]) == size:
        return x
    return nn.functional.interpolate(x, size, mode="bilinear", align_corners=True)
