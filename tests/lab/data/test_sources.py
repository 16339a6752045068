import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from convprior.errors import InputError
from convprior.lab.data import ImageSet, open_source, save_decoded


def stored(part, row):
    return np.asarray(Image.open(io.BytesIO(part.read(row))))


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    source = open_source("digits")
    assert source.classes == tuple("0123456789")
    assert source.test is None
    assert torch.equal(source.train.labels, torch.from_numpy(bunch.target))
    image = source.train.read(17)[:, :, 0]
    assert np.array_equal(np.round(image / 255 * 16), bunch.images[17])


def test_a_parquet_folder_in_the_hugging_face_layout(parquet_file, pixels):
    parquet_file("train-00001-of-00002.parquet", [1, 1, 0], ["cat", "dog"], seed=2)
    parquet_file("train-00000-of-00002.parquet", [0, 1, 0, 0, 1, 1], ["cat", "dog"], seed=1)
    folder = parquet_file("test-00000-of-00001.parquet", [1, 0], ["cat", "dog"], seed=3).parent
    source = open_source(str(folder))
    assert source.name == "parquet"
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 1, 0, 0, 1, 1, 1, 1, 0]
    assert source.test.labels.tolist() == [1, 0]
    # Any order, across row groups (of 4) and files.
    for row, seed, number in [(8, 2, 2), (0, 1, 0), (5, 1, 5), (3, 1, 3), (6, 2, 0)]:
        assert np.array_equal(stored(source.train, row), pixels(seed * 1000 + number))
    assert source.train.where(7).startswith("row 1 of ")
    assert source.train.where(7).endswith("train-00001-of-00002.parquet")


def test_a_single_parquet_file_has_no_test_set(parquet_file):
    source = open_source(str(parquet_file("flowers.parquet", [0, 1, 2])))
    assert source.name == "flowers"
    assert source.classes == ("0", "1", "2")
    assert source.test is None


@pytest.mark.parametrize("columns", [("img", "fine_label"), ("image", "labels")])
def test_other_usual_column_names(parquet_file, columns):
    folder = parquet_file("train.parquet", [0, 1], ["a", "b"], columns=columns).parent
    assert open_source(str(folder)).classes == ("a", "b")


def test_splits_may_be_folders_and_validation_stands_in_for_test(parquet_file):
    parquet_file("train/0.parquet", [0, 1])
    folder = parquet_file("validation/0.parquet", [1]).parent.parent
    source = open_source(str(folder))
    assert len(source.train) == 2
    assert source.test.labels.tolist() == [1]


def test_files_of_no_split_are_for_training_unless_some_are_named_so(parquet_file):
    parquet_file("part-0.parquet", [0, 1])
    folder = parquet_file("part-1.parquet", [1]).parent
    assert open_source(str(folder)).train.labels.tolist() == [0, 1, 1]
    parquet_file("pets_train.parquet", [1, 0])
    assert open_source(str(folder)).train.labels.tolist() == [1, 0]


def test_text_labels_become_classes_in_sorted_order(parquet_file):
    parquet_file("train.parquet", ["dog", "cat", "dog"])
    folder = parquet_file("test.parquet", ["cat"]).parent
    source = open_source(str(folder))
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [1, 0, 1]
    parquet_file("test.parquet", ["cow"])
    with pytest.raises(InputError, match="label 'cow', which is none of the 2 classes"):
        open_source(str(folder))


def test_binary_images_and_paths_beside_the_file(tmp_path, pixels, png):
    data = [png(pixels(0)), png(pixels(1))]
    file = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"image": data, "label": [0, 1]}), file)
    assert np.array_equal(stored(open_source(str(file)).train, 1), pixels(1))
    (tmp_path / "beside.png").write_bytes(data[0])
    images = [{"bytes": None, "path": "beside.png"}, {"bytes": None, "path": "gone.png"}]
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), file)
    part = open_source(str(file)).train
    assert np.array_equal(stored(part, 0), pixels(0))
    with pytest.raises(InputError, match=r"row 1 of .*plain\.parquet holds no image bytes"):
        part.read(1)


def test_parquet_problems_are_named(tmp_path, parquet_file):
    file = parquet_file("train.parquet", [0, 1], columns=("photo", "label"))
    with pytest.raises(InputError, match="columns photo, label but no image column"):
        open_source(str(file))
    file = parquet_file("train.parquet", [0, 1], columns=("image", "kind"))
    with pytest.raises(InputError, match="columns image, kind but no label column"):
        open_source(str(file))
    file = parquet_file("train.parquet", [0, None])
    with pytest.raises(InputError, match="label None"):
        open_source(str(file))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"train\.parquet is not a whole Parquet file"):
        open_source(str(file))
    file.rename(file.with_name("test.parquet"))
    with pytest.raises(InputError, match=r"1 \.parquet files but none for training"):
        open_source(str(file.parent))


