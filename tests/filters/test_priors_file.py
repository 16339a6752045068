"""Priors in files: exact to the last bit, and one clear error for every damaged file."""

import copy
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from convprior._files import load_tensors, save_tensors
from convprior.errors import ConvPriorError, InputError, RunError
from convprior.filters import FilterPrior, load_priors, measured_priors, save_priors


def random_prior(size, seed):
    weight = torch.randn(3, 5, *size, generator=torch.Generator().manual_seed(seed))
    return FilterPrior.measured(weight)


def assert_same(first, second):
    assert first == second
    assert repr(first) == repr(second)
    assert str(first) == str(second)
    for name in ("variance", "correlation", "covariance"):
        one, other = getattr(first, name), getattr(second, name)
        assert torch.equal(one.view(torch.int64), other.view(torch.int64))


@settings(max_examples=25)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), st.integers(0, 99))
def test_a_saved_prior_loads_bit_for_bit(size, seed):
    prior = random_prior(size, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prior.safetensors"
        prior.save(path)
        assert_same(FilterPrior.load(str(path)), prior)
        assert_same(load_priors(path)["prior"], prior)


def test_named_priors_keep_their_names_and_order(tmp_path):
    path = tmp_path / "new" / "priors.safetensors"
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.Conv2d(4, 4, 3))
    priors = measured_priors(net, per="layer") | {"layer1.*": FilterPrior.mean_pool((1, 3))}
    save_priors(path, priors)
    loaded = load_priors(path)
    assert list(loaded) == ["0", "1", "layer1.*"]
    for name, prior in priors.items():
        assert_same(loaded[name], prior)
    with pytest.raises(RunError, match=r"holds 3 priors \(0, 1, layer1\.\*\); use load_priors"):
        FilterPrior.load(path)
    save_priors(path, {"3x3": priors["1"]})
    assert_same(FilterPrior.load(path), priors["1"])


def test_copies_and_pickles_are_equal():
    prior = random_prior((3, 3), 0)
    assert_same(copy.deepcopy(prior), prior)
    assert_same(pickle.loads(pickle.dumps(prior)), prior)


def test_names_must_be_texts(tmp_path):
    for priors in ({}, {3: FilterPrior.independent(3)}, {"a\nb": FilterPrior.independent(3)}):
        with pytest.raises(InputError, match="at least one, all printable texts"):
            save_priors(tmp_path / "p", priors)


def test_what_cannot_be_saved_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="the entry 'a' is 3; give a FilterPrior"):
        save_priors(tmp_path / "p", {"a": 3})
    with pytest.raises(InputError, match="priors are a FilterPrior; give a mapping"):
        save_priors(tmp_path / "p", FilterPrior.independent(3))
    with pytest.raises(InputError, match="contains a null character"):
        FilterPrior.independent(3).save("a\0b")
    assert not (tmp_path / "p").exists()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "prior.safetensors"
    FilterPrior.correlated(3).save(path)
    return path


def assert_refused(path, message):
    for load in (FilterPrior.load, load_priors):
        with pytest.raises(RunError, match=message) as caught:
            load(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_files_that_are_none_of_ours(tmp_path):
    path = tmp_path / "other.safetensors"
    assert_refused(path, "^there is no file '[^']*'; write one with FilterPrior.save")
    assert_refused(tmp_path, "cannot be read as a file of priors")
    for garbage in (b"", b"garbage", bytes(1000), b"\xff" * 100):
        path.write_bytes(garbage)
        assert_refused(path, "cannot be read as a file of priors")
    save_file({"conv.weight": torch.ones(1, 1, 3, 3)}, path)
    assert_refused(path, r"holds no priors; these look like weights: FilterPrior\.measured\('")
    save_file({"fc.weight": torch.ones(2, 2)}, path)
    assert_refused(path, "holds no priors; write such a file with FilterPrior.save")
    save_file({"x": torch.ones(1)}, path, metadata={"convprior": "{"})
    assert_refused(path, "cannot be read")
    save_file({"x": torch.ones(1)}, path, metadata={"convprior": "[" * 100_000})
    assert_refused(path, "cannot be read")


def test_truncated_files(saved):
    whole = saved.read_bytes()
    for size in range(0, len(whole), 7):
        saved.write_bytes(whole[:size])
        with pytest.raises(ConvPriorError):
            FilterPrior.load(saved)


def broken_matrix(tensors):
    tensors["0.correlation"][0, 1] = tensors["0.correlation"][1, 0] = 0.99


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t, h: t["0.variance"].fill_(torch.nan), "a tap variance is nan"),
        (lambda t, h: t["0.variance"].neg_(), "a tap variance is -1"),
        (lambda t, h: t["0.variance"].mul_(2), "do not have mean 1"),
        (lambda t, h: t["0.correlation"].fill_(torch.nan), "correlation must be symmetric"),
        (lambda t, h: broken_matrix(t), "not positive semi-definite"),
        (lambda t, h: t.update({"0.correlation": torch.eye(4).double()}), r"need \(9, 9\)"),
        (lambda t, h: t.update({"0.variance": torch.ones(9).double()}), r"of shape \(9,\)"),
        (lambda t, h: t.update({"0.variance": torch.ones(3, 3)}), "not in float64"),
        (lambda t, h: t.update({"1.variance": torch.ones(3, 3)}), "3 tensors for 1 priors"),
        (lambda t, h: t.pop("0.correlation"), "'0.correlation'"),
        (lambda t, h: h.update(format=2), "has format 2 and this version of convprior reads 1"),
        (lambda t, h: h.update(kind="masks"), "holds no priors"),
        (lambda t, h: h.pop("priors"), "'priors'"),
        (lambda t, h: h.update(priors=[]), "2 tensors for 0 priors"),
        (lambda t, h: h.update(priors=3), "is damaged"),
        (lambda t, h: h.update(priors=[3]), "is damaged"),
        (lambda t, h: h["priors"][0].update(made="two\nlines"), "a name is no text"),
        (lambda t, h: h["priors"][0].update(name=None), "a name is no text"),
        (lambda t, h: h["priors"][0].update(name="two\nlines"), "a name is no text"),
        (lambda t, h: h["priors"][0].update(kernel_size=None), "has variances of shape"),
    ],
)
def test_damaged_files(saved, damage, message):
    tensors, header = load_tensors(saved)
    damage(tensors, header)
    save_tensors(saved, tensors, header)
    assert_refused(saved, message)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConvPriorError, match="could not save"):
        FilterPrior.independent(3).save(tmp_path / "file" / "prior.safetensors")
