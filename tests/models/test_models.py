"""Every registered network: counts, shapes, gradients, precision, export, seeds, state."""

import copy
import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from convprior.errors import InputError
from convprior.models import HeLinear, WideResNet, create_model, list_models

# Slow, and of the same class as a smaller one that stays.
LARGE = {
    *("wrn16_8", "wrn28_10", "wrn40_2", "densenet121", "densenet_bc100_12"),
    *("skipnet_s", "skipnet_m", "skipnet_m_no_skips", "skipnet_l"),
    *("mobilenet_v3_large", "mobilenet_v3_large_skips"),
}
NAMES = [name for name in list_models() if name not in LARGE]
# Networks that `small` builds with fewer channels, since they are slow.
NARROW = {"googlenet", "mobilenet_v2", "resnet18", "vgg11_bn", "vgg16_bn"}
TIMM = "timm:test_resnet"  # timm's own tiny test network
DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def small(name: str, seed: int | None = 0, **options: object) -> nn.Module:
    if name in NARROW:
        options["width"] = 16
    return create_model(name, seed=seed, small_input=not name.startswith("timm:"), **options)


@pytest.mark.parametrize(
    ("name", "classes", "small_input", "count"),
    [
        ("vgg11_bn", 1000, False, 132_868_840),  # torchvision
        ("vgg16_bn", 1000, False, 138_365_992),  # torchvision
        ("resnet18", 1000, False, 11_689_512),  # torchvision
        ("resnet18", 10, True, 11_173_962),  # kuangliu/pytorch-cifar
        ("wrn16_8", 10, True, 10_961_370),  # DEIC and GEM benchmarks
        ("wrn16_8", 10, False, 10_961_370),
        ("wrn28_10", 10, True, 36_479_194),  # 36.5 million in the paper's table 4
        ("wrn40_2", 10, True, 2_243_546),  # 2.2 million in the paper's table 4
    ],
)
def test_parameter_count(name: str, classes: int, small_input: bool, count: int) -> None:
    with torch.device("meta"):
        assert parameters(create_model(name, classes, small_input=small_input)) == count


def test_the_page_tells_the_truth() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", DOCUMENT.read_text(), re.M
    )
    assert [row[0] for row in rows] == list_models()
    for name, *told in rows:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            model = create_model(name, small_input=True).eval()
            model(torch.empty(1, 3, 32, 32))
            standard = create_model(name, 1000)
        macs = counter.get_total_flops() / 2e6
        truth = [f"{parameters(model):,}", f"{macs:,.0f}", f"{parameters(standard):,}"]
        assert [cell.strip() for cell in told] == truth


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("densenet121", torchvision.models.densenet121),
        ("mobilenet_v2", torchvision.models.mobilenet_v2),
        ("resnet18", torchvision.models.resnet18),
        ("vgg11_bn", torchvision.models.vgg11_bn),
        ("vgg16_bn", torchvision.models.vgg16_bn),
    ],
)
def test_state_and_function_of_torchvision(name: str, peer) -> None:
    with torch.device("meta"):
        ours, theirs = create_model(name, 7).eval(), peer(num_classes=7).eval()
        for model in (ours, theirs):  # the 4096-wide layers are the same class and only slow
            if name.startswith("vgg"):
                model.classifier = nn.Linear(512 * 7 * 7, 7)
    generator = torch.Generator().manual_seed(2)
    state = {}
    for key, value in theirs.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        # Filters at He's scale and normalizations near 1, so that depth moves no activation far.
        state[key] = noise * (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 1 + noise / 10
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state, strict=True, assign=True)
    theirs.load_state_dict(state, strict=True, assign=True)
    x = images(2, 3, 45, 70)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", [*NAMES, TIMM])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (5, 64)])
def test_logits(name: str, channels: int, size: int) -> None:
    model = small(name, num_classes=4, in_chans=channels)
    assert model(images(2, channels, size, size + 3)).shape == (2, 4)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vgg16_bn"])
