"""Our networks in timm: found in any order of imports, and passing timm's kind of tests."""

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from convprior._timm_hook import register_in_timm
from convprior.models import create_model

NAMES = timm.list_models("convprior_*")
M = "convprior_skipnet_m"
REGISTRATION = "convprior.models.timm_registration"


def images(size: int = 64, n: int = 1, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_convprior_waits_for_timm() -> None:
    script = (
        "import importlib, importlib.util, sys, convprior\n"
        "importlib.reload(convprior)\n"
        "assert importlib.util.find_spec('timm')\n"
        "assert not {'timm', 'torch'} & set(sys.modules)\n"
        "from timm.models import mobilenetv3\n"
        "import timm\n"
        "importlib.reload(timm)\n"
        f"print(timm.is_model('{M}'), [f for f in sys.meta_path if 'convprior' in str(f)])"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.strip() == "True []"


def test_timm_is_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, REGISTRATION)
    with pytest.warns(UserWarning, match="Overwriting") as caught:  # by timm: once more
        register_in_timm()
    assert len(caught) == len(NAMES)


def test_timm_cannot_take_our_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, REGISTRATION, None)
    with pytest.warns(RuntimeWarning, match=f"not in the registry of timm {timm.__version__}"):
        register_in_timm()


def test_names() -> None:
    sizes = [f"convprior_skipnet_{size}" for size in ("l", "m", "m_no_skips", "s", "xs")]
    others = ["convprior_mobilenet_v3_large", "convprior_mobilenet_v3_large_skips"]
    assert others + sizes == NAMES
    assert all(timm.models.is_model_in_modules(name, ["timm_registration"]) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_same_network_as_ours(name: str) -> None:
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in timm.create_model(name).state_dict().items()}
        ours = create_model(name.removeprefix("convprior_"), num_classes=1000).state_dict()
    assert shapes == {k: v.shape for k, v in ours.items()}


def test_reached_through_our_registry_too() -> None:
    model = create_model(f"timm:{M}", 7, 2, seed=0, drop_rate=0.5)
    assert model(images(channels=2)).shape == (1, 7)
    with pytest.raises(RuntimeError, match=f"No pretrained weights exist for {M}"):
        timm.create_model(M, pretrained=True)


@pytest.mark.parametrize("name", NAMES)
def test_backward(name: str) -> None:
    model = timm.create_model(name, num_classes=42).train()
    outputs = model(images(n=2))
    outputs.mean().backward()
    assert outputs.shape == (2, 42)
    assert not outputs.isnan().any()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_default_cfg(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
        cfg = model.default_cfg
        features = model.forward_features(torch.empty(1, *cfg["input_size"]))
    assert features.shape == (1, model.num_features, *cfg["pool_size"])
    assert cfg["architecture"] == name
    assert "url" not in cfg
    for layer in (cfg["classifier"], cfg["first_conv"]):
        assert f"{layer}.weight" in model.state_dict()
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert timm.data.resolve_data_config(model=model)["input_size"] == (3, 224, 224)


@torch.no_grad()
def test_heads() -> None:
    model = timm.create_model(M).eval()
    x = images()
    features = model.forward_features(x)
    assert torch.equal(model(x), model.forward_head(features))
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (1, model.head_hidden_size)
    assert torch.equal(model.get_classifier()(hidden), model(x))

    model.reset_classifier(5)
    assert model.num_classes == 5
    assert model(x).shape == (1, 5)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert torch.equal(model(x), hidden)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), features)


@torch.no_grad()
def test_arguments_of_timm() -> None:
    x = images(channels=1)
    assert timm.create_model(M, num_classes=0, in_chans=1).eval()(x).shape == (1, 1280)
    unpooled = timm.create_model(M, num_classes=0, global_pool="", in_chans=1).eval()
    assert unpooled(x).ndim == 4
    rates = [
        m.p for m in timm.create_model(M, drop_rate=0.4).modules() if isinstance(m, nn.Dropout)
    ]
    assert rates == [0.4]
    small = timm.create_model(M, width=8, small_input=True, num_classes=3)
    assert small.eval()(images(32)).shape == (1, 3)


def test_weights_of_three_channels_load_into_one() -> None:
    source = timm.create_model("convprior_skipnet_xs")
    overlay = {"state_dict": source.state_dict()}
    model = timm.create_model(
        "convprior_skipnet_xs", True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=5
    )
    first = source.default_cfg["first_conv"] + ".weight"
    summed = source.state_dict()[first].sum(1, keepdim=True)
    assert torch.allclose(model.state_dict()[first], summed, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_features_only(name: str) -> None:
    whole = timm.create_model(name).eval()
    model = timm.create_model(name, features_only=True).eval()
    model.load_state_dict({f"model.{k}": v for k, v in whole.state_dict().items()}, strict=False)
    info = model.feature_info
    assert info.reduction() == [2, 4, 8, 16, 32]
    for size in (96, 75):
        outputs = model(images(size))
        assert [o.shape[1] for o in outputs] == info.channels()
        assert [o.shape[2] for o in outputs] == [math.ceil(size / r) for r in info.reduction()]
    _, intermediates = whole.forward_intermediates(images(75))
    for output, intermediate in zip(outputs, intermediates, strict=True):
        assert torch.equal(output, intermediate)


def test_features_only_keeps_what_it_needs() -> None:
    model = timm.create_model(M, features_only=True, out_indices=(1, 3))
    outputs = model(images(n=2))
    assert [o.shape[1] for o in outputs] == model.feature_info.channels()
    assert model.feature_info.reduction() == [4, 16]
    sum(o.mean() for o in outputs).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_forward_intermediates() -> None:
    model = timm.create_model(M).eval()
    x = images()
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    channels = [info["num_chs"] for info in model.feature_info]
    assert [m.shape[1] for m in maps] == channels
    two = model.forward_intermediates(x, indices=2, intermediates_only=True)
    assert all(map(torch.equal, two, maps[-2:]))
    early = model.forward_intermediates(x, indices=[0, 2], stop_early=True, intermediates_only=True)
    assert all(map(torch.equal, early, [maps[0], maps[2]]))


def compiled_by_script(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    return torch.jit.script(model)


def exported(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()


@pytest.mark.parametrize("name", [M, "convprior_mobilenet_v3_large"])
@pytest.mark.parametrize("convert", [compiled_by_script, exported])
@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")
@torch.no_grad()
def test_scripted_and_exported(
    name: str, convert: Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]
) -> None:
    model = timm.create_model(name, scriptable=True).eval()
    x = images(n=2)
    torch.testing.assert_close(convert(model, x)(x), model(x))


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = timm.create_model("convprior_skipnet_xs", num_classes=3, drop_rate=0.0)
        model.set_grad_checkpointing(checkpointing)
        model(images(32, n=2)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_layers_group_by_depth() -> None:
    model = timm.create_model(M)
    groups = timm.models.group_parameters(model, model.group_matcher())
    named = [name for group in groups.values() for name in group]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    assert len(groups) > 15
