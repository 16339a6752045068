"""Predicted tap profiles: known inputs, networks left untouched, and statistics by hand."""

import json
import math

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.filters import (
    FilterPrior,
    most_cohesive_filter,
    predict_taps,
    spatial_correlation,
    tap_profile,
)
from convprior.filters.cohesion.agreement import agreement, mean_ranks, pearson
from convprior.filters.cohesion.chart import draw_prediction
from convprior.filters.cohesion.listening import run_listening
from convprior.models import create_model


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smooth(n=16, channels=3, size=12, seed=0):
    field = noise(n, channels, size + 2, size + 2, seed=seed)
    return nn.functional.avg_pool2d(field, 3, stride=1)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, (3, 5), groups=8),
        nn.Dropout(0.5),
        nn.ConvTranspose2d(8, 2, 3),
    )


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_each_layer_is_predicted_from_its_own_input():
    net, x = small_network().eval(), smooth()
    found = predict_taps(net, x)
    assert [layer.name for layer in found] == ["0", "3", "6"]
    assert [layer.kind for layer in found] == ["dense", "grouped", "depthwise"]
    assert [layer.map_size for layer in found] == [(12, 12), (12, 12), (12, 12)]
    assert list(found.skipped) == ["8"]
    assert "transposed" in found.skipped["8"]
    with torch.no_grad():
        for index, size, dilation in ((0, (3, 3), 1), (3, (5, 5), 2), (6, (3, 5), 1)):
            layer = found[[0, 3, 6].index(index)]
            for expected, center in ((layer.centered, True), (layer.raw, False)):
                relation = spatial_correlation(net[:index](x), size, dilation, center=center)
                torch.testing.assert_close(expected.correlation, relation, atol=1e-9, rtol=0)
                taps = most_cohesive_filter(size, relation)
                torch.testing.assert_close(expected.profile, taps, atol=1e-6, rtol=0)
    # A 3x3 mean of white noise: correlation (1 - |dy|/3)(1 - |dx|/3), within sampling error.
    line = 1 - (torch.arange(3)[:, None] - torch.arange(3)).abs().double() / 3
    torch.testing.assert_close(
        found[0].centered.correlation, torch.kron(line, line), atol=0.1, rtol=0
    )


def test_measured_ratios_are_those_of_the_tap_profile():
    net = small_network()
    profile = {layer.name: layer for layer in tap_profile(net)}
    for layer in predict_taps(net, smooth()):
        torch.testing.assert_close(
            layer.measured, profile[layer.name].rms.double() / profile[layer.name].rms.norm()
        )
        assert layer.centre_edge == pytest.approx(profile[layer.name].centre_edge)
        assert layer.centre_corner == pytest.approx(profile[layer.name].centre_corner)


def test_batches_make_no_difference():
    net, x = small_network(), smooth(20)
    whole = predict_taps(net, x)
    labels = torch.zeros(20)
    forms = (
        [x[:3], x[3:]],
        [(x[:8], labels[:8]), [x[8:], labels[8:]]],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=6),
    )
    for form in forms:
        found = predict_taps(net, form)
        assert found.images == 20
        for one, other in zip(whole, found, strict=True):
            torch.testing.assert_close(
                one.centered.correlation, other.centered.correlation, atol=1e-5, rtol=0
            )
    few = predict_taps(net, [x[:8], x[8:]], limit=10)
    assert few.images == 10
    alone = predict_taps(net, x[:10])
    torch.testing.assert_close(few[0].raw.correlation, alone[0].raw.correlation)


def test_the_network_is_left_as_it_was():
    net = small_network()
    net[1].eval()  # a frozen part inside a network in training
    before, modes = state(net), [module.training for module in net.modules()]
    random = torch.get_rng_state()
    predict_taps(net, smooth())
    with pytest.raises(RuntimeError):
        predict_taps(net, [smooth(), noise(2, 5, 12, 12)])  # fails half-way
    after = state(net)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in net.modules()] == modes
    assert all(not module._forward_pre_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_a_parametrized_network_in_training_is_left_as_it_was():
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)))
    before = state(net)
    assert len(predict_taps(net, smooth())) == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in state(net).items())


def test_wrappers_are_looked_through():
    net, x = small_network(), smooth()
    expected = predict_taps(net, x)
    inside = nn.Sequential(torch.compile(net, backend="eager"))
    for wrapped in (torch.compile(net, backend="eager"), nn.DataParallel(net), inside):
        found = predict_taps(wrapped, x)
        for one, other in zip(expected, found, strict=True):
            assert other.name.endswith(one.name)
            assert torch.equal(one.centered.correlation, other.centered.correlation)


def test_distributed_wrapper_is_looked_through(tmp_path):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        net = small_network()
        wrapped = nn.parallel.DistributedDataParallel(net)
        assert [one.name for one in predict_taps(wrapped, smooth())] == ["0", "3", "6"]
    finally:
        torch.distributed.destroy_process_group()


def test_an_already_compiled_part_is_heard():
    part = torch.compile(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), backend="eager")
    net = nn.Sequential(part, nn.Conv2d(4, 4, 3)).eval()
    with torch.no_grad():
        net(smooth())
    assert len(predict_taps(net, smooth())) == 2


