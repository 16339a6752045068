"""What ``convprior inspect --diversity`` runs: a network and the images that it classifies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from convprior.errors import InputError
from convprior.filters.selection import convolutions_of
from convprior.lab.data import DataRecipe, ImageSet, Prepared, StreamedSet, prepare
from convprior.lab.report.targets import Target, open_target
from convprior.lab.study.keys import assignment, flatten, nest
from convprior.lab.study.problems import validate
from convprior.lab.train import ModelRecipe, Recipe, as_dict, build_model, compute_dtype
from convprior.lab.train.saved import fitting_forms, misfit
from convprior.lab.train.state import SMALL, create_network


@dataclass(frozen=True)
class Classifier:
    """A network and the images that it is shown.

    Attributes:
        target: the path or name that the user gave.
        about: what it is, in one sentence.
        network: on its device.
        images: to classify.
        mean: of each channel, to subtract.
        std: of each channel, to divide by.
        dtype: of the network's arithmetic.
    """

    target: str
    about: str
    network: nn.Module
    images: ImageSet | StreamedSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: torch.dtype


def open_classifier(
    name: str,
    *,
    pretrained: bool = False,
    model: str | None = None,
    data: str | None = None,
    overrides: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> Classifier:
    """Finds a network by its path or name, and images for it.

    A run has its evaluation images and its training images' mean and deviation, which also hold for
    other images given for it. Published weights of timm take timm's size, mean and deviation. What
    is not trained is built for the images.

    Args:
        name: of a run's folder, a safetensors file, or a network.
        pretrained: with the published weights of a ``timm:`` network.
        model: the network whose weights a file holds.
        data: the source of the images; of a run it may stay away.
        overrides: ``data.KEY=VALUE`` each.
        device: where the network runs.

    Raises:
        InputError: no such network or images, no images named, or they do not fit the network.
        RunError: weights could not be downloaded, or a run is not finished.
    """
    target = open_target(name, pretrained=pretrained, model=model)
    given = _given(data, overrides)
    if target.recipe is not None:
        return _of_run(target, target.recipe, given, device)
    if data is None:
        raise InputError(f"{name} has no images of its own; add --data NAME, FOLDER or FILE")
    if Path(name).exists():
        if model is None:
            raise InputError(
                f"{name} holds weights and not the network that they belong to; add --model NAME, "
                "or give the run's folder"
            )
        return _of_file(target, model, given, device)
    if pretrained:
        return _published(target, given, device)
    prepared = prepare(_recipe(DataRecipe(), given), device)
    recipe = Recipe(model=ModelRecipe(name))
    return _classifier(target, build_model(recipe, prepared), prepared, device)


def _of_run(
    target: Target, recipe: Recipe, given: dict[str, Any], device: torch.device | str
) -> Classifier:
    assert isinstance(target.network, nn.Module)
    prepared = prepare(recipe.data, device)
    images = prepared
    if given:
        channels = recipe.data.channels or prepared.train.channels
        base = replace(recipe.data, channels=1 if channels == 1 else 3)
        if given.get("data.source", base.source) != base.source:
            base = replace(base, per_class=None, split=0)
        images = prepare(_recipe(base, given), device)
    found = _classifier(target, target.network, images, device)
    dtype = compute_dtype(recipe.budget.precision, torch.device(device))
    about = (
        f"{recipe.model.name} trained on {recipe.data.source}, {recipe.budget.examples:,} examples"
    )
    return replace(found, about=about, mean=prepared.mean, std=prepared.std, dtype=dtype)


def _of_file(
    target: Target, model: str, given: dict[str, Any], device: torch.device | str
) -> Classifier:
    """The network with every weight of the file, in the form for the size of the images."""
    path = Path(target.name)
    weights = load_file(next(path.glob("*.safetensors")) if path.is_dir() else path)
    recipe = Recipe(model=ModelRecipe(model))
    shapes = {key: tensor.shape for key, tensor in weights.items()}
    fitting = fitting_forms(recipe, shapes)
    if not fitting:
        raise InputError(
            f"{target.name} does not hold all weights of {model}: {misfit(recipe, shapes)}; give "
            "the run's folder, or the right network"
        )
    prepared = prepare(_recipe(DataRecipe(channels=_one_or_three(fitting[0][1])), given), device)
    small = max(prepared.evaluation.size) <= SMALL
    form = next((one for one in fitting if one[2] == small), fitting[0])
    network = create_network(recipe, *form)
    network.load_state_dict(weights)
    return _classifier(target, network, prepared, device)


def _published(target: Target, given: dict[str, Any], device: torch.device | str) -> Classifier:
    assert isinstance(target.network, nn.Module)
    known: dict[str, Any] = getattr(target.network, "pretrained_cfg", {})
    channels, *sides = known.get("input_size", (3, 224, 224))
    base = DataRecipe(image_size=sides[0], channels=_one_or_three(channels))
    prepared = prepare(_recipe(base, given), device)
    found = _classifier(target, target.network, prepared, device)
    return replace(
        found,
        mean=tuple(known.get("mean", prepared.mean)),
        std=tuple(known.get("std", prepared.std)),
    )


def _classifier(
    target: Target, network: nn.Module, data: Prepared, device: torch.device | str
) -> Classifier:
    convolutions = convolutions_of(network)
    wanted = next((c.in_channels for c in convolutions.values()), data.evaluation.channels)
    if wanted != data.evaluation.channels and target.recipe is None:
        raise InputError(
            f"{target.name} takes images of {wanted} channels and {data.evaluation.name} has "
            f"{data.evaluation.channels}; add --set data.channels={wanted}"
        )
    network = network.to(device).to(memory_format=torch.channels_last).eval()
    return Classifier(
        target.name, target.about, network, data.evaluation, data.mean, data.std, torch.float32
    )


def _given(data: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The keys of ``--data`` and ``--set``, of the slot ``data`` alone."""
    flat: dict[str, Any] = {} if data is None else {"data.source": data}
    for text in overrides:
        path, value = assignment(text)
        flat |= flatten(nest({".".join(path): value}))
    wrong = [key for key in flat if not key.startswith("data.")]
    if wrong:
        raise InputError(
            f"--set {wrong[0]} does not change which images a network is shown; give data.KEY=VALUE"
        )
    return flat


def _recipe(base: DataRecipe, given: dict[str, Any]) -> DataRecipe:
    flat = flatten(as_dict(Recipe(data=base)))
    return validate(Recipe, nest(flat | given)).data


def _one_or_three(channels: int) -> Any:
    return channels if channels in (1, 3) else None
