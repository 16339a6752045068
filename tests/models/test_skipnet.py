"""SkipNet and MobileNetV3-Large: the counts of the papers, the graph of the released code."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from convprior.models import (
    SkipNet,
    create_model,
    list_models,
    mobilenet_v3_large,
    mobilenet_v3_large_skips,
    skipnet_l,
    skipnet_m,
    skipnet_m_no_skips,
    skipnet_s,
    skipnet_xs,
)

SIZES = {"xs": skipnet_xs, "s": skipnet_s, "m": skipnet_m, "l": skipnet_l}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, size: int = 224) -> int:
    """Multiply-adds of all convolutions and linear layers for one image."""
    counts: list[int] = []
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            # Each output channel of each pixel takes one filter, whose entries are weight[0].
            layer.register_forward_hook(
                lambda m, _, out: counts.append(out.numel() * m.weight[0].numel())
            )
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return sum(counts)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("build", "at_1000", "at_100", "at_10", "multiply_adds"),
    [
        (skipnet_xs, 2_328_680, 1_406_180, 1_313_930, 76_213_456),
        (skipnet_s, 3_587_416, 2_664_916, 2_572_666, 170_235_920),
        (skipnet_m, 5_532_352, 4_379_452, 4_264_162, 236_622_048),
        (skipnet_l, 7_134_360, 5_808_660, 5_676_090, 351_803_456),
        (skipnet_m_no_skips, 5_519_592, 4_366_692, 4_251_402, 229_702_464),
        (mobilenet_v3_large, 5_483_032, 4_330_132, 4_214_842, 216_589_760),
        (mobilenet_v3_large_skips, 5_495_792, 4_342_892, 4_227_602, 223_509_344),
    ],
)
def test_counts(build, at_1000: int, at_100: int, at_10: int, multiply_adds: int) -> None:
    assert [parameters(build(n)) for n in (1000, 100, 10)] == [at_1000, at_100, at_10]
    assert parameters(build(10, small_input=True)) == at_10
    assert parameters(create_model(build.__name__, 1000)) == at_1000
    assert macs(build()) == multiply_adds
    assert build.__name__ in list_models()


@pytest.mark.parametrize(
    ("size", "without", "multiply_adds"),
    [
        ("xs", 2_324_160, 73_800_304),
        ("s", 3_576_112, 164_043_888),
        ("m", 5_519_592, 229_702_464),
        ("l", 7_112_080, 339_436_640),
    ],
)
def test_counts_without_skips(size: str, without: int, multiply_adds: int) -> None:
    model = SIZES[size]()
    model.skip1 = model.skip2 = None
    assert parameters(model) == without
    assert macs(model) == multiply_adds


def test_mobilenet_v3_of_the_same_cost() -> None:
    cost = {width: macs(mobilenet_v3_large(width=width)) for width in (16, 17, 18)}
    nearest = min(cost, key=lambda width: abs(cost[width] - 236_622_048))
    assert (nearest, cost[nearest]) == (17, 236_089_008)


# Channels of the depthwise convolution and of the output, blocks 2 to 15.
_BLOCKS = {
    "xs": "32,16 48,16 48,24 72,24 144,24 144,40 104,40 96,40 96,40 240,56 336,56 336,80 480,80 "
    "480,80",
    "s": "64,24 72,24 72,32 96,32 192,32 192,64 160,64 144,64 144,64 384,88 528,88 528,120 "
    "720,120 720,120",
    "m": "64,24 72,24 72,40 120,40 240,40 240,80 200,80 184,80 184,80 480,112 672,112 672,160 "
    "960,160 960,160",
    "l": "96,32 96,32 96,48 144,48 288,48 288,96 240,96 224,96 224,96 576,128 768,128 768,184 "
    "1104,184 1104,184",
}
# Stem; channels of the two skips; last convolution and hidden layer.
_ENDS = {
    "xs": (8, (8, 48, 24), (8, 24, 40), (480, 1024)),
    "s": (16, (16, 96, 32), (16, 40, 64), (720, 1024)),
    "m": (16, (16, 96, 40), (16, 40, 80), (960, 1280)),
    "l": (24, (24, 144, 48), (24, 56, 96), (1104, 1472)),
}


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.bias is None]


@pytest.mark.parametrize("size", SIZES)
def test_channels(size: str) -> None:
    with torch.device("meta"):
        model = SIZES[size]()
    blocks = []
    for block in model.features[2:16]:
        _, depthwise, project = convolutions(block)
        blocks.append(f"{depthwise.out_channels},{project.out_channels}")
    assert " ".join(blocks) == _BLOCKS[size]
    skips = []
    for skip in (model.skip1, model.skip2):
        expand, depthwise, project = convolutions(skip)
        assert depthwise.groups == depthwise.in_channels == expand.out_channels
        skips.append((expand.in_channels, expand.out_channels, project.out_channels))
    ends = (model.num_features, model.head_hidden_size)
    assert (model.features[0][0].out_channels, *skips, ends) == _ENDS[size]


def test_blocks_of_the_table() -> None:
    with torch.device("meta"):
        model = skipnet_m()
        sizes = []
        for layer in model.features:
            layer.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[-1]))
        model(torch.empty(2, 3, 224, 224))
    assert [parameters(layer) for layer in model.features] == [
        *(464, 752, 3_440, 4_440, 10_328, 20_992, 57_264, 32_080, 34_760, 31_992, 31_992),
        *(214_424, 386_120, 429_224, 797_360, 797_360, 155_520),
    ]
    assert sizes == [112] * 2 + [56] * 2 + [28] * 3 + [14] * 6 + [7] * 4
    assert [parameters(model.skip1), parameters(model.skip2)] == [8_240, 4_520]
    gates = [getattr(layer.block[-2], "fc1", None) for layer in model.features[1:16]]
    hidden = [24, 32, 64, 120, 168, 168, 240, 240]
    assert [gate.out_channels for gate in gates if gate is not None] == hidden
    kernels = [convolutions(layer)[1].kernel_size[0] for layer in model.features[1:16]]
    assert kernels == [3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5]
    swish = [i for i in range(1, 16) if isinstance(model.features[i].block[0][2], nn.Hardswish)]
    assert swish == [1, *range(6, 16)]


def random_state(model: nn.Module, seed: int = 2) -> dict[str, Tensor]:
    """Filters at He's scale and normalizations near 1, so that depth moves no activation far."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        state[key] = noise * (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 1 + noise / 10
        if key.endswith("num_batches_tracked"):
            state[key] = value
    return state


