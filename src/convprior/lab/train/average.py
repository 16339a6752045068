"""An exponential moving average of the weights (Polyak averaging with a fading memory)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average ``m <- d m + (1 - d) w`` of every floating-point tensor of a network.

    At update ``t`` the decay is ``d = min(decay, (1 + t) / (10 + t))``, the rule of TensorFlow's
    ExponentialMovingAverage, so that a short run does not end at its random start. The running
    statistics of batch normalization are averaged with the same weights as the parameters.

    Args:
        model: the network whose tensors are followed; they must stay the same objects.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        live = model.state_dict(keep_vars=True)
        self._live = {n: t.detach() for n, t in live.items() if t.is_floating_point()}
        self.mean = {name: tensor.clone() for name, tensor in self._live.items()}
        self._pair = (list(self.mean.values()), list(self._live.values()))

    def update(self, step: int) -> None:
        """Takes in the weights after optimizer step ``step`` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._pair, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the network has the averaged weights."""
        mean, live = self._pair
        held: list[Tensor] = [tensor.clone() for tensor in live]
        torch._foreach_copy_(live, mean)
        try:
            yield
        finally:
            torch._foreach_copy_(live, held)
