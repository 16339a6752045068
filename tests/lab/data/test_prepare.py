import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from convprior.errors import InputError
from convprior.lab.data import (
    DataRecipe,
    ImageSet,
    StreamedSet,
    load,
    open_source,
    prepare,
    statistics,
)
from convprior.lab.data.decode import Format, decode
from convprior.lab.data.layout import files_fingerprint
from convprior.lab.data.source import Rows


def test_digits_without_arguments_just_work():
    prepared = prepare(DataRecipe(per_class=10))
    assert len(prepared.train) == 100
    assert torch.bincount(prepared.train.labels).tolist() == [10] * 10
    assert len(prepared.evaluation) == 359
    assert prepared.augment is None


def test_train_and_evaluation_never_share_an_image():
    def rows(images):
        return {bytes(image.numpy().tobytes()) for image in images.images}

    test = prepare(DataRecipe())
    validation = prepare(DataRecipe(per_class=20, evaluate="validation"))
    # Two of the 1,797 scans might be equal; none is across these sets.
    assert not rows(test.train) & rows(test.evaluation)
    assert not rows(validation.train) & rows(validation.evaluation)
    assert not rows(validation.evaluation) & rows(test.evaluation)
    assert len(validation.train) == 120
    assert len(validation.evaluation) == 80


def test_train_and_validation_part_together_are_what_the_final_run_trains_on():
    both = prepare(DataRecipe(per_class=20, evaluate="validation", split=1))
    final = prepare(DataRecipe(per_class=20, split=1))

    def images(*sets):
        return sorted(i.numpy().tobytes() for images in sets for i in images.images)

    assert images(both.train, both.evaluation) == images(final.train)


@pytest.mark.parametrize("evaluate", ["test", "validation"])
def test_only_needed_images_are_decoded(parquet_file, monkeypatch, evaluate):
    parquet_file("train.parquet", [0, 1] * 10)
    folder = parquet_file("test.parquet", [0, 1, 1]).parent
    opened = []

    def spy(payload, where, wanted):
        opened.append(where)
        return decode(payload, where, wanted)

    monkeypatch.setattr("convprior.lab.data.decode.decode", spy)
    prepare(DataRecipe(str(folder), per_class=5, split=1, validation=0.2, evaluate=evaluate))
    train = {f"row {row} of {folder / 'train.parquet'}" for row in range(10, 20)}
    test = {f"row {row} of {folder / 'test.parquet'}" for row in range(3)}
    assert set(opened) == (train | test if evaluate == "test" else train)
    assert len(opened) == len(set(opened))


def test_a_second_process_reads_the_decoded_copy(parquet_file, monkeypatch, private_cache):
    folder = parquet_file("train.parquet", [0, 1] * 10).parent
    first = prepare(DataRecipe(str(folder), per_class=3))
    load._kept.clear()
    monkeypatch.setattr("convprior.lab.data.load.decode_rows", None)
    again = prepare(DataRecipe(str(folder), per_class=3))
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.evaluation.images, again.evaluation.images)
    assert len(list(private_cache.iterdir())) == 2


def test_a_changed_file_or_form_is_decoded_again(parquet_file, pixels):
    parquet_file("test.parquet", [0, 1])
    folder = parquet_file("train.parquet", [0, 1] * 4, seed=1).parent
    before = prepare(DataRecipe(str(folder)))
    grey = prepare(DataRecipe(str(folder), channels=1))
    assert grey.train.channels == 1
    parquet_file("train.parquet", [0, 1] * 4, seed=2)
    after = prepare(DataRecipe(str(folder)))
    assert np.array_equal(before.train.images[5], pixels(1005))
    assert np.array_equal(after.train.images[5], pixels(2005))


def test_a_file_of_the_same_size_written_later_is_another_one(parquet_file):
    file = parquet_file("train.parquet", [0, 1])
    before = files_fingerprint([file])
    assert files_fingerprint([file]) == before
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert files_fingerprint([file]) != before


def test_equal_rows_of_two_choices_are_not_the_same_images(parquet_file, pixels):
    part = open_source(str(parquet_file("train.parquet", [0, 1] * 3))).train
    for first in (0, 2, 4):
        chosen = Rows(Rows(part, torch.arange(first, 6)), torch.arange(2))
        images = load.load(chosen, torch.arange(2), ("a", "b"), "x", Format())
        assert np.array_equal(images.images[1], pixels(first + 1))


def test_a_damaged_decoded_copy_is_made_again(parquet_file, private_cache):
    folder = parquet_file("train.parquet", [0, 1] * 10).parent
    first = prepare(DataRecipe(str(folder)))
    for file in private_cache.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    load._kept.clear()
    assert torch.equal(prepare(DataRecipe(str(folder))).train.images, first.train.images)


def test_without_room_for_the_copy_the_run_goes_on(parquet_file, private_cache):
    folder = parquet_file("train.parquet", [0, 1] * 10).parent
    private_cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="decoded again in every process: could not save"):
        prepared = prepare(DataRecipe(str(folder)))
    assert len(prepared.train) == 16


def test_statistics_are_those_of_the_training_images():
    images = torch.randint(0, 256, (300, 7, 5, 3), dtype=torch.uint8)
    images[..., 2] = 9
    mean, std = statistics(ImageSet(images, torch.zeros(300, dtype=torch.int64), ("a",)))
    values = images.double() / 255
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], values.std((0, 1, 2), correction=0)[:2], rtol=1e-12)
    assert std[2] == 1.0