def test_state_and_function_of_torchvision() -> None:
    theirs = torchvision.models.mobilenet_v3_large(num_classes=7).double().eval()
    ours = mobilenet_v3_large(7).double().eval()
    state = random_state(theirs)
    theirs.load_state_dict(state, strict=True)
    ours.load_state_dict(state, strict=True)
    for layer in ours.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.001  # torchvision's
    x = images(2, 3, 45, 70).double()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("width", "name"), [(12, "075"), (16, "100")])
def test_the_widths_of_timm(width: int, name: str) -> None:
    # Not the first block, whose depthwise convolution timm names otherwise, nor the head.
    with torch.device("meta"):
        ours = mobilenet_v3_large(width=width).features[2:16].parameters()
        theirs = timm.create_model(f"mobilenetv3_large_{name}").blocks
    blocks = nn.ModuleList(block for stage in theirs[1:6] for block in stage).parameters()
    assert [p.shape for p in ours] == [p.shape for p in blocks]


def released(model: SkipNet, x: Tensor) -> Tensor:
    """The graph of the authors' code at 224 px: pools of 4x4 and 8x8 cells."""
    early = model.features[:2](x)
    x = model.features[2:7](early) + model.skip1.block(avg_pool2d(early, 4))
    x = model.features[7:11](x) + model.skip2.block(avg_pool2d(early, 8))
    x = model.features[11:](x).mean((2, 3))
    hidden = model.classifier[0](x)
    return model.classifier[3](hidden * (hidden + 3).clamp(0, 6) / 6)


def test_the_released_graph() -> None:
    model = skipnet_m(5, width=4).double().eval()
    model.load_state_dict(random_state(model))
    x = images(2, 3, 224, 224).double()
    with torch.no_grad():
        torch.testing.assert_close(model(x), released(model, x))


def test_a_silent_skip_is_no_skip() -> None:
    model, plain = skipnet_m(5, width=4).eval(), skipnet_m_no_skips(5, width=4).eval()
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("skip")}
    plain.load_state_dict(kept, strict=True)
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        loud = model(x)
        for skip in (model.skip1, model.skip2):
            skip.block[-1][1].weight.zero_()
        assert torch.equal(model(x), plain(x))
        assert not torch.equal(loud, plain(x))


@pytest.mark.parametrize("size", SIZES)
def test_any_size_of_image(size: str) -> None:
    model = SIZES[size](10).eval()
    for h, w in [(n, n) for n in (32, 64, 96, 160, 192, 224, 256)] + [(225, 191), (33, 130)]:
        with torch.set_grad_enabled(h in {32, 225}):
            maps = model.forward_features(torch.zeros(1, 3, h, w))
            logits = model.forward_head(maps)
        assert maps.shape == (1, model.num_features, -(-h // 32), -(-w // 32))
        assert logits.shape == (1, 10)
        if logits.requires_grad:
            logits.sum().backward()


@pytest.mark.parametrize("ratio", [0.1, 0.35, 0.9, 1.4])
@pytest.mark.parametrize(("small_input", "size"), [(False, (225, 191)), (True, (9, 31))])
def test_any_width(ratio: float, small_input: bool, size: tuple[int, int]) -> None:
    model = SkipNet(10, 1, small_input, width=16 * ratio)
    model(torch.zeros(2, 1, *size)).sum().backward()
    assert all(p.shape == p.grad.shape for p in model.parameters())


@pytest.mark.parametrize(("small_input", "size"), [(False, (75, 41)), (True, (28, 20))])
def test_every_parameter_gets_a_gradient(small_input: bool, size: tuple[int, int]) -> None:
    model = create_model("skipnet_l", 4, small_input=small_input, width=8, seed=0)
    nn.functional.cross_entropy(model(images(4, 3, *size)), torch.arange(4)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.count_nonzero() > 0, key


def test_the_small_form() -> None:
    large, small = (create_model("skipnet_xs", small_input=s, seed=int(s)) for s in (False, True))
    small.load_state_dict(large.state_dict(), strict=True)
    for size, reductions in ((32, [1, 1, 2, 4, 8]), (8, [1, 1, 2, 4, 8])):
        maps = small.eval().forward_intermediates(images(1, 3, size, size))[1]
        assert [m.shape[-1] for m in maps] == [size // r for r in reductions]
    assert [large.classifier[2].p, small.classifier[2].p] == [0.2, 0.0]
    assert create_model("skipnet_xs", small_input=True, dropout=0.5).classifier[2].p == 0.5
