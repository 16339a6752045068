"""Mean and standard deviation of the training images, exactly."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from convprior._files import read_json, write_json
from convprior.errors import RunError
from convprior.lab.data.images import ImageSet
from convprior.lab.data.load import cache_folder
from convprior.lab.data.stream import StreamedSet


def statistics(images: ImageSet | StreamedSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns per-channel mean and standard deviation over all pixels, full scale = 1.

    Sums of pixels and of their squares are exact integers, so the result does not depend on
    order, batches or device. A constant channel gets the standard deviation 1.
    """
    counts = torch.zeros(images.channels, 256, dtype=torch.int64)
    for pixels in _chunks(images):
        for channel, values in enumerate(pixels.reshape(-1, images.channels).unbind(1)):
            counts[channel] += torch.bincount(values.int(), minlength=256).cpu()
    level = torch.arange(256)
    mean, std = [], []
    for channel in counts:
        n, total = int(channel.sum()), int((channel * level).sum())
        scatter = n * int((channel * level**2).sum()) - total**2  # n^2 times the variance
        mean.append(total / n / 255)
        std.append(math.sqrt(scatter) / n / 255 if scatter else 1.0)
    return tuple(mean), tuple(std)


def kept_statistics(images: ImageSet | StreamedSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns :func:`statistics`; those of a streamed set are kept in the cache folder.

    They need a pass over all images, which takes minutes where the images do not fit into memory.
    """
    if isinstance(images, ImageSet):
        return statistics(images)
    path = cache_folder() / f"statistics-{images.key}.json"
    if path.exists():
        try:
            kept = read_json(path)
            return tuple(kept["mean"]), tuple(kept["std"])
        except (RunError, KeyError, TypeError):
            path.unlink(missing_ok=True)
    mean, std = statistics(images)
    with contextlib.suppress(RunError):  # Only the time to compute them again is lost.
        write_json(path, {"mean": mean, "std": std})
    return mean, std


def _chunks(images: ImageSet | StreamedSet, size: int = 256) -> Iterator[Tensor]:
    rows = [torch.arange(i, min(i + size, len(images))) for i in range(0, len(images), size)]
    if isinstance(images, ImageSet):
        for index in rows:
            yield images.images[int(index[0]) : int(index[-1]) + 1]
    else:
        for pixels, _, _ in images.read((index, None) for index in rows):
            yield pixels
