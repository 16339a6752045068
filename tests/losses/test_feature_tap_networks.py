"""The right feature map of every kind of network, found without a word about the network."""

import pytest
import timm
import torch
import torchvision.models
from torch import nn

from convprior.errors import InputError
from convprior.local import localize
from convprior.losses import FeatureTap
from convprior.models import create_model, list_models


def tapped(network: nn.Module, *shape: int) -> FeatureTap:
    """A tap after one pass, in evaluation mode; without numbers where the network has none."""
    device = next(network.parameters()).device
    tap = FeatureTap(network.eval())
    with torch.no_grad():
        network(torch.zeros(*shape, device=device))
    return tap


def on_meta(build, *args, **kwargs) -> nn.Module:
    with torch.device("meta"):
        return build(*args, **kwargs)


# Channels of the last map, from each network's paper, by width and growth.
REGISTRY = {
    "densenet121": 1024,
    "densenet_bc40_12": 132,
    "densenet_bc100_12": 342,
    "googlenet": 1024,
    "mobilenet_v2": 1280,
    "plain_cnn": 128,
    "resnet18": 512,
    "simple_local_net": 64,
    "vgg11_bn": 512,
    "vgg16_bn": 512,
    "wrn16_2": 128,
    "wrn16_8": 512,
    "wrn28_10": 640,
    "wrn40_2": 128,
}


@pytest.mark.parametrize("name", list_models())
def test_every_network_of_ours(name: str) -> None:
    network = on_meta(create_model, name, small_input=True)
    tap = tapped(network, 2, 3, 32, 32)
    assert tap.features.dim() == 4
    channels = [m.in_features for m in network.modules() if isinstance(m, nn.Linear)]
    assert tap.features.shape[1] == REGISTRY.get(name, tap.features.shape[1])
    if len(channels) == 1:
        assert tap.features.shape[1] == channels[0]
    assert ", the module output nearest" not in repr(tap)


# What section 2.2 of the paper's code taps, at the sizes used there.
@pytest.mark.parametrize(
    ("name", "layer", "shape", "pixels"),
    [
        ("mobilenetv3_large_100", None, (960, 7, 7), 224),
        ("resnet18", None, (512, 7, 7), 224),
        ("densenet121", "features.denseblock4", (1024, 7, 7), 224),
    ],
)
def test_the_maps_of_the_paper_in_timm(name, layer, shape, pixels) -> None:
    network = on_meta(timm.create_model, name)
    with FeatureTap(network, layer) as tap:
        network(torch.zeros(2, 3, pixels, pixels, device="meta"))
        assert tap.features.shape == (2, *shape)


def test_the_map_before_the_last_normalization_of_densenet_has_negatives() -> None:
    network = create_model("densenet_bc40_12", small_input=True, seed=0)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with FeatureTap(network, "features.denseblock3") as before, FeatureTap(network) as after:
        network(images)
        assert before.features.shape == after.features.shape == (2, 132, 2, 2)
        assert before.features.min() < 0.0 <= after.features.min()


# Name, channels of the last map, and the module that makes it.
FAMILIES = [
    ("convnext_atto", 320, "norm_pre"),
    ("dla34", 512, "level5"),
    ("eca_nfnet_l0", 2304, "final_act"),
    ("efficientnet_lite0", 1280, "bn2"),
    ("ghostnet_100", 960, "blocks"),
    ("hrnet_w18_small", 2048, "final_layer"),
    ("legacy_seresnet18", 512, "layer4"),
    ("mambaout_femto", 288, "stages"),
    ("mobilenetv4_conv_small", 960, "blocks"),
    ("poolformer_s12", 512, "stages"),
    ("regnety_002", 368, "final_conv"),
    ("repvgg_a0", 1280, "final_conv"),
    ("resnetv2_50", 2048, "norm"),
    ("selecsls42b", 1024, "head"),
    ("skresnet18", 512, "layer4"),
]


@pytest.mark.parametrize(("name", "channels", "layer"), FAMILIES)
def test_families_of_timm(name: str, channels: int, layer: str) -> None:
    tap = tapped(on_meta(timm.create_model, name), 2, 3, 64, 64)
    assert (tap.layer, tap.side) == (layer, "output")
    assert tap.features.shape[:2] == (2, channels)
    assert tap.features.dim() == 4


def test_maps_with_channels_last_are_turned() -> None:
    network = on_meta(timm.create_model, "swin_tiny_patch4_window7_224")
    assert tapped(network, 2, 3, 224, 224).features.shape == (2, 768, 7, 7)


def test_pooling_by_attention() -> None:
    tap = tapped(on_meta(timm.create_model, "resnet50_clip"), 2, 3, 224, 224)
    assert tap.features.shape == (2, 2048, 7, 7)
    assert "before AttentionPool2d" in repr(tap)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s16_224"])
def test_networks_of_tokens_ask_for_a_layer(name: str) -> None:
    network = on_meta(timm.create_model, name)
    images = torch.zeros(1, 3, 224, 224, device="meta")
    tap = FeatureTap(network.eval())
    with pytest.raises(InputError, match=r"no global pooling .* give layer='\w+', its last map"):
        network(images)
    network(images)  # the search is over and the network as it was
    assert tap.layer is None
    with FeatureTap(network, "blocks.1") as tap:
        network(images)
        assert tap.features.dim() == 3


@pytest.mark.parametrize(
    ("name", "shape", "pixels"),
    [
        ("densenet121", (1024, 2, 2), 64),
        ("mobilenet_v3_large", (960, 7, 7), 224),
        ("vgg11", (512, 7, 7), 224),
    ],
)
def test_torchvision_with_poolings_that_are_functions(name, shape, pixels) -> None:
    network = on_meta(getattr(torchvision.models, name), weights=None)
    assert tapped(network, 2, 3, pixels, pixels).features.shape == (2, *shape)


def test_maps_of_one_pixel() -> None:
    network = create_model("resnet18", small_input=True)
    assert tapped(network, 2, 3, 8, 8).features.shape == (2, 512, 1, 1)
    tap = tapped(on_meta(timm.create_model, "convnext_atto"), 2, 3, 32, 32)
    assert (tap.layer, tap.features.shape) == ("norm_pre", (2, 320, 1, 1))


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(48, 2)),
        nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(48, 2)),
        nn.Sequential(nn.Conv2d(3, 2, 1)),
    ],
    ids=["images flattened", "images passed on", "a map of logits"],
)
def test_images_and_maps_of_logits_are_no_features(network: nn.Module) -> None:
    with pytest.raises(InputError, match="no global pooling or flattening of a feature map"):
        FeatureTap(network, example_input=torch.zeros(1, 3, 4, 4))


def test_functions_of_autograd_hide_nothing() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    class Doubling(nn.Module):
        def forward(self, x):
            return Double.apply(x)

    network = nn.Sequential(nn.Conv2d(3, 4, 1), Doubling(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    tap = FeatureTap(network, example_input=torch.zeros(1, 3, 4, 4))
    assert tap.layer == "1"


def test_a_network_of_ours_with_local_layers() -> None:
    network = create_model("resnet18", small_input=True, width=8)
    local = localize(network, torch.zeros(1, 3, 8, 8), rank=1, layers=["layer4.1.conv2"])
    with FeatureTap(local) as tap:
        local(torch.zeros(4, 3, 8, 8))
        assert (tap.layer, tap.features.shape) == ("layer4", (4, 64, 1, 1))
