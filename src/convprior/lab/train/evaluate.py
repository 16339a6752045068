"""How well a network does on a set of images."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from convprior.lab.data import ImageSet, StreamedSet, batches
from convprior.lab.train.distributed import World

# Of one batch: keeps the activations of a wide network below a few GB.
_PIXELS = 500 * 90 * 90


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`; shares are in [0, 1]."""

    accuracy: float
    """Share of images classified correctly."""
    balanced_accuracy: float
    """Mean over the classes that have images of their accuracy."""
    loss: float
    """Mean cross-entropy, in nats."""
    per_class_accuracy: list[float | None]
    """Accuracy of each class; None for one without images."""
    images: int
    """How many images were looked at."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: ImageSet | StreamedSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    world: World | None = None,
) -> Evaluation:
    """Classifies every image once, without augmentation and in evaluation mode.

    Args:
        model: maps (n, C, H, W) to logits (n, classes); its mode is restored afterwards.
        images: the images.
        mean: C numbers to subtract, full scale = 1.
        std: C numbers to divide by.
        batch_size: of all processes together; None: 500, or fewer of more than 90 pixels a side.
        dtype: of the network's arithmetic; the loss is computed in float32.
        world: the processes that share the work; None: this one alone.
    """
    device = next(model.parameters()).device
    world = world or World(0, 1, device)
    if batch_size is None:
        height, width = images.size
        batch_size = max(1, min(500, _PIXELS // (height * width)))
    classes = len(images.classes)
    # Rows: images, correct ones, summed loss; columns: classes. Counts are exact in float64.
    sums = torch.zeros(3, classes, dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    for x, y, _ in batches(
        images,
        batch_size,
        mean=mean,
        std=std,
        dtype=dtype,
        rank=world.rank,
        world_size=world.size,
    ):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(x)
        logits = logits.float()
        loss = cross_entropy(logits, y, reduction="none")
        rows = torch.stack([torch.ones_like(loss), (logits.argmax(1) == y).float(), loss])
        sums.index_add_(1, y, rows.double())
    model.train(was_training)
    count, correct, loss = world.sum(sums)
    per_class = [
        c / n if n else None for c, n in zip(correct.tolist(), count.tolist(), strict=True)
    ]
    present = [share for share in per_class if share is not None]
    total = float(count.sum())
    return Evaluation(
        accuracy=float(correct.sum()) / total,
        balanced_accuracy=sum(present) / len(present),
        loss=float(loss.sum()) / total,
        per_class_accuracy=per_class,
        images=int(total),
    )
