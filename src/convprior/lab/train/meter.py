"""Running loss and accuracy, and the alarm when the loss is no number any more."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convprior.errors import RunError

if TYPE_CHECKING:
    from convprior.lab.train.distributed import World


class Diverged(RunError):  # noqa: N818 - the status of a run, as a study shows it
    """The loss became infinite or not a number: the run is over."""


@dataclass
class Meter:
    """Sums over the batches since the last :meth:`reset`, over all processes.

    A step leaves two scalars on the device; they are read every ``window`` steps. On a CPU that is
    every step; on a GPU a read waits for the device, and over processes it is a message.
    """

    world: "World"
    window: int
    loss: float = 0.0
    correct: float = 0.0
    count: int = 0
    recent: float = math.nan
    """Mean loss of the batches read last."""
    _losses: list[Tensor] = field(default_factory=list)
    _correct: list[Tensor] = field(default_factory=list)
    _steps: list[tuple[int, int, int, float]] = field(default_factory=list)

    def add(
        self, loss: Tensor, correct: Tensor, step: int, first: int, last: int, lr: float
    ) -> None:
        """Takes in a batch.

        Args:
            loss: the mean over the batch; over processes, what each adds to ``size`` times it.
            correct: how many of the share were classified correctly.
            step: its number, from 0.
            first: examples seen before the batch.
            last: examples seen after it.
            lr: its learning rate.
        """
        self._losses.append(loss)
        self._correct.append(correct)
        self._steps.append((step, first, last, lr))
        if len(self._steps) >= self.window:
            self.flush()

    def flush(self) -> None:
        """Reads what is pending.

        Raises:
            Diverged: a loss is infinite or not a number.
        """
        if not self._steps:
            return
        if self.window == 1:
            losses, correct = [self._losses[0].item()], [self._correct[0].item()]
        else:
            both = torch.stack([torch.stack(self._losses), torch.stack(self._correct)])
            losses, correct = self.world.sum(both.double()).tolist()
        steps, self._steps, self._losses, self._correct = self._steps, [], [], []
        total, count = 0.0, 0
        for (step, first, last, lr), loss in zip(steps, losses, strict=True):
            loss /= self.world.size
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss became {loss} at step {step} (after {first} examples, learning rate "
                    f"{lr:.3g}): lower optimizer.lr or set optimizer.clip, for example to 1.0"
                )
            total, count = total + loss * (last - first), count + last - first
        self.loss += total
        self.correct += sum(correct)
        self.count += count
        self.recent = total / count

    def reset(self) -> None:
        """Starts new sums."""
        self.loss, self.correct, self.count = 0.0, 0.0, 0
