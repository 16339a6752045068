import socket

import datasets
import numpy as np
import pytest
from huggingface_hub import constants

from convprior.errors import InputError
from convprior.lab.data import DataRecipe, open_source, prepare
from convprior.lab.data.hub import open_hub


@pytest.fixture
def no_network(monkeypatch):
    def fail(*arguments, **options):
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_names_are_looked_up_in_the_data_folder(parquet_file, monkeypatch):
    file = parquet_file("flowers/train.parquet", [0, 1])
    parquet_file("birds.parquet", [0, 1, 2])
    monkeypatch.setenv("CONVPRIOR_DATA", str(file.parent.parent))
    assert len(open_source("flowers").train) == 2
    assert len(open_source("birds").train) == 3


def test_a_path_here_comes_before_the_data_folder(parquet_file, monkeypatch, tmp_path):
    file = parquet_file("flowers/train.parquet", [0, 1])
    parquet_file("elsewhere/flowers/train.parquet", [0, 1, 2])
    monkeypatch.setenv("CONVPRIOR_DATA", str(file.parent.parent / "elsewhere"))
    assert len(open_source("flowers").train) == 3
    monkeypatch.chdir(file.parent.parent)
    assert len(open_source("flowers").train) == 2


def test_a_missing_source_says_where_it_was_looked_for(no_network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not found") as caught:
        open_source("flowrs")
    message = str(caught.value)
    assert str(tmp_path / "flowrs") in message
    assert "the Hugging Face Hub" in message
    assert "set CONVPRIOR_DATA" in message
    assert "\n" not in message
    monkeypatch.setenv("CONVPRIOR_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"data/flowrs.*data/flowrs\.parquet"):
        open_source("flowrs")
    with pytest.raises(InputError, match="not found") as caught:
        open_source("./flowrs")
    assert "Hub" not in str(caught.value)


def test_offline_does_not_outlast_the_question(no_network, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match="nobody/nothing"):
        open_source("nobody/nothing")
    assert not datasets.config.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="unpack it"):
        open_source(str(tmp_path / "images.zip"))


@pytest.fixture
def hub(parquet_file, monkeypatch, tmp_path, no_network):
    """``load_dataset("someone/pets")`` reads local files; a Hub set is read the same way."""
    real = datasets.load_dataset

    def load(path, configuration=None):
        assert path == "someone/pets"
        return real(str(tmp_path / "parquet"), configuration, cache_dir=str(tmp_path / "hf"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    open_hub.cache_clear()
    datasets.disable_progress_bars()
    yield parquet_file
    datasets.enable_progress_bars()
    open_hub.cache_clear()


def test_a_hub_set_equals_its_files(hub, tmp_path):
    hub("train-0.parquet", [0, 1, 1, 0, 1], ["cat", "dog"], seed=1)
    hub("test-0.parquet", [1, 0], ["cat", "dog"], seed=2)
    recipe = {"per_class": 2}
    from_hub = prepare(DataRecipe("someone/pets", **recipe))
    from_files = prepare(DataRecipe(str(tmp_path / "parquet"), **recipe))
    assert from_hub.classes == ("cat", "dog")
    for one, other in (
        (from_hub.train, from_files.train),
        (from_hub.evaluation, from_files.evaluation),
    ):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)


def test_a_hub_set_without_class_names(hub):
    hub("train-0.parquet", ["dog", "cat", "dog"])
    source = open_source("someone/pets")
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [1, 0, 1]
    assert source.test is None
    assert source.train.where(2) == "row 2 of someone/pets (train)"


def test_hub_problems_are_named(hub):
    hub("train-0.parquet", [0, 1], columns=("image", "kind"))
    with pytest.raises(InputError, match="no label column"):
        open_source("someone/pets")
