import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convprior.errors import InputError
from convprior.lab.data import Augment, ImageSet, batches, training_batch, training_batches
from convprior.lab.data.order import epoch_order

STATS = {"mean": (0.5,), "std": (0.25,)}
AUGMENT = Augment(flip=True, crop=1, cutout=2, color=0.2)


def made_up(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 5, 5, 1), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 3, ("a", "b", "c"))


@given(st.integers(1, 40), st.integers(1, 25), st.integers(0, 2**40))
@settings(max_examples=25)
def test_training_runs_through_the_endless_stream_of_permutations(count, batch_size, seed):
    images = made_up(count)
    stream = torch.cat([epoch_order(count, seed, epoch) for epoch in range(120 // count + 2)])
    for step in range(120 // batch_size):
        x, y, index = training_batch(images, step, batch_size, seed=seed, augment=AUGMENT, **STATS)
        assert torch.equal(index, stream[step * batch_size : (step + 1) * batch_size])
        assert torch.equal(y, images.labels[index])
        assert x.shape == (batch_size, 1, 5, 5)


@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 5))
@settings(max_examples=40)
def test_ranks_share_the_global_batch_contiguously(count, batch_size, world_size):
    images = made_up(count)
    for step in (0, 3):
        arguments = {"seed": 4, "augment": AUGMENT, **STATS}
        whole = training_batch(images, step, batch_size, **arguments)
        parts = [
            training_batch(images, step, batch_size, rank=r, world_size=world_size, **arguments)
            for r in range(world_size)
        ]
        for part, wanted in zip(zip(*parts, strict=True), whole, strict=True):
            assert torch.equal(torch.cat(part), wanted)


def test_augmentation_depends_on_sample_and_epoch_not_on_the_batch_size():
    images = made_up(12)
    arguments = {"seed": 9, "augment": AUGMENT, **STATS}
    small = [training_batch(images, step, 4, **arguments) for step in range(6)]
    large = training_batch(images, 0, 24, **arguments)
    assert torch.equal(torch.cat([x for x, _, _ in small]), large[0])
    # The same sample is changed differently in the second epoch.
    first = {int(i): x for i, x in zip(large[2][:12], large[0][:12], strict=True)}
    again = [
        torch.equal(first[int(i)], x) for i, x in zip(large[2][12:], large[0][12:], strict=True)
    ]
    assert sum(again) < 6


def test_endless_batches_resume_at_any_step():
    images = made_up(10)
    stream = training_batches(images, 4, seed=1, first_step=3, **STATS)
    for step in range(3, 9):
        wanted = training_batch(images, step, 4, seed=1, **STATS)
        assert all(torch.equal(a, b) for a, b in zip(next(stream), wanted, strict=True))


def test_one_pass_sees_every_sample_once_in_file_order_or_shuffled():
    images = made_up(10)
    passed = list(batches(images, 4, **STATS))
    assert [len(y) for _, y, _ in passed] == [4, 4, 2]
    assert torch.equal(torch.cat([index for _, _, index in passed]), torch.arange(10))
    plain = (images.images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    torch.testing.assert_close(torch.cat([x for x, _, _ in passed]), plain)
    shuffled = torch.cat([index for _, _, index in batches(images, 4, seed=2, epoch=5, **STATS)])
    assert torch.equal(shuffled, epoch_order(10, 2, 5))


def test_a_pass_continues_where_it_stopped_on_every_rank():
    images = made_up(11)
    whole = list(batches(images, 4, seed=3, epoch=1, augment=AUGMENT, **STATS))
    rest = list(batches(images, 4, seed=3, epoch=1, augment=AUGMENT, start=4, **STATS))
    for wanted, batch in zip(whole[1:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(wanted, batch, strict=True))
    halves = [list(batches(images, 4, rank=rank, world_size=2, **STATS)) for rank in range(2)]
    for batch, pair in zip(batches(images, 4, **STATS), zip(*halves, strict=True), strict=True):
        assert torch.equal(torch.cat([x for x, _, _ in pair]), batch[0])


def test_seeds_give_different_orders():
    orders = {
        tuple(epoch_order(20, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def test_bad_arguments_are_named():
    images = made_up(4)
    with pytest.raises(InputError, match=r"batch_size \(=0\)"):
        training_batch(images, 0, 0, seed=0, **STATS)
    with pytest.raises(InputError, match="augment needs a seed"):
        next(batches(images, 2, augment=AUGMENT, **STATS))
    empty = ImageSet(images.images[:0], images.labels[:0], images.classes)
    with pytest.raises(InputError, match="no image"):
        next(training_batches(empty, 2, seed=0, **STATS))


def test_an_image_set_checks_its_tensors():
    images, labels = torch.zeros(3, 4, 4, 1, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(InputError, match=r"must be uint8 with shape \(N, H, W, C\)"):
        ImageSet(images.float(), labels, ("a",))
    with pytest.raises(InputError, match=r"must be int64 with shape \(3,\)"):
        ImageSet(images, labels[:2], ("a",))
    with pytest.raises(InputError, match="from 0 to 2, but 2 classes"):
        ImageSet(images, torch.arange(3), ("a", "b"))
    made = ImageSet(images, labels, ("a", "b"))
    assert (len(made), made.num_classes, made.channels, made.size) == (3, 2, 1, (4, 4))


def test_images_may_be_a_view_of_another_layout():
    planes = torch.randint(0, 256, (6, 3, 5, 4), dtype=torch.uint8)
    viewed = ImageSet(planes.permute(0, 2, 3, 1), torch.arange(6), tuple("abcdef"))
    stats = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    x, _, index = training_batch(viewed, 0, 6, seed=0, augment=Augment(crop=1), **stats)
    assert x.shape == (6, 3, 5, 4)
    x, _, index = training_batch(viewed, 0, 6, seed=0, **stats)
    torch.testing.assert_close(x, (planes[index] / 255 - 0.5) / 0.25)
