"""What is measured of the features of one layer."""

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from convprior.diagnose.diversity.deciles import (
    COUNT,
    Decile,
    LowestDecile,
    count_text,
    deciles,
    lowest_against_chance,
)
from convprior.diagnose.diversity.spectrum import Rank, rank_of
from convprior.diagnose.diversity.weights import BiasLossWeights, weigh
from convprior.diagnose.ranks import Estimate, auroc, spearman
from convprior.diagnose.shares import accuracy_by_chance


@dataclass(frozen=True)
class Settings:
    """How results are computed: see :func:`~convprior.diagnose.feature_diversity`."""

    confidence: float = 0.95
    alpha: float = 0.3
    beta: float = 0.3
    batch_size: int = 128
    seed: int = 0


@dataclass(frozen=True, eq=False)
class LayerDiversity:
    """How the variance of a layer's features goes with the network's answers.

    Attributes:
        name: of the layer.
        side: ``input`` or ``output``: which tensor of it was taken.
        shape: of that tensor for one image, such as (512, 4, 4).
        variance: (N,) variance of each image's features; NaN where they are not finite.
        chance: accuracy of predictions that are independent of the image, see
            :func:`~convprior.diagnose.shares.accuracy_by_chance`.
        left_out: images whose features or loss are not finite, which do not count below.
        rank: in how many directions the pooled feature vectors vary; None where nothing varies.
        auroc: how often a correctly classified image has more variance than a wrong one, 0.5 if it
            says nothing; None if all are correct or all are wrong.
        spearman: rank correlation of variance and cross-entropy, negative where images with more
            variance are easier; None if either is constant.
        deciles: accuracy by decile of variance.
        lowest: the lowest decile against chance; None if all variances are equal.
        weights: what Bias Loss would do; None without an image.
        note: why something is missing, or empty.
    """

    name: str
    side: str
    shape: tuple[int, ...]
    variance: Tensor = field(repr=False)
    chance: float
    left_out: int
    rank: Rank | None
    auroc: Estimate | None
    spearman: Estimate | None
    deciles: tuple[Decile, ...]
    lowest: LowestDecile | None
    weights: BiasLossWeights | None
    note: str = ""

    @property
    def images(self) -> int:
        """How many count."""
        return len(self.variance) - self.left_out

    @property
    def accuracy(self) -> float | None:
        """Of the images that count; None without one."""
        right = sum(group.correct for group in self.deciles)
        return right / self.images if self.images else None

    def row(self) -> dict[str, Any]:
        """The layer as plain data, ready for JSON, without the variance of each image."""
        return {
            "name": self.name,
            "side": self.side,
            "shape": list(self.shape),
            "images": self.images,
            "left_out": self.left_out,
            "chance": self.chance,
            "effective_rank": None if self.rank is None else self.rank.effective,
            "participation_ratio": None if self.rank is None else self.rank.participation,
            "auroc": None if self.auroc is None else asdict(self.auroc),
            "spearman": None if self.spearman is None else asdict(self.spearman),
            "lowest": None if self.lowest is None else asdict(self.lowest),
            "deciles": [asdict(one) for one in self.deciles],
            "weights": None if self.weights is None else asdict(self.weights),
            "note": self.note,
        }

    def flat_row(self) -> dict[str, Any]:
        """The layer as one line of a CSV: a column for each number, without deciles and counts."""
        row = self.row()
        flat: dict[str, Any] = {"shape": "x".join(map(str, self.shape))}
        for name, low, high in (
            ("auroc", "auroc_low", "auroc_high"),
            ("spearman", "spearman_low", "spearman_high"),
        ):
            found = row.pop(name) or {}
            flat |= {name: found.get("value"), low: found.get("low"), high: found.get("high")}
        lowest, weights = row.pop("lowest") or {}, row.pop("weights") or {}
        for name in ("accuracy", "p", "kept"):
            flat[f"lowest_{name}"] = lowest.get(name)
        flat["mean_weight"] = weights.get("mean")
        del row["deciles"]
        return row | flat


def describe(
    name: str,
    side: str,
    shape: tuple[int, ...],
    variance: Tensor,
    spectrum: Tensor,
    cross_entropy: Tensor,
    correct: Tensor,
    classes: int,
    settings: Settings,
    labels: Tensor | None = None,
    predictions: Tensor | None = None,
    note: str = "",
) -> LayerDiversity:
    """Puts together what :class:`LayerDiversity` says, from one number an image.

    Args:
        name: of the layer.
        side: ``input`` or ``output``.
        shape: of the features of one image.
        variance: (N,).
        spectrum: of the pooled features' covariance.
        cross_entropy: (N,) in nats.
        correct: (N,) bool.
        classes: number of logits.
        settings: the rest.
        labels: (N,) class numbers; None: classes are taken to be balanced.
        predictions: (N,) likewise, -1 where there is none.
        note: to go in front of what is noted here.
    """
    counted = variance.isfinite() & cross_entropy.isfinite()
    v, ce, right = variance[counted], cross_entropy[counted], correct[counted]
    groups = deciles(v, right, ce, settings.confidence)
    area = auroc(v, right, settings.confidence)
    chance = accuracy_by_chance(classes, _rows(predictions, counted), _rows(labels, counted))
    lowest = lowest_against_chance(groups, chance)
    return LayerDiversity(
        name=name,
        side=side,
        shape=shape,
        variance=variance,
        chance=chance,
        left_out=len(variance) - len(v),
        rank=rank_of(spectrum),
        auroc=area,
        spearman=spearman(v, ce, settings.confidence),
        deciles=groups,
        lowest=lowest,
        weights=weigh(
            v,
            right,
            alpha=settings.alpha,
            beta=settings.beta,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )
        if len(v)
        else None,
        note="; ".join(filter(None, (note, _note(v, right, len(variance) - len(v), lowest)))),
    )


def _rows(values: Tensor | None, inside: Tensor) -> Tensor | None:
    return None if values is None else values[inside]


def _note(variance: Tensor, correct: Tensor, left_out: int, lowest: LowestDecile | None) -> str:
    """What kept numbers from being there."""
    notes = []
    if left_out:
        plural = "image has" if left_out == 1 else "images have"
        notes.append(
            f"{left_out} {plural} features or a loss that are not finite, and do not count"
        )
    if not len(variance):
        return "; ".join(notes)
    if bool(correct.all()):
        notes.append("every image is classified correctly, so no AUROC")
    elif not bool(correct.any()):
        notes.append("every image is classified wrongly, so no AUROC")
    if bool((variance == variance[0]).all()):
        notes.append("the variance of all images is the same, so it orders nothing")
    elif lowest is not None and COUNT * (lowest.images - 1) >= len(variance):
        notes.append(
            f"the lowest group has {count_text(lowest.images)} of {len(variance):,}, as equal "
            "variances stay together"
        )
    return "; ".join(notes)
