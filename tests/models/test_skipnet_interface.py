"""SkipNet's methods of a timm network, scripting and export."""

import copy

import pytest
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.models import SkipNet, create_model


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> SkipNet:
    return create_model("skipnet_m", 5, width=4, seed=0).eval()


X = images(2, 3, 64, 64)


def test_the_parts_make_the_whole(model: SkipNet) -> None:
    maps = model.forward_features(X)
    hidden = model.forward_head(maps, pre_logits=True)
    assert maps.shape == (2, model.num_features, 2, 2)
    assert hidden.shape == (2, model.head_hidden_size)
    assert torch.equal(model.get_classifier()(hidden), model(X))
    assert torch.equal(model.forward_head(maps), model(X))


def test_reset_classifier(model: SkipNet) -> None:
    maps = model.forward_features(X)
    hidden = model.forward_head(maps, pre_logits=True)
    model.reset_classifier(0)
    assert torch.equal(model(X), hidden)
    model.reset_classifier(3)
    assert model(X).shape == (2, 3)
    assert not model.get_classifier().training
    model.reset_classifier(0, "")
    assert torch.equal(model(X), maps)
    model.reset_classifier(7, "avg")
    assert model(X).shape == (2, 7)
    with pytest.raises(InputError, match="num_classes=3 needs a pooling"):
        model.reset_classifier(3, "")
    with pytest.raises(InputError, match="global_pool='max' is not offered"):
        model.reset_classifier(3, "max")
    assert SkipNet(0, width=4).eval()(X).shape == (2, 1280)


@pytest.mark.parametrize("name", ["skipnet_m", "mobilenet_v3_large"])
@pytest.mark.parametrize("small_input", [False, True])
def test_feature_info_tells_the_truth(name: str, small_input: bool) -> None:
    model = create_model(name, small_input=small_input, width=4, seed=0).eval()
    seen: dict[str, Tensor] = {}
    for info in model.feature_info:
        model.get_submodule(info["module"]).register_forward_hook(
            lambda _m, _i, out, key=info["module"]: seen.__setitem__(key, out)
        )
    last, maps = model.forward_intermediates(X)
    assert last is maps[-1]
    for info, found in zip(model.feature_info, maps, strict=True):
        assert found is seen[info["module"]]
        assert found.shape[1:3] == (info["num_chs"], 64 // info["reduction"])


@pytest.mark.parametrize(
    ("indices", "positions"),
    [(None, [0, 1, 2, 3, 4]), (2, [3, 4]), ([0, 2], [0, 2]), ((-1, 1), [1, 4])],
)
def test_intermediates(model: SkipNet, indices, positions: list[int]) -> None:
    everything = model.forward_intermediates(X, intermediates_only=True)
    last, maps = model.forward_intermediates(X, indices)
    assert torch.equal(last, everything[-1])
    assert len(maps) == len(positions)
    assert all(torch.equal(m, everything[i]) for m, i in zip(maps, positions, strict=True))
    pruned = copy.deepcopy(model)
    assert pruned.prune_intermediate_layers(indices or 5) == positions
    again = pruned.forward_intermediates(X, positions, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(again, maps, strict=True))
    assert torch.equal(pruned(X), again[-1])
    assert pruned.num_features == again[-1].shape[1]


def test_pruning_leaves_nothing_unused(model: SkipNet) -> None:
    model.prune_intermediate_layers([1])
    model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(model.features) == 4


def test_what_intermediates_refuse(model: SkipNet) -> None:
    for indices in (0, 6, [5], [-6]):
        with pytest.raises(InputError, match="give"):
            model.forward_intermediates(X, indices)
    with pytest.raises(InputError, match="'NLC' is not offered"):
        model.forward_intermediates(X, output_fmt="NLC")
    with pytest.raises(InputError, match="intermediates_only=True"):
        model.forward_intermediates(X, stop_early=True)


def test_checkpointing_changes_no_gradient(model: SkipNet) -> None:
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        nn.functional.cross_entropy(model(X), torch.arange(2)).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, again)


def test_groups_are_ordered_by_depth(model: SkipNet) -> None:
    groups = group_parameters(model, model.group_matcher())
    depth = {name: group for group, names in groups.items() for name in names}
    assert set(depth) == {name for name, _ in model.named_parameters()}
    order = [depth[name] for name, _ in model.named_parameters() if name.startswith("features")]
    assert order == sorted(order)
    assert depth["skip1.block.0.0.weight"] == depth["features.6.block.0.0.weight"]
    assert depth["skip2.block.0.0.weight"] == depth["features.10.block.0.0.weight"]


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("name", ["skipnet_m", "mobilenet_v3_large"])
def test_scripts(name: str) -> None:
    model = create_model(name, 5, width=4, seed=0).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(model)(X), model(X))


def test_exports_for_any_batch(model: SkipNet) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (X,), dynamic_shapes={"x": {0: batch}})
    more = images(5, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(more), model(more))


def test_hidden_features_are_those_before_the_dropout() -> None:
    model = create_model("skipnet_m", 5, width=4, dropout=0.9, seed=0).eval()
    maps = model.forward_features(X)
    before = model.forward_head(maps, pre_logits=True)
    assert torch.equal(model.train().forward_head(maps, pre_logits=True), before)


def test_a_pruned_network_has_no_classifier(model: SkipNet) -> None:
    model.prune_intermediate_layers([1])
    assert isinstance(model.get_classifier(), nn.Identity)
    model.reset_classifier(0)
    with pytest.raises(InputError, match="has dropped the head"):
        model.reset_classifier(3)
