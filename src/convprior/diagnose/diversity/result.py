"""The result of :func:`~convprior.diagnose.feature_diversity`."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from convprior._version import __version__
from convprior.diagnose.diversity.layer import LayerDiversity, Settings
from convprior.diagnose.shares import accuracy_by_chance
from convprior.errors import InputError

FORMAT = 1
"""Of :meth:`FeatureDiversity.as_dict`."""


@dataclass(frozen=True, eq=False)
class FeatureDiversity:
    """How feature variance goes with right and wrong answers: an entry a layer.

    ``result["layer4"]``, ``len(result)``, a loop over it; printed, it is its :meth:`table`.

    Attributes:
        layers: the entries in the order of the network.
        cross_entropy: (N,) of each image in nats, in the order of the loader.
        correct: (N,) bool, whether the largest logit is that of the label.
        classes: number of logits.
        settings: confidence of the intervals, and the Bias Loss whose weights are shown.
        labels: (N,) class numbers; None: not known.
        predictions: (N,) number of the largest logit, -1 where a logit is NaN; None: not known.
    """

    layers: tuple[LayerDiversity, ...]
    cross_entropy: Tensor = field(repr=False)
    correct: Tensor = field(repr=False)
    classes: int
    settings: Settings = field(default_factory=Settings)
    labels: Tensor | None = field(default=None, repr=False)
    predictions: Tensor | None = field(default=None, repr=False)

    @property
    def images(self) -> int:
        """How many were looked at."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Share of the images that are classified correctly."""
        return float(self.correct.double().mean())

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy in nats; None if that is not finite."""
        mean = float(self.cross_entropy.double().mean())
        return mean if math.isfinite(mean) else None

    @property
    def chance(self) -> float:
        """Accuracy of predictions that are independent of the image.

        See :func:`~convprior.diagnose.shares.accuracy_by_chance`.
        """
        return accuracy_by_chance(self.classes, self.predictions, self.labels)

    @property
    def conclusion(self) -> str:
        """What the last layer shows, in plain words."""
        from convprior.diagnose.diversity.conclusion import conclusion

        return conclusion(self)

    def table(self) -> str:
        """The layers as aligned text, the deciles of the last one, and how to read them."""
        from convprior.diagnose.diversity.table import text_table

        return text_table(self)

    def rows(self) -> list[dict[str, Any]]:
        """The layers as plain data."""
        return [layer.row() for layer in self.layers]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the numbers of each image as plain data, ready for JSON."""
        return {
            "format": FORMAT,
            "version": __version__,
            "images": self.images,
            "classes": self.classes,
            "accuracy": self.accuracy,
            "chance": self.chance,
            "loss": self.loss,
            "confidence": self.settings.confidence,
            "conclusion": self.conclusion,
            "layers": self.rows(),
        }

    def to_csv(self, **first: Any) -> str:
        """The layers as CSV, a column for each number.

        ``first`` are columns put in front of the others.
        """
        text = io.StringIO()
        own = {"accuracy": self.accuracy, "loss": self.loss}
        lines = [{**first, **layer.flat_row(), **own} for layer in self.layers]
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()

    def chart(self) -> Any:
        """Accuracy by decile, and the variances of right and wrong answers, of the last layer.

        With several layers also how their AUROC and effective rank change from first to last.

        Raises:
            InputError: no image counts.
            MissingExtraError: altair is not installed.
        """
        from convprior._drawing import styled
        from convprior.diagnose.diversity.chart import draw_diversity

        return styled(draw_diversity(self))

    def __str__(self) -> str:
        return self.table()

    def __iter__(self) -> Iterator[LayerDiversity]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, name: str) -> LayerDiversity:
        """The entry of a layer by its name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = ", ".join(layer.name for layer in self.layers)
        raise InputError(f"there is no layer {name!r} in this result; there are {names}")