def test_an_image_folder_with_a_test_set(image_folder):
    image_folder("train", {"dog": 2, "cat": 3})
    root = image_folder("val", {"dog": 1})
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    source = open_source(str(root))
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert source.test.labels.tolist() == [1]
    assert source.train.where(3).endswith("train/dog/000.png")


def test_an_image_folder_without_a_test_set(image_folder):
    root = image_folder("", {"b": 2, "a": 2})
    source = open_source(str(root))
    assert source.classes == ("a", "b")
    assert source.test is None


def test_image_folder_problems_are_named(image_folder, tmp_path):
    with pytest.raises(InputError, match="has no images in class folders"):
        open_source(str(tmp_path))
    image_folder("train", {"cat": 1})
    root = image_folder("test", {"cow": 1})
    with pytest.raises(InputError, match="class 'cow', which the training folder has not"):
        open_source(str(root))


def test_decoded_files_come_back(tmp_path, pixels):
    train = ImageSet(
        torch.from_numpy(np.stack([pixels(i) for i in range(4)])), torch.arange(4) % 2, ("a", "b")
    )
    test = ImageSet(train.images[:2] + 1, train.labels[:2], ("a", "b"))
    path = tmp_path / "set.safetensors"
    save_decoded(path, train, test)
    source = open_source(str(path))
    assert source.classes == ("a", "b")
    assert np.array_equal(source.train.read(3), pixels(3))
    assert np.array_equal(source.test.read(1), pixels(1) + 1)
    assert torch.equal(source.test.labels, test.labels)
    save_decoded(path, train)
    assert open_source(str(path)).test is None


def test_decoded_file_problems_are_named(tmp_path):
    from convprior._files import save_tensors

    path = tmp_path / "set.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        open_source(str(path))
    save_tensors(path, {"weight": torch.zeros(2)})
    with pytest.raises(InputError, match="holds weight, but needs train_images"):
        open_source(str(path))
    tensors = {"train_images": torch.zeros(2, 4, 4), "train_labels": torch.zeros(2)}
    save_tensors(path, tensors, {"classes": ["a"]})
    with pytest.raises(InputError, match="must be uint8"):
        open_source(str(path))
    small = ImageSet(torch.zeros(1, 2, 2, 1, dtype=torch.uint8), torch.tensor([0]), ("a",))
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        save_decoded(tmp_path / "set.pt", small)
    other = ImageSet(small.images, small.labels, ("b",))
    with pytest.raises(InputError, match="same classes"):
        save_decoded(path, small, other)


def test_hidden_copies_in_an_image_folder_are_no_images(image_folder):
    root = image_folder("", {"a": 2, "b": 2})
    image = (root / "a" / "000.png").read_bytes()
    for hidden in ("a/.ipynb_checkpoints/000-checkpoint.png", "a/._000.png", "__MACOSX/a/._0.png"):
        (root / hidden).parent.mkdir(parents=True, exist_ok=True)
        (root / hidden).write_bytes(image)
    source = open_source(str(root))
    assert source.classes == ("a", "b")
    assert source.train.labels.tolist() == [0, 0, 1, 1]


def test_an_image_link_to_nothing_is_named(image_folder):
    root = image_folder("", {"a": 2})
    (root / "a" / "dead.png").symlink_to(root / "gone.png")
    with pytest.raises(InputError, match=r"dead\.png cannot be read \(No such file"):
        open_source(str(root))
    (root / "a" / "dead.png").unlink()
    (root / "a" / "self.png").symlink_to("self.png")
    with pytest.raises(InputError, match=r"self\.png cannot be read \(Too many levels"):
        open_source(str(root))


def test_file_names_need_not_be_utf_8(image_folder):
    root = image_folder("", {"a": 1})
    (root / "a" / "000.png").rename(os.fsdecode(os.fsencode(root / "a") + b"/caf\xe9.png"))
    assert len(open_source(str(root)).train) == 1


def test_more_classes_than_images_are_refused_before_they_are_counted(parquet_file):
    file = parquet_file("train.parquet", [1, 2, 10**12])
    with pytest.raises(InputError, match="label 1000000000000 but only 3 images"):
        open_source(str(file))


@pytest.mark.parametrize("name", ["~nobody_of_that_name/x", "x" * 5000])
def test_what_cannot_be_a_path_is_one_sentence(name):
    with pytest.raises(InputError, match="cannot be a path"):
        open_source(name)
