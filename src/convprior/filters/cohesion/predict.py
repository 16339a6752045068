"""Predicts a network's tap profiles from the spatial correlation of what its layers see."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from convprior.errors import InputError
from convprior.filters.cohesion.cohesion import most_cohesive_filter
from convprior.filters.cohesion.lengthscale import fit_lengthscale
from convprior.filters.cohesion.listening import Images, Listener, evaluating, run_listening
from convprior.filters.cohesion.prediction import Expected, LayerPrediction, TapPrediction
from convprior.filters.cohesion.spatial import SpatialCorrelation
from convprior.filters.filter_banks import FilterBank, filter_banks
from convprior.filters.selection import (
    ConvLayer,
    Selection,
    convolutions_of,
    select_convolutions,
)
from convprior.filters.taps.regions import center_ratios, tap_regions


def predict_taps(
    model: nn.Module,
    images: Images,
    *,
    include: Selection = None,
    exclude: Selection = None,
    batch_size: int = 128,
    limit: int | None = None,
) -> TapPrediction:
    r"""Predicts where a network's filters are large from the correlation of their input.

    For each convolution the correlation ``R`` between the taps of its window is measured on its
    own input maps over ``images`` (:class:`SpatialCorrelation`; kernel size and dilation of the
    layer, channel means taken off, padding and stride not seen, all channels of a grouped layer
    together). The prediction is the filter that is most cohesive under it, the leading
    eigenvector of ``R``. Where that has taps of both signs (an input that is anticorrelated
    within the window) Perron's theorem does not hold and nothing is predicted. It is compared
    with the root mean square of the layer's weights at each tap; nothing is fitted to them.

    The same vector has another name: it is the first principal component of the input's patches,
    averaged over channels. Whatever agrees with it agrees with "filters point along the
    direction in which their input varies most" as well as with cohesion.

    Args:
        model: any network; compiled, data-parallel and parametrized ones too. It is run in
            evaluation mode and left as it was.
        images: one tensor (n, C, H, W), or batches: tensors, or sequences such as (images, labels)
            that start with one; as the network gets them, normalized.
        include: as in :class:`convprior.filters.LocoReg`; None means every convolution.
        exclude: likewise, taken away afterwards.
        batch_size: of one tensor of images.
        limit: images used at most; None: all.

    Returns:
        One entry a layer; 1x1 layers have no profile and are left out, others that cannot be
        predicted (transposed, not reached, maps smaller than the window, constant input, all
        weights zero) are in ``skipped`` with the reason.

    Raises:
        InputError: there is no convolution larger than 1x1, a rule matches none, no images, or
            they are in no form above or of another number of channels than the first convolution
            takes, or ``model`` is no network.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        >>> noise = torch.randn(64, 1, 12, 12, generator=torch.Generator().manual_seed(0))
        >>> smooth = nn.functional.avg_pool2d(noise, 3, stride=1)
        >>> found = predict_taps(net, smooth)
        >>> len(found), bool(found[0].centered.centre_corner > 1.2)
        (2, True)

    Source: our choice, after the explanation proposed by J. Schneider (arXiv 1905.10661) for
    central filters.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model is a {type(model).__name__}, which cannot be run; give a network (nn.Module), "
            "such as load_run(FOLDER)[0] of convprior.lab.train"
        )
    layers = [
        layer
        for layer in select_convolutions(model, include, exclude)
        if any(size > 1 for size in layer.module.kernel_size)
    ]
    if not layers:
        raise InputError("every convolution chosen is 1x1 and has no profile; choose larger ones")
    inputs = {layer.name: _Input(layer) for layer in layers}
    entrance = _Entrance()
    listeners: dict[nn.Module, Listener] = {
        module: partial(entrance, name, module, then=inputs.get(name))
        for name, module in convolutions_of(model).items()
    }
    # In evaluation mode also here: some parametrizations change when a weight is read in training.
    with evaluating(model):
        used = run_listening(model, images, listeners, batch_size=batch_size, limit=limit)
        banks = {bank.name: bank for bank in filter_banks(model, include, exclude)}
    found, skipped = [], {}
    for layer in layers:
        try:
            found.append(_predict(layer, banks[layer.name], inputs[layer.name]))
        except InputError as error:
            skipped[layer.name] = str(error)
    return TapPrediction(found, skipped, used)


class _Entrance:
    """Checks the first convolution that runs, so that wrong images are no error of torch."""

    def __init__(self) -> None:
        self.passed = False

    def __call__(self, name: str, module: _ConvNd, maps: Tensor, then: Listener | None) -> None:
        axis = -1 - len(module.kernel_size)
        if not self.passed and maps.ndim >= -axis and maps.shape[axis] != module.in_channels:
            raise InputError(
                f"the first convolution, {name!r}, takes {module.in_channels} channels and the "
                f"images give it {maps.shape[axis]}; give images of {module.in_channels} channels"
            )
        self.passed = True
        if then is not None:
            then(maps)


class _Input:
    """Collects the correlation of one layer's input; keeps the first reason it cannot."""

    def __init__(self, layer: ConvLayer) -> None:
        module = layer.module
        self.seen = SpatialCorrelation(tuple(module.kernel_size), tuple(module.dilation))
        self.size: tuple[int, ...] = ()
        self.problem: InputError | None = None
        if module.transposed:
            self.problem = InputError("it is transposed, so that its window is in its output")

    def __call__(self, maps: Tensor) -> None:
        if self.problem is not None:
            return
        axes = len(self.seen.kernel_size)
        try:
            self.seen.update(maps if maps.ndim > axes + 1 else maps[None])
        except InputError as error:
            self.problem = error
        self.size = tuple(maps.shape[-axes:])


def _predict(layer: ConvLayer, bank: FilterBank, found: _Input) -> LayerPrediction:
    if found.problem is not None:
        raise found.problem
    if not found.seen.maps:
        raise InputError("the images did not reach it")
    moments = bank.weight.double().square().mean((0, 1))
    total = float(moments.sum())
    if not total > 0.0:
        raise InputError("all its weights are zero")
    measured = (moments / total).sqrt()
    module = layer.module
    return LayerPrediction(
        layer.name,
        bank.kind,
        tuple(module.kernel_size),
        tuple(module.stride),
        tuple(module.dilation),
        found.size,
        measured,
        *_ratios(measured),
        _expect(found.seen, center=True),
        _expect(found.seen, center=False),
    )


def _expect(seen: SpatialCorrelation, center: bool) -> Expected:
    correlation, size = seen.correlation(center), seen.kernel_size
    taps = most_cohesive_filter(size, correlation)
    positive = bool((taps > 0).all())
    return Expected(
        correlation,
        taps,
        positive,
        *(_ratios(taps) if positive else (None, None)),
        fit_lengthscale(correlation, size, "exponential"),
        fit_lengthscale(correlation, size, "squared_exponential"),
    )


def _ratios(profile: Tensor) -> tuple[float | None, float | None]:
    regions = tap_regions(tuple(profile.shape))
    found = center_ratios(profile.flatten().square(), regions)
    edge, corner = (found.get(name) for name in ("centre_edge", "centre_corner"))
    return _ratio(edge), _ratio(corner)


def _ratio(value: Tensor | None) -> float | None:
    if value is None or not bool(torch.isfinite(value)) or not float(value) > 0.0:
        return None
    return float(value)
