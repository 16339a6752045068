"""A tap takes the right tensor of the right pass, and leaves the network what it was."""

import copy
import gc
import io
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from convprior.errors import InputError
from convprior.losses import FeatureTap


class Small(nn.Module):
    """Convolution, normalization, ReLU in place; global pooling; dropout; linear."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.dropout(self.pool(self.body(x)).flatten(1)))


def images(seed: int = 0, n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


@pytest.mark.parametrize(
    ("layer", "side", "taken"),
    [
        (None, "auto", "output"),
        ("body", "auto", "output"),
        ("body.2", "output", "output"),
        ("pool", "auto", "input"),
        ("pool", "input", "input"),
    ],
)
def test_every_way_to_the_same_tensor(layer, side, taken) -> None:
    network = Small()
    tap = FeatureTap(network, layer, side=side)
    logits = network.eval()(images())
    assert tap.side == taken
    assert not tap.features.requires_grad
    expected = network.body(images())
    torch.testing.assert_close(tap.features, expected)
    torch.testing.assert_close(network.fc(tap.features.mean((2, 3))), logits)


def test_nothing_is_copied() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity())
    with FeatureTap(network, "0") as tap:
        assert network(images()).data_ptr() == tap.features.data_ptr()


@pytest.mark.parametrize("how", ["layer", "example", "first pass"])
def test_the_network_computes_the_same(how: str) -> None:
    """Same logits, gradients, buffers and draws of the dropout, bit for bit."""
    plain, tapped = Small(), Small()
    tapped.load_state_dict(plain.state_dict())
    torch.manual_seed(1)
    tap = FeatureTap(
        tapped,
        "body" if how == "layer" else None,
        example_input=images(5) if how == "example" else None,
    )
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(1)))
    for network in (plain, tapped):
        torch.manual_seed(2)
        for seed in range(3):
            network(images(seed)).square().sum().backward()
    for one, other in zip(plain.parameters(), tapped.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert plain.state_dict().keys() == tapped.state_dict().keys()
    assert all(torch.equal(v, tapped.state_dict()[k]) for k, v in plain.state_dict().items())
    assert tapped.training
    tap.close()
    assert hooks(tapped) == 0


def test_an_example_leaves_the_modes_of_all_modules() -> None:
    network = Small()
    network.body[1].eval()
    tap = FeatureTap(network, example_input=images())
    assert tap.layer == "body"
    assert [m.training for m in network.body] == [True, False, True]
    with pytest.raises(InputError, match="no forward pass"):  # the example's are nobody's features
        _ = tap.features


@pytest.mark.parametrize("example", [images(), (images(),), {"x": images()}])
def test_forms_of_an_example(example) -> None:
    assert FeatureTap(Small(), example_input=example).layer == "body"


def test_only_two_hooks_stay_after_the_search() -> None:
    network = Small()
    tap = FeatureTap(network)
    assert "to be found in the next forward pass" in repr(tap)
    network(images())
    assert hooks(network) == 2
    assert repr(tap) == "FeatureTap(output of 'body' in Small, before adaptive_avg_pool2d)"


def test_a_pass_that_fails_leaves_the_search_to_the_next() -> None:
    network = Small()
    tap = FeatureTap(network)
    with pytest.raises(RuntimeError, match="channels"):
        network(torch.zeros(1, 5, 8, 8))
    network(images())
    assert tap.features.shape == (4, 6, 8, 8)
    assert hooks(network) == 2


def test_the_last_pass_counts_and_the_last_call_in_it() -> None:
    network = Small()
    tap = FeatureTap(network, "body")
    network(images(0))
    network(images(1, n=3))
    assert len(tap.features) == 3
    twice = nn.Sequential(conv := nn.Conv2d(3, 3, 1), nn.ReLU(), conv)
    with FeatureTap(twice, "0") as again:
        assert torch.equal(twice(images()), again.features)


def test_features_of_an_earlier_pass_are_never_taken_for_new() -> None:
    class Skipping(Small):
        skip = False

        def forward(self, x):
            return x.sum() if self.skip else super().forward(x)

    network = Skipping()
    tap = FeatureTap(network, "body")
    network(images())
    network.skip = True
    network(images())
    with pytest.raises(InputError, match=r"output of 'body' in Skipping: no forward pass has run"):
        _ = tap.features


def test_pop_forgets_and_paused_keeps() -> None:
    network = Small()
    tap = FeatureTap(network, "body")
    network(images(0))
    kept = tap.features
    with tap.paused():
        network(images(1))
    assert tap.features is kept
    assert tap.pop() is kept
    with pytest.raises(InputError, match="made or emptied"):
        tap.pop()


def test_closed_taps_and_lost_networks_say_so() -> None:
    network = Small()
    with FeatureTap(network, "body") as tap:
        network(images())
    assert hooks(network) == 0
    with pytest.raises(InputError, match="the tap is closed"):
        _ = tap.features
    tap.close()
    orphan = FeatureTap(Small(), "body")
    gc.collect()
    with pytest.raises(InputError, match="no longer exists"):
        _ = orphan.features


@pytest.mark.parametrize("layer", [None, "body"])
def test_a_tap_nobody_holds_leaves_the_network(layer) -> None:
    network = Small()
    tap = FeatureTap(network, layer)
    assert hooks(network) == 2
    del tap
    assert hooks(network) == 0


@pytest.mark.parametrize("when", ["before the search", "after it"])
def test_copies_and_saved_networks_have_no_tap(when: str) -> None:
    network = Small().eval()
    tap = FeatureTap(network)
    if when == "after it":
        network(images(0))
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    copies = [
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        torch.load(file, weights_only=False),
    ]
    logits = network(images(0))
    kept = tap.features
    for other in copies:
        assert torch.equal(other(images(0)), logits)
        other(images(1))
        assert tap.features is kept


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool) -> None:
    class Checkpointed(Small):
        def forward(self, x):
            x = checkpoint(self.body, x, use_reentrant=reentrant)
            return self.fc(self.pool(x).flatten(1))

    network = Checkpointed()
    for tap in (FeatureTap(network), FeatureTap(network, "pool")):
        network(images().requires_grad_()).sum().backward()
        assert tap.features.shape == (4, 6, 8, 8)
        assert not tap.features.requires_grad
    assert tap.side == "input"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode) -> None:
    network = Small()
    tap = FeatureTap(network)
    for _ in range(2):
        with mode():
            network(images())
        assert tap.features.shape == (4, 6, 8, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_channels_last(dtype) -> None:
    network = Small().to(memory_format=torch.channels_last)
    tap = FeatureTap(network)
    for _ in range(2):
        with torch.autocast("cpu", dtype):
            network(images().to(memory_format=torch.channels_last))
        assert tap.features.dtype == dtype
        assert tap.features.is_contiguous(memory_format=torch.channels_last)


def test_double_precision_and_other_batch_sizes() -> None:
    network = Small().double()
    tap = FeatureTap(network)
    for n in (4, 1, 0):
        network.eval()(images(n=n).double())
        assert (len(tap.features), tap.features.dtype) == (n, torch.float64)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_wrong_arguments_are_answered_in_one_sentence() -> None:
    network = Small()
    traced = torch.jit.trace(Small().eval(), images())
    for layer, near in (("boddy", "'body'"), ("body.4", "'body.0'"), ("xyz", "'body', 'pool'")):
        with pytest.raises(InputError, match=f"Small has no layer '{layer}'.*{near}"):
            FeatureTap(network, layer)
    with pytest.raises(InputError, match="side is 'left'"):
        FeatureTap(network, "body", side="left")
    with pytest.raises(InputError, match="needs layer="):
        FeatureTap(network, side="input")
    with pytest.raises(InputError, match="the model is a int"):
        FeatureTap(3)
    for example, error, words in (
        (3, InputError, "such as torch"),
        (images()[0, 0], RuntimeError, "Expected"),
    ):
        with pytest.raises(error, match=words):
            FeatureTap(network, example_input=example)
    with pytest.raises(InputError, match="scripted"):
        FeatureTap(traced, "body")
    assert hooks(network) == 0


def test_layers_that_give_no_tensor() -> None:
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    network = nn.Sequential(nn.Conv2d(3, 4, 1), Pair())
    with (
        FeatureTap(network, "1"),
        pytest.raises(InputError, match="output of layer '1' is a tuple"),
    ):
        network(images())


def test_two_searches_in_one_pass_end_in_order() -> None:
    network = Small()
    taps = [FeatureTap(network) for _ in range(2)]
    network(images())
    assert [tap.layer for tap in taps] == ["body"] * 2
    assert torch.overrides._get_current_function_mode_stack() == []
