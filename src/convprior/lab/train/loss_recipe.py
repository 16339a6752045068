"""The loss slot of a recipe: what is minimized, and how much each image counts in it."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from convprior.lab.plain import none_or, require, settle

LOSSES = {
    "cross_entropy": "the default; networks are evaluated by it under every loss",
    "bias": "cross-entropy, weighted by how much the example's last features vary",
    "focal": "cross-entropy, weighted toward hard examples",
    "poly1": "cross-entropy + epsilon (1 - p)",
    "gce": "generalized cross-entropy, (1 - p^q) / q, for wrong labels",
    "sce": "symmetric cross-entropy, for wrong labels",
    "taylor": "Taylor series of cross-entropy, for wrong labels",
}
"""Losses by name, each with what it is; p is the probability of the right class."""

# Which loss a key belongs to; the others do not look at it.
_OWNERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("alpha", "beta", "normalize", "mean_one", "max_weight", "control", "features"), ("bias",)
    ),
    "gamma": ("focal",),
    "epsilon": ("poly1",),
    "q": ("gce",),
    "sce_alpha": ("sce",),
    "sce_beta": ("sce",),
    "order": ("taylor",),
}


@dataclass(frozen=True)
class LossRecipe:
    """What is minimized, besides the prior."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    name: Literal["cross_entropy", "bias", "focal", "poly1", "gce", "sce", "taylor"] = (
        "cross_entropy"
    )
    """The loss of one example, of which a batch takes the mean: `convprior list losses`."""
    label_smoothing: float = 0.0
    """Probability spread evenly over all classes, in [0, 1)."""
    alpha: float = 0.3
    """Of `bias`: growth of the weight exp(alpha s) - beta, where s is 0 for the batch's smallest
    variance and 1 for its largest."""
    beta: float = 0.3
    """Of `bias`: what is subtracted, in [0, 1)."""
    normalize: Literal["batch", "running"] = "batch"
    """Of `bias`: variances count from the batch's smallest, or from the smallest ever seen."""
    mean_one: bool = False
    """Of `bias`: divide the weights by their mean over the batch."""
    max_weight: float | None = None
    """Of `bias`: the largest weight allowed, >= 1; none: any."""
    control: Literal["constant", "shuffled", "inverted", "2021"] | None = None
    """Of `bias`: `constant`: every example gets the batch's mean weight; `shuffled`: the weights of
    other examples; `inverted`: small variances weigh most; `2021`: the formula of the first
    published code."""
    features: str | None = None
    """Of `bias`: the layer whose features are looked at; none: found automatically, what the last
    global pooling takes."""
    gamma: float = 2.0
    """Of `focal`: the power of 1 - p that cross-entropy is multiplied by; 0: cross-entropy."""
    epsilon: float = 1.0
    """Of `poly1`: the factor of 1 - p that is added; 0: cross-entropy."""
    q: float = 0.7
    """Of `gce`, (1 - p^q) / q, in (0, 1]: near 0 cross-entropy, 1 the mean absolute error."""
    sce_alpha: float = 0.1
    """Of `sce`: factor of cross-entropy."""
    sce_beta: float = 1.0
    """Of `sce`: factor of the reverse cross-entropy."""
    order: int = 2
    """Of `taylor`: terms of the logarithm's series."""

    def __post_init__(self) -> None:
        settle(self, "loss")
        value = self.label_smoothing
        require(0 <= value < 1, "loss.label_smoothing", value, "must be in [0, 1)")
        require(0 <= self.alpha <= 20, "loss.alpha", self.alpha, "must be in [0, 20]")
        require(0 <= self.beta < 1, "loss.beta", self.beta, "must be in [0, 1)")
        most = self.max_weight
        require(none_or(most, 1), "loss.max_weight", most, "must be >= 1")
        require(none_or(self.gamma, 0), "loss.gamma", self.gamma, "must be >= 0")
        require(-1 <= self.epsilon < 1e308, "loss.epsilon", self.epsilon, "must be >= -1")
        require(0 < self.q <= 1, "loss.q", self.q, "must be in (0, 1]")
        require(none_or(self.sce_alpha, 0), "loss.sce_alpha", self.sce_alpha, "must be >= 0")
        require(none_or(self.sce_beta, 0), "loss.sce_beta", self.sce_beta, "must be >= 0")
        require(self.order >= 1, "loss.order", self.order, "must be >= 1")
        require(self.features != "", "loss.features", "''", "must name a layer; leave it out")
        self._check_use()
        for entry in fields(self):
            # Keys without effect take their defaults: equal experiments are equal recipes.
            if self.name not in _OWNERS.get(entry.name, (self.name,)):
                object.__setattr__(self, entry.name, entry.default)

    def _check_use(self) -> None:
        """Refuses what changes nothing, which a study would compare with itself."""
        weighted = self.name == "bias"
        require(
            self.control is None or weighted,
            "loss.control",
            self.control,
            f"changes nothing where loss.name = {self.name!r}; set it to 'bias'",
        )
        require(
            not (weighted and self.mean_one and self.control == "constant"),
            "loss.mean_one",
            self.mean_one,
            "with loss.control = 'constant' makes every weight 1, which is loss.name = "
            "'cross_entropy'; choose one of the two",
        )
        spread = "beta" if self.control == "2021" else "alpha"
        require(
            not weighted or getattr(self, spread) > 0,
            f"loss.{spread}",
            getattr(self, spread),
            "makes all weights alike; raise it",
        )
        flat = {"focal": ("gamma",), "poly1": ("epsilon",), "sce": ("sce_alpha", "sce_beta")}
        keys = flat.get(self.name, ())
        require(
            not keys or any(getattr(self, key) != 0 for key in keys),
            f"loss.{' = loss.'.join(keys)}",
            0,
            f"leaves nothing of loss.name = {self.name!r}; raise it, or choose 'cross_entropy'",
        )
