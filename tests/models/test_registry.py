"""Names, options and timm: what the registry understands and what it refuses."""

import sys

import pytest
import timm
import torch

from convprior.errors import InputError, MissingExtraError
from convprior.models import create_model, list_models

TIMM = "timm:test_resnet"  # timm's own tiny test network


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrn17_2", r"depth 17 is not of the form 6n \+ 4.*wrn16_2"),
        ("wrn4_2", r"depth 4 .*wrn10_2"),
        ("densenet_bc41_12", r"depth 41 is not of the form 6n \+ 4.*densenet_bc40_12"),
        ("densenet_bc40_0", r"growth 0 is not positive; give densenet_bc40_1 or more"),
        ("resnet81", "no network 'resnet81'; did you mean resnet18"),
        ("zzz", "no network 'zzz'; known are densenet121"),
        ("timm:resnet10tt", "no network 'timm:resnet10tt'; did you mean timm:resnet10t"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model(name)


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="num_classes=0 is not positive"):
        create_model("plain_cnn", 0)
    with pytest.raises(InputError, match="in_chans=-1 is not positive"):
        create_model("plain_cnn", in_chans=-1)
    with pytest.raises(InputError, match="no option 'widht'; its options are width, batch_norm"):
        create_model("plain_cnn", widht=3)
    with pytest.raises(InputError, match="wrn16_2 has no option 'width'; its options are dropout"):
        create_model("wrn16_2", width=3)
    with pytest.raises(InputError, match="densenet121 has no option 'width'; it has none"):
        create_model("densenet121", width=3)
    for width in (0, -8, 1.5, "16"):
        with pytest.raises(InputError, match=f"width={width!r} is not positive; .* whole number"):
            create_model("resnet18", width=width)
    with pytest.raises(InputError, match="stem of its own"):
        create_model(TIMM, small_input=True)


def test_timm_is_reached_with_its_own_options() -> None:
    model = create_model("timm:resnet10t", 7, 2, stem_width=8, seed=0)
    assert model(torch.zeros(2, 2, 64, 64)).shape == (2, 7)
    assert list_models("timm:resnet10*") == [f"timm:{n}" for n in timm.list_models("resnet10*")]


def test_names_are_listed_and_filtered() -> None:
    assert list_models() == sorted(list_models())
    assert list_models("wrn16*") == ["wrn16_2", "wrn16_8"]
    assert list_models("nothing*") == []


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'convprior\[timm\]'"):
        create_model(TIMM)


def test_widths_of_skipnets_are_real_numbers() -> None:
    assert create_model("skipnet_l", width=18.4, seed=0).num_features == 1104
    for width in (0, -1.5, float("nan"), "16"):
        with pytest.raises(InputError, match="is not positive"):
            create_model("skipnet_m", width=width)
