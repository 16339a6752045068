"""The layers for sequences: equal to those for images of one row, and to nn.Conv1d."""

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.local import LocalConv1d, LocalConv2d, LowRankLocalConv1d, LowRankLocalConv2d

CONVOLUTIONS = {
    "padded": {"padding": 1},
    "strided": {"stride": 2, "padding": (1,)},
    "same and even": {"kernel_size": 4, "padding": "same"},
    "dilated": {"dilation": 3, "padding": "same"},
    "grouped": {"groups": 2, "bias": False},
    "circular": {"padding": 2, "padding_mode": "circular", "kernel_size": (5,)},
    "reflect": {"padding": 2, "padding_mode": "reflect", "kernel_size": 5},
}
SINGLE = ("kernel_size", "stride", "padding", "dilation")


def one_row(value, low):
    """The argument of a 2-d layer on images of one row."""
    return (
        value if isinstance(value, str) else (low, *((value,) if isinstance(value, int) else value))
    )


def pair_of_layers(line, image, **changed):
    made = {
        "in_channels": 4,
        "out_channels": 6,
        "kernel_size": 3,
        "dtype": torch.float64,
        **changed,
    }
    lifted = {k: one_row(v, int(k != "padding")) if k in SINGLE else v for k, v in made.items()}
    ours, theirs = line(**made, input_size=11), image(**lifted, input_size=(1, 11))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.copy_(torch.randn(a.shape, generator=generator))
            b.copy_(a.reshape(b.shape))
    return ours, theirs


def sequences(n=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, 11, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_sequence_is_an_image_of_one_row(kind):
    shared = {**CONVOLUTIONS[kind], "rank": 2, "weights": "map"}
    line, image = pair_of_layers(LowRankLocalConv1d, LowRankLocalConv2d, **shared)
    x = sequences()
    torch.testing.assert_close(line(x), image(x.unsqueeze(2)).squeeze(2))
    torch.testing.assert_close(line.combining_weights(), image.combining_weights().squeeze(1))
    kernels = image.combined_kernels().squeeze(-2).squeeze(0)
    torch.testing.assert_close(line.combined_kernels(), kernels)
    torch.testing.assert_close(line.spatial_bias_map(), image.spatial_bias_map().squeeze(0))
    torch.testing.assert_close(line(x[0]), line(x)[0])
    local = line.to_local()
    assert isinstance(local, LocalConv1d)
    torch.testing.assert_close(local(x), line(x))


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_local_sequence_is_a_local_image_of_one_row(kind):
    line, image = pair_of_layers(LocalConv1d, LocalConv2d, **CONVOLUTIONS[kind])
    x = sequences()
    torch.testing.assert_close(line(x), image(x.unsqueeze(2)).squeeze(2))
    torch.testing.assert_close(line(x[0]), line(x)[0])
    assert repr(line).replace("Conv1d", "").startswith("Local(4, 6, kernel_size=(")


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_rank_one_without_spatial_bias_is_a_convolution(kind):
    made = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, **CONVOLUTIONS[kind]}
    layer = LowRankLocalConv1d(**made, input_size=11, rank=1, spatial_bias=False)
    conv = nn.Conv1d(**made)
    assert layer.load_state_dict(conv.state_dict(), strict=False).missing_keys == ["map_logits"]
    x = sequences().float()
    torch.testing.assert_close(layer(x), conv(x))
    assert repr(layer).startswith(repr(conv).replace("Conv1d", "LowRankLocalConv1d")[:-1])


def test_input_weights_of_sequences():
    layer = LowRankLocalConv1d(4, 6, 3, input_size=11, rank=2, weights="input", init="authors")
    x = sequences().float()
    weights = layer.combining_weights(x)
    assert weights.shape == (3, 2, 9)
    kernels = torch.einsum("nkl,kfct->nlfct", weights, layer.bases)
    patches = x.unfold(2, 3, 1)
    expected = torch.einsum("nlfct,nclt->nfl", kernels, patches)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.combining_weights(x[1]), weights[1])


@pytest.mark.parametrize("make", [LowRankLocalConv1d, LocalConv1d])
def test_other_lengths_are_refused_or_interpolated(make):
    extra = {"rank": 2} if make is LowRankLocalConv1d else {}
    layer = make(4, 6, 3, input_size=11, **extra)
    longer = torch.zeros(2, 4, 15)
    with pytest.raises(InputError, match=r"\(15,\).*\(11,\).*resize_positions\(\(15,\)\)"):
        layer(longer)
    layer.resize_positions((15,))
    assert layer(longer).shape == (2, 6, 13)
    layer.resize_positions(7)
    assert layer.input_size == (7,)
    with pytest.raises(InputError, match="input_size"):
        layer.resize_positions((7, 7))
    with pytest.raises(InputError, match="does not fit"):
        layer.resize_positions(2)


@pytest.mark.parametrize(
    "changed", [{"kernel_size": (3, 3)}, {"weights": "rows"}, {"input_size": 2}]
)
def test_arguments_of_images_are_refused(changed):
    made = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "input_size": 11, "rank": 2}
    with pytest.raises(InputError, match=r"1-d|give an int >= 1|does not fit"):
        LowRankLocalConv1d(**{**made, **changed})
