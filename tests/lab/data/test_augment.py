"""The batched gather against one image at a time, written with numpy's own reflection padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convprior._random import mix, uniform
from convprior.lab.data import Augment
from convprior.lab.data.augment import DRAWS, gather


def reference(image, mean, std, augment, draws):
    """One image in float64: pad and crop, mirror, recolor, normalize, cut out."""
    height, width, _ = image.shape
    flip, row, column, cut_row, cut_column, bright, contrast = (float(u) for u in draws[:7])
    p = augment.crop
    if p:
        padded = np.pad(image, ((p, p), (p, p), (0, 0)), mode="reflect")
        top, left = int(row * (2 * p + 1)), int(column * (2 * p + 1))
        image = padded[top : top + height, left : left + width]
    if augment.flip and flip >= 0.5:
        image = image[:, ::-1]
    value = image.astype(np.float64) / 255
    if augment.color:
        b = 1 + augment.color * (2 * bright - 1)
        c = 1 + augment.color * (2 * contrast - 1)
        m = value.mean()
        value = np.clip(b * (c * (value - m) + m), 0, 1)
    value = (value - np.array(mean)) / np.array(std)
    if augment.cutout:
        top = int(cut_row * height) - augment.cutout // 2
        left = int(cut_column * width) - augment.cutout // 2
        value = value.copy()
        value[max(top, 0) : top + augment.cutout, max(left, 0) : left + augment.cutout] = 0
    return value.transpose(2, 0, 1)


@st.composite
def cases(draw):
    height, width = draw(st.integers(3, 9)), draw(st.integers(3, 9))
    augment = Augment(
        flip=draw(st.booleans()),
        crop=draw(st.integers(0, min(height, width) - 1)),
        cutout=draw(st.integers(0, 12)),
        color=draw(st.sampled_from([0.0, 0.4])),
    )
    return height, width, draw(st.sampled_from([1, 3])), augment, draw(st.integers(0, 2**40))


@given(cases())
def test_batches_equal_one_image_at_a_time(case):
    height, width, channels, augment, seed = case
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        0, 256, (7, height, width, channels), generator=generator, dtype=torch.uint8
    )
    index = torch.tensor([3, 0, 6, 3, 5])
    draws = uniform(mix(seed), torch.tensor([11, 12, 13, 14, 15]), DRAWS)
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels]
    batch = gather(images, index, mean, std, augment, draws)
    wanted = np.stack(
        [
            reference(images[i].numpy(), mean, std, augment, u)
            for i, u in zip(index, draws, strict=True)
        ]
    )
    # A few float32 roundings of values up to 1/0.2 = 5.
    np.testing.assert_allclose(batch.numpy(), wanted, atol=5e-6)


@pytest.mark.parametrize("crop", range(20))
def test_the_largest_draw_stays_inside(crop):
    images = torch.randint(0, 256, (1, 20, 20, 1), dtype=torch.uint8)
    draws = torch.full((1, DRAWS), 1 - 2.0**-24)
    augment = Augment(flip=True, crop=crop, cutout=3)
    batch = gather(images, torch.tensor([0]), (0.4,), (0.2,), augment, draws)
    wanted = reference(images[0].numpy(), (0.4,), (0.2,), augment, draws[0])
    np.testing.assert_allclose(batch[0].numpy(), wanted, atol=5e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_does_not_depend_on_its_batch(channels):
    images = torch.randint(0, 256, (50, 12, 11, channels), dtype=torch.uint8)
    augment = Augment(flip=True, crop=4, cutout=5, color=0.3)
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels]
    index = torch.arange(50)
    draws = uniform(mix(1), index, DRAWS)
    whole = gather(images, index, mean, std, augment, draws)
    for size in (1, 7, 33):
        parts = [
            gather(images, i, mean, std, augment, u)
            for i, u in zip(index.split(size), draws.split(size), strict=True)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_the_result_is_channels_last_in_the_wanted_type():
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    batch = gather(images, torch.arange(4), (0.5,) * 3, (0.2,) * 3, dtype=torch.bfloat16)
    assert batch.dtype == torch.bfloat16
    assert batch.shape == (4, 3, 8, 8)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_switching_one_augmentation_leaves_the_others_as_they_were():
    images = torch.randint(0, 256, (30, 8, 8, 3), dtype=torch.uint8)
    index = torch.arange(30)
    draws = uniform(mix(2), index, DRAWS)
    stats = (0.5,) * 3, (0.2,) * 3
    plain = gather(images, index, *stats, Augment(flip=True, crop=2), draws)
    cut = gather(images, index, *stats, Augment(flip=True, crop=2, cutout=3), draws)
    kept = cut != 0
    assert torch.equal(plain[kept], cut[kept])
    assert not kept.all()


def test_flip_and_crop_are_uniform():
    # A pixel's own position tells the offset and the mirroring that moved it.
    size, crop, count = 16, 2, 20_000
    image = torch.arange(size * size).view(1, size, size, 1).to(torch.uint8)
    draws = uniform(mix(3), torch.arange(count), DRAWS)
    augment = Augment(flip=True, crop=crop)
    batch = gather(image, torch.zeros(count, dtype=torch.int64), (0.0,), (1.0,), augment, draws)
    pixel = (batch[:, 0, 8, 8:10] * 255).round().long()
    mirrored = pixel[:, 1] < pixel[:, 0]
    row = pixel[:, 0] // size - 8
    column = pixel[:, 0] % size - torch.where(mirrored, 7, 8)
    outcome = ((row + crop) * 5 + column + crop) * 2 + mirrored.long()
    counts = torch.bincount(outcome, minlength=50).double()
    expected = count / 50
    # Chi-square with 49 degrees of freedom exceeds 85.4 with probability 0.001; the seed is fixed.
    assert float(((counts - expected) ** 2 / expected).sum()) < 85.4
