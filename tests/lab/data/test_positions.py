"""The drawn task: what its images are, and that only the position tells the class."""

import hashlib

import pytest
import torch

from convprior.lab.data import DataRecipe, open_source, prepare
from convprior.lab.data.positions import (
    CANVAS,
    GLYPHS,
    NAMES,
    SCENE,
    SPOTS,
    glyph_of,
    layout,
    scenes,
)
from convprior.models import create_model

PINNED = {
    "positions": "d8f7e4c44e108634",
    "positions-shifted": "9517bb43a032c045",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_images_are_the_same_on_every_machine(name: str) -> None:
    source = open_source(name)
    found = [part.images[:100].numpy().tobytes() for part in (source.train, source.test)]
    assert hashlib.sha256(b"".join(found)).hexdigest()[:16] == PINNED[name]
    assert open_source(name) is source


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_classes(name: str) -> None:
    data = prepare(DataRecipe(name, per_class=500, split=9))
    assert data.train.images.shape == (4000, 28, 28, 1)
    assert data.train.labels.bincount().tolist() == [500] * 8
    assert data.evaluation.labels.bincount().tolist() == [500] * 8
    assert 0 < int(data.train.images.min()) < int(data.train.images.max()) < 255


def everywhere() -> tuple[torch.Tensor, torch.Tensor]:
    """Every class at every spot: (n,) labels, (n, 2) spots."""
    row, column, label = torch.meshgrid(
        torch.tensor(SPOTS), torch.tensor(SPOTS), torch.arange(8), indexing="ij"
    )
    return label.flatten(), torch.stack([row.flatten(), column.flatten()], 1)


def test_a_glyph_means_each_class_of_its_pair_equally_often() -> None:
    labels, spots = everywhere()
    glyphs = glyph_of(labels, spots)
    assert torch.equal(glyphs // 2, labels // 2)
    for glyph in range(8):
        assert labels[glyphs == glyph].bincount(minlength=8).tolist() == [
            8 if label // 2 == glyph // 2 else 0 for label in range(8)
        ]
    # Upper and lower half, and nothing else, decide for the first two pairs; left and right then.
    for axis, mine in ((0, labels < 4), (1, labels >= 4)):
        swapped = (glyphs != labels)[mine]
        assert torch.equal(swapped, (spots[mine][:, axis] >= SPOTS[2]))
    assert len({tuple(glyph.flatten().tolist()) for glyph in GLYPHS}) == 8


@pytest.mark.parametrize("begin", [0, 3, 7])
def test_no_window_of_seven_pixels_tells_where_a_glyph_is(begin: int) -> None:
    _, spots = everywhere()
    spots = spots.unique(dim=0)
    images = scenes(torch.zeros(16, dtype=torch.int64), spots, torch.full_like(spots, begin))
    windows = images.unfold(1, 7, 1).unfold(2, 7, 1).flatten(3).flatten(1, 2)
    found = {tuple(sorted(map(tuple, image.tolist()))) for image in windows}
    assert len(found) == 1  # the same windows, elsewhere


def test_a_network_of_convolutions_gives_one_answer_for_a_glyph_wherever_it_is() -> None:
    model = create_model("simple_local_net", 8, 1, width=8, seed=0).double().eval()
    labels, spots = everywhere()
    glyphs = glyph_of(labels, spots)
    images = scenes(glyphs, spots, torch.full_like(spots, 3)).double()[:, None] / 255
    with torch.no_grad():
        logits = model(images)
    for glyph in range(8):
        mine = logits[glyphs == glyph]
        torch.testing.assert_close(mine, mine[:1].expand_as(mine))


def test_where_the_scene_is_fixed_the_place_on_the_canvas_tells_the_half() -> None:
    _, spots, corners = layout(1_000, 3, shifted=False)
    assert len(corners.unique(dim=0)) == 1
    assert len(spots.unique(dim=0)) == 16


def test_where_it_is_shifted_the_place_on_the_canvas_tells_nothing_about_the_half() -> None:
    labels, spots, corners = layout(80_000, 3, shifted=True)
    assert 0 == int(corners.min()) < int(corners.max()) == CANVAS - SCENE
    places = corners + spots
    for axis in (0, 1):
        counts = torch.zeros(4, 2)
        half = (spots[:, axis] >= SPOTS[2]).long()
        counts.index_put_(
            (places[:, axis] - places.min(), half), torch.ones(len(labels)), accumulate=True
        )
        # Eight equal counts, each with a standard deviation below the root of its mean.
        assert (counts - 10_000).abs().max() < 5 * 100
