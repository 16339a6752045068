"""What users hand to Bias Loss by mistake, and numbers that must stay finite."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from convprior.errors import InputError
from convprior.losses import BiasLoss, FocalLoss, TaylorCrossEntropy, focal_loss

LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(6) % 5
FEATURES = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
FEATURES *= torch.arange(1.0, 7).view(-1, 1, 1, 1)


@pytest.mark.parametrize("mean_one", [False, True])
def test_weights_of_a_running_minimum_stay_finite(mean_one: bool) -> None:
    loss = BiasLoss(normalize="running", mean_one=mean_one)
    loss(LOGITS, TARGET, FEATURES * 1e-3)
    narrow = 10 * (1 + FEATURES[:1] + 1e-4 * FEATURES)  # large variances in a tiny range
    certain = torch.full((6, 5), -1e4).scatter(1, TARGET[:, None], 0.0)
    assert loss(LOGITS, TARGET, narrow).isfinite()
    assert loss(certain, TARGET, narrow) == 0  # not infinity times 0
    assert loss.largest_weight <= math.exp(20)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_small_integers_are_classes(dtype: torch.dtype) -> None:
    weight = torch.arange(1.0, 6)
    wanted = BiasLoss(weight=weight)(LOGITS, TARGET, FEATURES)
    assert torch.equal(BiasLoss(weight=weight)(LOGITS, TARGET.to(dtype), FEATURES), wanted)
    assert torch.equal(focal_loss(LOGITS, TARGET.to(dtype)), focal_loss(LOGITS, TARGET))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_smallest_variance_is_not_rounded(dtype: torch.dtype) -> None:
    exact, moved = BiasLoss(normalize="running"), BiasLoss(normalize="running").to(dtype)
    for loss in (exact, moved):
        loss(LOGITS, TARGET, FEATURES * 1e-4)
    moved.to(dtype)
    assert torch.equal(moved.smallest, exact.smallest)


def test_made_under_another_default_device() -> None:
    with torch.device("meta"):
        loss = BiasLoss(normalize="running", control="shuffled")
    assert loss(LOGITS, TARGET, FEATURES).isfinite()


def test_numpy_numbers() -> None:
    loss = BiasLoss(np.float64(0.3), seed=np.int64(3), control="shuffled")
    assert torch.equal(
        loss(LOGITS, TARGET, FEATURES),
        BiasLoss(seed=3, control="shuffled")(LOGITS, TARGET, FEATURES),
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BiasLoss(torch.ones(5)), "class weights are weight="),
        (lambda: BiasLoss(weight=[1.0] * 5), "weight is a list"),
        (lambda: BiasLoss(alpha=100), "from 0 to 20"),
        (lambda: BiasLoss()(LOGITS, TARGET, None), "features is a NoneType; give a tensor"),
        (lambda: BiasLoss()(LOGITS, TARGET, FEATURES.numpy()), "features is a ndarray"),
        (lambda: BiasLoss()(LOGITS, TARGET.numpy(), FEATURES), "target is a ndarray"),
        (lambda: BiasLoss()(LOGITS, TARGET, FEATURES[:3]), "did the network run again"),
        (lambda: FocalLoss(weight=torch.ones(5)), "FocalLoss has no argument 'weight'"),
        (lambda: TaylorCrossEntropy(math.nan), "order is nan"),
    ],
)
def test_mistakes_are_named(make, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_repr_shows_what_is_not_default() -> None:
    text = repr(BiasLoss(ignore_index=0, seed=3, weight=torch.ones(5)))
    assert all(part in text for part in ("ignore_index=0", "seed=3", "weight"))
    assert "mean_one" not in text


def test_bounded_alpha_leaves_the_formula_alone() -> None:
    loss = BiasLoss(alpha=20, reduction="none")
    losses = loss(LOGITS.double(), TARGET, FEATURES.double())
    plain = cross_entropy(LOGITS.double(), TARGET, reduction="none")
    assert torch.allclose((losses / plain).max(), torch.tensor(math.exp(20) - 0.3).double())
