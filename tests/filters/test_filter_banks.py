"""Filter banks: the same from a network, its weights by name, a file or one weight."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convprior.errors import InputError
from convprior.filters import FilterPrior, tap_profile
from convprior.filters.filter_banks import filter_banks, read_weights


def deep(layers=12):
    torch.manual_seed(0)
    return nn.ModuleDict({"features": nn.Sequential(*[nn.Conv2d(2, 2, 3) for _ in range(layers)])})


def test_a_file_has_the_order_of_its_numbers(tmp_path):
    net, path = deep(), tmp_path / "w.safetensors"
    save_file(net.state_dict(), path)
    names = [bank.name for bank in filter_banks(net)]
    assert names == [f"features.{i}" for i in range(12)]
    assert [bank.name for bank in filter_banks(path)] == names
    ours, theirs = tap_profile(path, draws=5), tap_profile(net, draws=5)
    assert [layer.centre_edge for layer in ours] == [layer.centre_edge for layer in theirs]
    thirds = [
        [row for row in profile.summary() if "third" in row["name"]] for profile in (ours, theirs)
    ]
    assert len(thirds[0]) == 3
    assert thirds[0] == thirds[1]


def test_names_with_and_without_numbers_sort(tmp_path):
    names = ["10.weight", "9.weight", "09.weight", "a10b2.weight", "a10b.weight", "a9.weight"]
    names += ["weight", f"a{'9' * 5000}.weight"]
    save_file({name: torch.ones(1, 1, 2, 2) for name in names}, tmp_path / "w.safetensors")
    found = list(read_weights(tmp_path / "w.safetensors"))
    assert found == [names[i] for i in (2, 1, 0, 5, 3, 4, 7, 6)]


def test_one_weight_is_a_source():
    conv = nn.Conv2d(4, 8, 3)
    bank, expected = filter_banks(conv.weight)[0], filter_banks(conv)[0]
    assert torch.equal(bank.weight, expected.weight)
    assert (bank.name, bank.kind, bank.stride) == ("", "dense", None)
    assert tap_profile(conv.weight)[0].centre_edge == tap_profile(conv)[0].centre_edge


def test_a_tied_tensor_of_another_name_hides_no_convolution():
    weight = torch.randn(2, 2, 3, 3)
    found = filter_banks({"shadow": weight, "conv.weight": weight, "again.weight": weight})
    assert [bank.name for bank in found] == ["conv"]


def test_enormous_weights():
    weight = torch.randn(4, 4, 3, 3, dtype=torch.float64, generator=torch.Generator())
    huge, plain = tap_profile(weight * 2.0**1000, draws=5), tap_profile(weight, draws=5)
    assert huge[0].centre_edge == pytest.approx(plain[0].centre_edge)
    assert huge.table()
    assert FilterPrior.measured(weight * 2.0**1000) == FilterPrior.measured(weight)


def test_narrow_floats_are_read():
    weight = torch.randn(4, 4, 3, 3).to(torch.float8_e4m3fn)
    assert torch.equal(filter_banks({"a.weight": weight})[0].weight, weight.float())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([1.0], "list is no source of filters"),
        (None, "NoneType is no source of filters"),
        (b"weights", "bytes is no source of filters"),
        (torch.ones(2, 2).numpy(), "ndarray is no source of filters"),
        (torch.ones(3, 3), r"shape \(3, 3\) is no convolution weight"),
        ({3: torch.ones(1, 1, 3, 3)}, "3 is no name of a weight"),
        ({"a.weight": torch.ones(0, 2, 3, 3)}, "the weight of 'a' holds no values"),
        ({"a.weight": torch.ones(2, 0, 3, 3)}, "the weight of 'a' holds no values"),
        ({"a.weight": torch.ones(2, 2, 3, 3).to_sparse()}, "layout torch.sparse_coo"),
        ({"a.weight": torch.ones(2, 2, 3, 3, dtype=torch.int8)}, "dtype torch.int8"),
        (
            {"a.weight": torch.ones(1, 1, 3, 4).byte().view(torch.float4_e2m1fn_x2)},
            "dtype torch.float4_e2m1fn_x2",
        ),
        (torch.ones(1, 1, 3, 3, dtype=torch.complex64), "dtype torch.complex64"),
        (nn.Conv2d(1, 1, 3, dtype=torch.complex64), "dtype torch.complex64"),
        ("nope", "there is no file or folder 'nope'"),
        ("a\0b", "there is no file or folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_holds_no_filters_is_one_sentence(source, message):
    for call in (filter_banks, tap_profile, FilterPrior.measured):
        with pytest.raises(InputError, match=message) as caught:
            call(source)
        assert "\n" not in str(caught.value)


def test_files_of_other_types_are_one_sentence(tmp_path):
    path = tmp_path / "w.safetensors"
    for weight in (torch.ones(0, 2, 3, 3), torch.ones(2, 2, 3, 3, dtype=torch.int8)):
        save_file({"a.weight": weight}, path)
        with pytest.raises(InputError, match="the weight of 'a'"):
            filter_banks(path)
    with pytest.raises(InputError, match="is a folder; give the path of a safetensors file"):
        filter_banks(tmp_path)
    path.write_bytes(b"no tensors")
    with pytest.raises(InputError, match="could not read"):
        filter_banks(path)
