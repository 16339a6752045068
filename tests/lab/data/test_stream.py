"""A streamed set gives the batches of the same set in memory, bit for bit."""

import itertools

import pytest
import torch

from convprior.errors import InputError, RunError
from convprior.lab.data import (
    DataRecipe,
    ImageSet,
    StreamedSet,
    batches,
    load,
    prepare,
    training_batches,
)

ROOMY = 10**9


@pytest.fixture(params=["parquet", "folder", "digits"])
def recipe(request, parquet_file, image_folder):
    source = "digits"
    if request.param == "parquet":
        source = str(parquet_file("train.parquet", [0, 1] * 12).parent)
    elif request.param == "folder":
        source = str(image_folder("", {"cat": 12, "dog": 12}))
    return DataRecipe(source, per_class=9, flip=True, crop=2, cutout=2, color=0.2, image_size=7)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_equals_in_memory(recipe, workers):
    memory = prepare(recipe, memory_limit=ROOMY)
    load._kept.clear()
    stream = prepare(recipe, memory_limit=1, workers=workers)
    assert isinstance(memory.train, ImageSet)
    assert isinstance(stream.train, StreamedSet)
    assert isinstance(stream.evaluation, StreamedSet)
    assert (stream.mean, stream.std) == (memory.mean, memory.std)
    stats = {"mean": memory.mean, "std": memory.std}
    augmented = {"seed": 5, "augment": memory.augment, **stats}
    pairs = itertools.chain(
        zip(
            itertools.islice(training_batches(memory.train, 7, first_step=2, **augmented), 6),
            training_batches(stream.train, 7, first_step=2, **augmented),
            strict=False,
        ),
        zip(
            batches(memory.train, 5, epoch=3, start=5, rank=1, world_size=2, **augmented),
            batches(stream.train, 5, epoch=3, start=5, rank=1, world_size=2, **augmented),
            strict=True,
        ),
        zip(
            batches(memory.evaluation, 4, **stats),
            batches(stream.evaluation, 4, **stats),
            strict=True,
        ),
    )
    for wanted, batch in pairs:
        assert all(torch.equal(a, b) for a, b in zip(wanted, batch, strict=True))
        assert batch[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named_by_one_sentence(image_folder, workers):
    root = image_folder("", {"cat": 6, "dog": 6})
    for number in range(6):
        (root / "dog" / f"{number:03}.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"dog/00\d\.png is not a whole image") as caught:
        prepare(DataRecipe(str(root)), memory_limit=1, workers=workers)
    assert "Traceback" not in str(caught.value)


def test_an_image_of_another_size_is_named(image_folder, png, pixels):
    root = image_folder("", {"cat": 6, "dog": 6})
    for number in range(6):
        (root / "dog" / f"{number:03}.png").write_bytes(png(pixels(1, (5, 8, 3))))
    with pytest.raises(InputError, match=r"is 8x5 pixels but .*cat.* is 6x6: set image_size"):
        prepare(DataRecipe(str(root)), memory_limit=1, workers=0)


def test_encoded_parquet_images_are_copied_once(parquet_file, private_cache):
    folder = parquet_file("train.parquet", [0, 1] * 12).parent
    first = prepare(DataRecipe(str(folder)), memory_limit=1, workers=0)
    files = {file: file.stat().st_mtime_ns for file in private_cache.iterdir()}
    assert len(files) == 5  # Images and offsets of both sets, statistics of the training set.
    again = prepare(DataRecipe(str(folder)), memory_limit=1, workers=0)
    assert {file: file.stat().st_mtime_ns for file in private_cache.iterdir()} == files
    assert again.train.part.read(3) == first.train.part.read(3)
    assert (again.mean, again.std) == (first.mean, first.std)
    (statistics,) = (file for file in files if file.suffix == ".json")
    statistics.write_text("{}")
    mended = prepare(DataRecipe(str(folder)), memory_limit=1, workers=0)
    assert (mended.mean, mended.std) == (first.mean, first.std)


def test_no_room_for_the_copy_is_one_sentence(parquet_file, private_cache):
    folder = parquet_file("train.parquet", [0, 1] * 12).parent
    private_cache.write_text("a file where the folder should be")
    with pytest.raises(RunError, match="set CONVPRIOR_CACHE to another folder"):
        prepare(DataRecipe(str(folder)), memory_limit=1, workers=0)
