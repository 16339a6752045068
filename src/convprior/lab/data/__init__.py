"""Data of a run: from a source to batches, every choice a pure function of the recipe and seeds.

A :class:`DataRecipe` names a source and which of its images are used. :func:`prepare` opens it,
splits on labels alone and decodes only what is needed into uint8 tensors (or streams what is
larger than memory). :func:`training_batch` and :func:`batches` order, augment and normalize on
the device of the images.
"""

from convprior.lab.data.augment import Augment
from convprior.lab.data.batches import Batch, batches, training_batch, training_batches
from convprior.lab.data.decoded import save_decoded
from convprior.lab.data.images import ImageSet
from convprior.lab.data.prepare import Prepared, prepare
from convprior.lab.data.recipe import DataRecipe
from convprior.lab.data.resolve import open_source
from convprior.lab.data.source import Part, Source
from convprior.lab.data.statistics import statistics
from convprior.lab.data.stream import StreamedSet

__all__ = [
    "Augment",
    "Batch",
    "DataRecipe",
    "ImageSet",
    "Part",
    "Prepared",
    "Source",
    "StreamedSet",
    "batches",
    "open_source",
    "prepare",
    "save_decoded",
    "statistics",
    "training_batch",
    "training_batches",
]