@pytest.mark.parametrize("small_input", [False, True])
def test_eight_pixels(name: str, small_input: bool) -> None:
    options = {"width": 16} if name in NARROW else {}
    model = create_model(name, in_chans=1, small_input=small_input, **options).eval()
    if name in {"vgg11_bn", "densenet_bc40_12"} and not small_input:
        with pytest.raises(InputError, match=r"8x8 px vanishes.*small_input=True"):
            model(images(2, 1, 8, 8))
    else:
        assert model(images(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", ["plain_cnn", "resnet18", "wrn16_2"])
def test_the_standard_form_has_maps_a_quarter_the_size(name: str) -> None:
    sizes: dict[bool, int] = {}
    for small_input in (False, True):
        model = create_model(name, small_input=small_input).eval()
        layer = model.conv2 if name == "plain_cnn" else model.layer1
        layer.register_forward_pre_hook(
            lambda _, args, key=small_input: sizes.__setitem__(key, args[0].shape[-1])
        )
        model(images(1, 3, 64, 64))
    assert sizes == {False: 16, True: 64}


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in NAMES), ("plain_cnn", {"batch_norm": False})]
)
def test_every_parameter_gets_a_gradient(name: str, options: dict[str, bool]) -> None:
    # In eval mode, since a bias in front of batch normalization has no gradient in train mode.
    model = small(name, **options).eval()
    nn.functional.cross_entropy(model(images(4, 3, 32, 32)), torch.arange(4)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.count_nonzero() > 0, key


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_and_bfloat16(name: str) -> None:
    model = small(name)
    x, target = images(8, 3, 32, 32), torch.arange(8)
    fast = copy.deepcopy(model).to(memory_format=torch.channels_last)
    layouts = []
    for layer in fast.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(
                lambda _m, _i, out: layouts.append(
                    out.is_contiguous(memory_format=torch.channels_last)
                )
            )
    with torch.autocast("cpu", torch.bfloat16):
        logits = fast(x.to(memory_format=torch.channels_last))
        nn.functional.cross_entropy(logits.float(), target).backward()
        rounded = fast.eval()(x.to(memory_format=torch.channels_last))
    assert all(layouts)
    assert logits.dtype is torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fast.parameters())
    # bfloat16 has 8 bits; errors of about 40 independent roundings of 2^-9 add up to 1 %. Not in
    # train mode, where dividing by the batch's own deviations magnifies them in a deep network.
    with torch.no_grad():
        model(x)
        exact = model.eval()(x)
    assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("name", [*NAMES, TIMM])
def test_export(name: str) -> None:
    model = small(name).eval()
    x = images(2, 3, 32, 32)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


@pytest.mark.parametrize("name", [*NAMES, TIMM])
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = small(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again = small(name)
    other = small(name, seed=1)
    drawn, same, different = first.state_dict(), again.state_dict(), other.state_dict()
    for key, value in drawn.items():
        assert torch.equal(value, same[key]), key
    weights = [k for k, p in first.named_parameters() if p.ndim > 1]
    assert all(not torch.equal(drawn[k], different[k]) for k in weights)


def test_without_a_seed_the_global_state_decides() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(5)
        models.append(create_model("plain_cnn"))
    assert torch.equal(models[0].fc.weight, models[1].fc.weight)
    assert not torch.equal(models[0].fc.weight, create_model("plain_cnn").fc.weight)


def test_the_seed_decides_on_every_default_device() -> None:
    with torch.device("meta"):
        assert create_model("plain_cnn", seed=0).fc.weight.is_meta
    torch.set_default_device("cpu:0")
    try:
        elsewhere = create_model("plain_cnn", seed=0)
    finally:
        torch.set_default_device(None)
    assert torch.equal(elsewhere.fc.weight, create_model("plain_cnn", seed=0).fc.weight)


@pytest.mark.parametrize("name", [*NAMES, TIMM])
def test_state_dict_round_trip(name: str) -> None:
    source = small(name)
    source(images(4, 3, 32, 32))  # moves the running statistics
    target = small(name, seed=None)
    target.load_state_dict(source.state_dict(), strict=True)
    x = images(2, 3, 32, 32)
    assert torch.equal(target.eval()(x), source.eval()(x))


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_start_from_he_and_redraw_the_same_law(name: str) -> None:
    model = small(name)
    for layer in model.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        for _ in range(2):
            w = layer.weight.detach().double()
            # Mean square of n normal draws: relative standard deviation sqrt(2 / n); 5 of them.
            ratio = w.square().mean().item() * w[0].numel() / 2
            assert abs(ratio - 1) < 5 * (2 / w.numel()) ** 0.5
            assert layer.bias is None or not layer.bias.any()
            layer.reset_parameters()


def test_hidden_linear_layers_start_from_he() -> None:
    layer = HeLinear(300, 400)
    assert abs(layer.weight.square().mean().item() * 300 / 2 - 1) < 5 * (2 / 120_000) ** 0.5
    assert not layer.bias.any()


def test_dropout_of_wide_resnets() -> None:
    model = create_model("wrn10_1", small_input=True, dropout=0.5, seed=0)
    x = images(2, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_widths_and_depths() -> None:
    plain = create_model("plain_cnn", width=8)
    assert parameters(plain) < parameters(create_model("plain_cnn")) / 12
    assert sum(isinstance(m, nn.Conv2d) for m in create_model("wrn22_1").modules()) == 21
    with pytest.raises(InputError, match="width 0 is not positive"):
        WideResNet(16, 0)


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "vgg16_bn"])
@pytest.mark.parametrize("small_input", [False, True])
def test_half_the_width_is_half_of_all_channels(name: str, small_input: bool) -> None:
    with torch.device("meta"):
        models = [create_model(name, small_input=small_input, width=w) for w in (64, 32)]
    whole, half = ([m for m in model.modules() if isinstance(m, nn.Conv2d)] for model in models)
    assert [layer.out_channels for layer in whole] == [2 * layer.out_channels for layer in half]
    assert [layer.in_channels for layer in whole[1:]] == [2 * m.in_channels for m in half[1:]]
    assert whole[0].in_channels == half[0].in_channels == 3