def test_other_dimensions_types_and_calls():
    line = nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU(), nn.Conv1d(3, 3, 4))
    found = predict_taps(line, noise(6, 2, 20))
    assert [layer.measured.shape for layer in found] == [(5,), (4,)]
    assert found[0].centre_corner is None
    assert found[0].centre_edge is not None
    solid = predict_taps(nn.Conv3d(1, 2, 3), smooth(4, 6, 6)[:, None])
    assert solid[0].name == ""
    assert "(itself)" in str(solid)
    half = predict_taps(nn.Conv2d(3, 2, 3).to(torch.bfloat16), smooth())
    assert half[0].centered.correlation.dtype == torch.float64

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)
            self.idle = nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return self.conv(input=x[0])  # one image, without a batch axis

    found = predict_taps(Named(), smooth(1))
    assert [layer.name for layer in found] == ["conv"]
    assert "did not reach" in found.skipped["idle"]


def test_what_cannot_be_predicted_is_said():
    dead = nn.Conv2d(4, 4, 3, padding=1)
    nn.init.zeros_(dead.weight)
    nn.init.zeros_(dead.bias)
    last = nn.Conv2d(4, 4, 3, padding=1)
    tiny = nn.Conv2d(4, 4, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), dead, last, nn.AdaptiveAvgPool2d(2), tiny)
    found = predict_taps(net, smooth())
    assert [layer.name for layer in found] == ["0"]
    assert "all its weights are zero" in found.skipped["1"]
    assert "constant" in found.skipped["2"]
    assert "smaller than the window" in found.skipped["4"]
    assert "skipped 4: " in found.table()


