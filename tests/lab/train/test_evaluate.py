import math
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, recall_score
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.lab.data import ImageSet
from convprior.lab.train import compute_dtype, evaluate, precision
from convprior.lab.train.distributed import find_device


class Pixels(nn.Module):
    """Logits read off the image, so that every answer is known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x[:, :, 0, 0]


def images(labels: list[int]) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (len(labels), 2, 2, 3), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.tensor(labels), ("a", "b", "c"))


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_agrees_with_scikit_learn(batch_size: int | None) -> None:
    labels = [0, 0, 0, 0, 1, 2, 2, 1, 0, 2, 2]
    data = images(labels)
    logits = 3 * (data.images[:, 0, 0].double() / 255 - 0.5) / 0.25
    predicted = logits.argmax(1)
    result = evaluate(Pixels(), data, (0.5,) * 3, (0.25,) * 3, batch_size=batch_size)
    assert result.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert result.loss == pytest.approx(log_loss(labels, logits.softmax(1)), rel=1e-6)
    assert result.per_class_accuracy == pytest.approx(recall_score(labels, predicted, average=None))
    assert result.images == 11


def test_a_class_without_images_is_left_out() -> None:
    result = evaluate(Pixels(), images([0, 0, 2]), (0.0,) * 3, (1.0,) * 3)
    assert result.per_class_accuracy[1] is None
    shares = [share for share in result.per_class_accuracy if share is not None]
    assert result.balanced_accuracy == pytest.approx(sum(shares) / 2)


def test_the_mode_of_the_network_is_kept_and_nothing_is_learned() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 3))
    for training in (True, False):
        model.train(training)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        first = evaluate(model, images([0, 1, 2]), (0.5,) * 3, (0.2,) * 3)
        assert first == evaluate(model, images([0, 1, 2]), (0.5,) * 3, (0.2,) * 3)
        assert model.training is training
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_loss_that_is_no_number_is_passed_on() -> None:
    model = Pixels()
    model.scale.data.fill_(torch.nan)
    assert math.isnan(evaluate(model, images([0]), (0.5,) * 3, (0.2,) * 3).loss)


def test_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(precision, "bf16_in_hardware", lambda device: True)
    assert compute_dtype("auto", cpu) is compute_dtype("bf16", cpu) is torch.bfloat16
    assert compute_dtype("fp32", cpu) is torch.float32
    monkeypatch.setattr(precision, "bf16_in_hardware", lambda device: False)
    assert compute_dtype("auto", cpu) is torch.float32
    with pytest.warns(UserWarning, match="'bf16' is emulated on this cpu"):
        assert compute_dtype("bf16", cpu) is torch.bfloat16


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99"])
def test_a_device_that_is_not_here_is_named(name: Any) -> None:
    with pytest.raises(InputError, match=f"device = '{name}'"):
        find_device(name)
