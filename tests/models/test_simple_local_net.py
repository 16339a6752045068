"""SimpleLocalNet and its controls: counts of the paper, places of the layers, coordinates."""

import itertools

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.local import LocalConv2d, LowRankLocalConv2d
from convprior.models import AddCoordinates, create_model, with_coordinates
from convprior.models.simple_local_net import wide_width

RANKS = range(1, 8)
LOW_RANK = [
    (76_610, 78_398, 80_186, 81_974, 83_762, 85_550, 87_338),
    (76_602, 113_522, 150_442, 187_362, 224_282, 261_202, 298_122),
    (76_594, 113_510, 150_426, 187_342, 224_258, 261_174, 298_090),
]
WIDE = [
    (76_490, 77_700, 79_515, 81_330, 83_145, 84_960, 86_775),
    (76_490, 113_418, 150_346, 187_274, 224_202, 261_130, 298_058),
    (76_490, 114_122, 151_754, 189_386, 227_018, 264_650, 302_282),
]
LOCAL = (1_687_562, 28_991_178, 25_002_954)


def parameters(**options: object) -> int:
    with torch.device("meta"):
        model = create_model("simple_local_net", **options)
    return sum(p.numel() for p in model.parameters())


def one_layer(position: int, kind: object) -> tuple[object, ...]:
    return tuple(kind if index == position else "conv" for index in range(3))


def test_the_convolutional_network_has_the_authors_count() -> None:
    assert parameters() == 76_490


@pytest.mark.parametrize(("position", "rank"), [*itertools.product(range(3), RANKS)])
def test_counts_of_low_rank_networks_and_of_their_wide_controls(position: int, rank: int) -> None:
    layers = one_layer(position, rank)
    assert parameters(layers=layers, input_size=(32, 32)) == LOW_RANK[position][rank - 1]
    assert parameters(wide=(position + 1, rank)) == WIDE[position][rank - 1]


@pytest.mark.parametrize("position", range(3))
def test_counts_of_locally_connected_networks(position: int) -> None:
    layers = one_layer(position, "local")
    assert parameters(layers=layers, input_size=(32, 32)) == LOCAL[position]


def test_the_authors_widths() -> None:
    assert [wide_width(3, 64, k) for k in RANKS] == [64, 66, 69, 72, 75, 78, 81]
    assert [wide_width(64, 64, k) for k in RANKS] == [64, 96, 128, 160, 192, 224, 256]
    assert [wide_width(64, 64, k, last=True) for k in RANKS] == [64 * k for k in RANKS]


def test_layers_have_their_types_and_sizes() -> None:
    model = create_model(
        "simple_local_net", 4, 1, width=8, layers=("conv", 2, "local"), input_size=(9, 11), seed=0
    )
    assert isinstance(model.conv1, nn.Conv2d)
    assert isinstance(model.conv2, LowRankLocalConv2d)
    assert isinstance(model.conv3, LocalConv2d)
    assert (model.conv2.input_size, model.conv3.input_size) == ((7, 9), (5, 7))
    assert model.conv2.bias is None
    assert model(torch.randn(2, 1, 9, 11)).shape == (2, 4)


def test_the_answer_of_convolutions_does_not_depend_on_the_place() -> None:
    model = create_model("simple_local_net", in_chans=1, width=8, seed=0).eval()
    image = torch.zeros(2, 1, 24, 24)
    image[0, 0, 8:11, 8:11] = image[1, 0, 12:15, 10:13] = 1.0
    first, second = model(image)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ("conv", "conv")}, "must name 3 layers"),
        ({"layers": ("conv", "conv", "full")}, "'full' must be 'conv', 'local', or a rank"),
        ({"layers": ("conv", "conv", 2)}, r"give input_size=\(height, width\)"),
        ({"wide": (4, 2)}, r"wide=\(4, 2\) must be a layer from 1 to 3"),
        ({"wide": (1, 0)}, "a rank of at least 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model("simple_local_net", **options)


def test_an_image_that_vanishes_is_refused() -> None:
    with pytest.raises(InputError, match="6x9 px vanishes"):
        create_model("simple_local_net")(torch.zeros(1, 3, 6, 9))


def test_coordinates_run_from_minus_one_to_one_along_rows_and_columns() -> None:
    image = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    found = AddCoordinates()(image)
    assert found.dtype == image.dtype
    assert torch.equal(found[:, :3], image)
    for row, column in itertools.product(range(4), range(5)):
        place = torch.tensor([2 * row / 3 - 1, 2 * column / 4 - 1], dtype=torch.float64)
        torch.testing.assert_close(found[:, 3:, row, column], place.expand(2, 2))


@pytest.mark.parametrize("name", ["plain_cnn", "simple_local_net", "timm:test_resnet"])
def test_any_network_can_see_coordinates(name: str) -> None:
    model = with_coordinates(create_model(name, 4, 1 + 2, seed=0)).eval()
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)