def test_images_of_two_sizes_are_named_with_the_fix(image_folder, png, pixels):
    root = image_folder("", {"cat": 3, "dog": 3})
    (root / "dog" / "odd.png").write_bytes(png(pixels(9, (5, 8, 3))))
    with pytest.raises(InputError, match=r"odd\.png is 8x5 pixels but .*000\.png is 6x6") as caught:
        prepare(DataRecipe(str(root)))
    assert "image_size = 5" in str(caught.value)
    assert prepare(DataRecipe(str(root), image_size=4)).train.size == (4, 4)


def test_mixed_channels_are_named_with_the_fix(image_folder, png, pixels):
    root = image_folder("", {"cat": 4, "dog": 4})
    for number in range(4):
        (root / "dog" / f"{number:03}.png").write_bytes(png(pixels(number, (6, 6))))
    with pytest.raises(InputError, match=r"has 1 channel but .* has 3 channels: set channels = 3"):
        prepare(DataRecipe(str(root)))
    assert prepare(DataRecipe(str(root), channels=3)).train.channels == 3


def test_a_corrupt_image_is_named(image_folder):
    root = image_folder("", {"cat": 3, "dog": 3})
    for number in range(3):
        (root / "dog" / f"{number:03}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(InputError, match=r"dog/00\d\.png is not a whole image"):
        prepare(DataRecipe(str(root)))


def test_train_and_test_of_two_forms_are_named(parquet_file):
    parquet_file("train.parquet", [0, 1])
    folder = parquet_file("test.parquet", [0, 1], shape=(7, 7, 3)).parent
    with pytest.raises(InputError, match=r"\(test\) is 7x7 pixels but .*\(train\) is 6x6"):
        prepare(DataRecipe(str(folder)))
    parquet_file("test.parquet", [0, 1], shape=(6, 6))
    with pytest.raises(InputError, match=r"\(test\) has 1 channels but .*\(train\) has 3"):
        prepare(DataRecipe(str(folder)))


def test_unlabeled_and_unknown_labels_are_named(parquet_file):
    parquet_file("train.parquet", [0, 1, 1, 0], ["cat", "dog"])
    folder = parquet_file("test.parquet", [0, -1], ["cat", "dog"]).parent
    with pytest.raises(InputError, match=r"row 1 of .* has the label -1, but the 2 classes"):
        prepare(DataRecipe(str(folder)))
    prepare(DataRecipe(str(folder), validation=0.5, evaluate="validation"))
    parquet_file("train.parquet", [0, 1, 2, 0], ["cat", "dog"])
    with pytest.raises(InputError, match="has the label 2"):
        prepare(DataRecipe(str(folder), validation=0.5, evaluate="validation"))


def test_a_crop_as_large_as_the_image_is_refused():
    with pytest.raises(InputError, match=r"crop \(=8\) .* smaller than the image \(8x8\)"):
        prepare(DataRecipe(crop=8))


def test_the_memory_limit_decides_and_is_checked(monkeypatch):
    monkeypatch.setenv("CONVPRIOR_MEMORY_LIMIT", "0.00001")
    assert isinstance(prepare(DataRecipe(per_class=20), workers=0).train, StreamedSet)
    monkeypatch.setenv("CONVPRIOR_MEMORY_LIMIT", "lots")
    with pytest.raises(InputError, match=r"CONVPRIOR_MEMORY_LIMIT \(='lots'\)"):
        prepare(DataRecipe())


def test_decoded_data_needs_no_optional_package(tmp_path):
    """A node with torch, numpy and safetensors alone trains from a decoded file."""
    script = textwrap.dedent("""
        import sys
        for name in ("PIL", "pyarrow", "datasets", "pandas", "sklearn", "pydantic", "rich"):
            sys.modules[name] = None
        import torch
        from convprior.lab.data import DataRecipe, ImageSet, prepare, save_decoded, training_batch
        images = torch.randint(0, 256, (40, 6, 5, 3), dtype=torch.uint8)
        path = sys.argv[1]
        save_decoded(path, ImageSet(images, torch.arange(40) % 2, ("a", "b")))
        recipe = DataRecipe(path, per_class=4, flip=True, crop=1, image_size=8, channels=1)
        prepared = prepare(recipe)
        x, y, index = training_batch(prepared.train, 0, 6, seed=0, mean=prepared.mean,
                                     std=prepared.std, augment=prepared.augment)
        assert x.shape == (6, 1, 8, 8)
        try:
            prepare(DataRecipe("nobody/nothing"))
        except ValueError as error:
            assert "pip install 'convprior[lab]'" in str(error), error
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "set.safetensors")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_one_class_is_refused(parquet_file):
    parquet_file("train.parquet", [0] * 10)
    folder = parquet_file("test.parquet", [0] * 2).parent
    with pytest.raises(InputError, match=r"has 1 class .*at least two"):
        prepare(DataRecipe(str(folder)))


@pytest.mark.parametrize("evaluate", ["test", "validation"])
def test_evaluation_images_play_no_part_in_the_normalization(evaluate):
    prepared = prepare(DataRecipe(evaluate=evaluate))
    assert (prepared.mean, prepared.std) == statistics(prepared.train)
    assert prepared.mean != statistics(prepared.evaluation)[0]