def test_anticorrelated_input_has_no_prediction():
    board = (torch.arange(10)[:, None] + torch.arange(10)) % 2 * 2.0 - 1
    signs = noise(8, 1, 1, 1).sign()
    found = predict_taps(nn.Conv2d(1, 4, 3), signs * board + 0.1 * noise(8, 1, 10, 10))
    assert not found[0].centered.positive
    assert found[0].centered.centre_corner is None
    assert "taps of both signs" in found.table()
    assert found.to_dict()["agreement_centered"] == {}
    with pytest.raises(InputError, match="0 layers"):
        found.agreement()
    with pytest.raises(InputError, match="nothing to draw"):
        found.chart()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images were given"),
        ([{"image": 1}], "a batch is dict"),
        (torch.zeros(2, 3), r"shape \(2, 3\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "normalized"),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(InputError, match=message):
        predict_taps(nn.Conv2d(3, 2, 3), images)


def test_wrong_arguments():
    with pytest.raises(InputError, match="1x1 and has no profile"):
        predict_taps(nn.Conv2d(3, 2, 1), smooth())
    with pytest.raises(InputError, match="limit of 1"):
        predict_taps(nn.Conv2d(3, 2, 3), smooth(), limit=0)
    with pytest.raises(InputError, match="batch_size is 0"):
        run_listening(nn.Conv2d(3, 2, 3), smooth(), {}, batch_size=0)
    found = predict_taps(nn.Conv2d(3, 2, 3), smooth())
    with pytest.raises(InputError, match="choose one of centered, raw"):
        found.agreement(moments="plain")
    with pytest.raises(InputError, match="choose one of centre_corner"):
        found.agreement("center")
    with pytest.raises(InputError, match="matches no convolution"):
        predict_taps(small_network(), smooth(), include="layer9")


def test_agreement_of_a_network_that_was_planted():
    class Parallel(nn.Module):
        def __init__(self, blurs):
            super().__init__()
            self.blurs = blurs
            self.convs = nn.ModuleList(nn.Conv2d(3, 16, 3) for _ in blurs)

        def forward(self, x):
            return [
                conv(nn.functional.avg_pool2d(x, blur, stride=1))
                for conv, blur in zip(self.convs, self.blurs, strict=True)
            ]

    net, x = Parallel([2, 3, 4, 5, 7, 9]), noise(16, 3, 24, 24)
    for layer, conv in zip(predict_taps(net, x), net.convs, strict=True):
        prior = FilterPrior(layer.centered.profile.square())
        prior.init_(conv, torch.Generator().manual_seed(0))
        with torch.no_grad():  # exactly the predicted root mean squares
            rms = conv.weight.double().square().mean((0, 1)).sqrt()
            conv.weight.mul_(layer.centered.profile / rms)
    found = predict_taps(net, x).agreement()
    assert found.layers == 6
    assert found.error < 1e-6
    assert found.error_of_one > found.error_of_constant > 0.01
    assert found.spearman.value == 1
    assert found.pearson.value == pytest.approx(1)
    assert found.spearman.p < 0.05


def test_agreement_by_hand():
    x, y = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), torch.tensor([2.0, 1.0, 8.0, 4.0, 8.0])
    found = agreement(x, y, draws=500)
    logs = [abs(math.log(b / a)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    assert found.error == pytest.approx(sum(logs) / 5)
    assert found.error_of_one == pytest.approx(math.log(2) * (1 + 0 + 3 + 2 + 3) / 5)
    assert found.error_of_constant == pytest.approx(math.log(2) * (1 + 2 + 1 + 0 + 1) / 5)
    # Ranks 1..5 against 2, 1, 4.5, 3, 4.5.
    assert found.spearman.value == pytest.approx(7 / math.sqrt(10 * 9.5))
    assert found.pearson.value == pytest.approx(6 / math.sqrt(10 * 6.8))
    low, high = found.pearson.interval
    assert low < found.pearson.value <= high <= 1
    assert found == agreement(x, y, draws=500)
    assert "5 layers" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_agreement_without_a_correlation():
    for x in (torch.tensor([1.0, 2.0, 3.0]), torch.full((6,), 1.5)):
        found = agreement(x, x.flip(0) + 1)
        assert found.spearman is None
        assert found.pearson is None
        assert "none" in str(found)
    for bad in (torch.tensor([]), torch.tensor([0.0, 1.0]), torch.tensor([math.nan])):
        with pytest.raises(InputError, match="needed to compare"):
            agreement(bad, torch.ones_like(bad))
    with pytest.raises(InputError, match="confidence is 1"):
        agreement(torch.ones(5), torch.ones(5), confidence=1)


def test_chance_is_found_to_be_chance():
    # Independent values: p is uniform, so that below 0.2 in a fifth of the cases (4 sd of 60).
    values = torch.rand(60, 2, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    p = [agreement(x, y, draws=200).spearman.p for x, y in values]
    assert 0.2 - 0.2066 < sum(one <= 0.2 for one in p) / 60 < 0.2 + 0.2066


def test_ranks_and_correlation():
    values = torch.tensor([[3.0, 1.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    assert mean_ranks(values).tolist() == [[3.5, 1.0, 3.5, 2.0], [2.5] * 4]
    assert pearson(values[1], values[0]).isnan()


def test_forms_of_the_result(tmp_path):
    net = create_model("plain_cnn", in_chans=3, small_input=True, seed=0)
    found = predict_taps(net, smooth(8, 3, 16))
    rows = found.rows()
    assert [row["name"] for row in rows] == [layer.name for layer in found]
    table = found.table()
    assert all(row["name"] in table for row in rows)
    assert "always 1" in table
    found.save(tmp_path / "taps.json")
    saved = json.loads((tmp_path / "taps.json").read_text())
    assert saved["images"] == 8
    assert len(saved["layers"]) == len(found)
    assert saved["layers"][0]["centered"]["correlation"][0][0] == 1
    assert saved["agreement_raw"]["all"]["layers"] == len(found)
    with pytest.raises(InputError, match=r"does not end in \.json"):
        found.save(tmp_path / "taps.txt")
    drawn = found.chart("centre_edge").to_dict()
    assert len(drawn["hconcat"]) == 2
    assert repr(found) == f"TapPrediction({len(found)} layers, 8 images)"
    assert len(found[:1]) == 1


def test_what_is_no_network_and_images_of_other_channels():
    with pytest.raises(InputError, match=r"model is a str, .* give a network"):
        predict_taps("runs/a", smooth())
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Conv2d(4, 4, 3))
    words = "'0.0', takes 3 channels and the images give it 1; give images of 3 channels"
    for options in ({}, {"include": "1"}):
        with pytest.raises(InputError, match=words):
            predict_taps(net, noise(4, 1, 9, 9), **options)
    assert len(predict_taps(net, smooth())) == 1


def test_both_spellings_of_a_ratio():
    found = predict_taps(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), smooth())
    for spelled, field in (("center_edge", "centre_edge"), ("center_corner", "centre_corner")):
        assert found.agreement(spelled) == found.agreement(field)
        assert found.chart(spelled).to_dict() == found.chart(field).to_dict()
    with pytest.raises(InputError, match="choose one of centre_corner"):
        found.chart("corner")


def test_the_table_names_its_ratios_and_a_prediction_worse_than_none():
    found = predict_taps(nn.Conv2d(3, 4, 3), smooth())
    head = found.table().splitlines()[0].split()
    assert head[3:8] == ["center/edge", "predicted", "center/corner", "predicted", "raw"]
    far, near = torch.full((5,), 4.0), torch.linspace(1.0, 1.2, 5)
    assert "worse than always saying 1" in str(agreement(far, near))
    assert "worse than always saying 1" not in str(agreement(near, near))


@pytest.mark.parametrize("layers", [2, 40])
def test_layers_are_whole_numbers_on_the_axis(layers):
    rows = [
        {
            "name": f"{i}",
            "kernel_size": "3x3",
            "predicted_centre_edge": 1.1,
            "measured_centre_edge": 1.2,
        }
        for i in range(layers)
    ]
    drawn = draw_prediction(rows, "center_edge").to_dict()
    axis = drawn["hconcat"][1]["layer"][1]["encoding"]["x"]["axis"]
    assert axis["format"] == "d"
    assert axis["values"][:2] == ([1, 2] if layers == 2 else [1, 5])
    assert len(axis["values"]) <= 12
