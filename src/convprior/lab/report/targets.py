"""What ``convprior inspect`` can look at: run folders, files of weights, networks by name."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from convprior.errors import ConvPriorError, InputError, RunError
from convprior.filters.filter_banks import Source, read_weights
from convprior.lab.train.recipe import ModelRecipe, Recipe
from convprior.lab.train.saved import fitting_forms, load_run, misfit
from convprior.lab.train.state import create_network
from convprior.models import create_model

_TIMM = "timm:"
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".tar")


@dataclass(frozen=True)
class Target:
    """A network to look at.

    Attributes:
        name: as the user gave it.
        about: what it is, in one sentence.
        network: a module or the weights by name.
        initial: the same before training, if that is known.
        recipe: of a run.
    """

    name: str
    about: str
    network: Source
    initial: nn.Module | None = None
    recipe: Recipe | None = None


def open_target(name: str, *, pretrained: bool = False, model: str | None = None) -> Target:
    """Finds what a name means: a run's folder, a safetensors file, or a network by name.

    Args:
        name: a path or a name.
        pretrained: load the published weights of a ``timm:`` network.
        model: the network that a file's weights belong to, which tells the layers' strides.

    Raises:
        InputError: there is no such thing, or it holds no weights; says what is near.
        RunError: weights could not be downloaded, or the run is not finished.
    """
    path = Path(name)
    is_path = path.exists()
    if pretrained and (is_path or not name.startswith(_TIMM)):
        raise InputError(
            f"--pretrained means the published weights of a timm network, which {name!r} is not; "
            f"leave it out, or give timm:NAME"
        )
    if is_path and path.is_dir():
        if (path / "recipe.json").exists():
            return _run(name, path)
        path = _only_file(path)
    if is_path:
        return _file(name, path, model)
    if model is not None:
        raise InputError(f"--model says whose weights a file holds, and {name!r} is no file")
    return _by_name(name, pretrained)


def _run(name: str, path: Path) -> Target:
    network, recipe = load_run(path)
    initial, _ = load_run(path, initial=True)
    about = (
        f"{recipe.model.name} trained on {recipe.data.source}, "
        f"{recipe.budget.examples:,} examples; initial: its own weights before training"
    )
    return Target(name, about, network, initial, recipe)


def _only_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        inside = sorted(path.parent for path in folder.glob("*/recipe.json"))
        inside += sorted(path.parent for path in folder.glob("*/*/recipe.json"))
        hint = f"; there are runs inside, such as {inside[0]}" if inside else ""
        raise InputError(
            f"{folder} is no run's folder (no recipe.json) and holds {len(files)} safetensors "
            f"files, not one{hint}: give a run's folder or a file"
        )
    return files[0]


def _file(name: str, path: Path, model: str | None) -> Target:
    if path.suffix in _PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run code when it is read; save the state dict as "
            "safetensors first: safetensors.torch.save_file(model.state_dict(), FILE)"
        )
    weights = read_weights(path)
    if model is None:
        return Target(name, "weights in a file, so strides are unknown", path)
    return _with_strides(name, weights, model)


def _with_strides(name: str, weights: Mapping[str, Tensor], model: str) -> Target:
    """Puts the weights into a network without memory of its own, which knows the strides."""
    recipe = Recipe(model=ModelRecipe(model))
    shapes = {key: tensor.shape for key, tensor in weights.items()}
    fitting = fitting_forms(recipe, shapes, convolutions_only=True)
    if not fitting:
        reason = misfit(recipe, shapes)
        fix = "the run's folder" if reason.endswith("another width") else "the right network"
        raise InputError(
            f"the convolutions in {name} are not those of {model}: {reason}; give {fix}, or leave "
            "--model out"
        )
    with torch.device("meta"):
        network = create_network(recipe, *fitting[0])
    network.load_state_dict(dict(weights), strict=False, assign=True)
    about = f"weights in a file, as {model}"
    if len(fitting) > 1:
        about += ", whose forms for small and large images have equal weights: strides of the first"
    return Target(name, about, network)


def _by_name(name: str, pretrained: bool) -> Target:
    try:
        if not pretrained:
            network = create_model(name, seed=0)
            return Target(name, "not trained: initial weights of seed 0", network)
    except InputError as error:
        raise InputError(_unknown(name, error)) from error
    create_model(name)  # what is wrong with the name itself is no matter of the network
    try:
        network = create_model(name, pretrained=True)
    except ConvPriorError:
        raise
    except Exception as error:  # a download fails in the way of whatever library makes it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(
            f"the published weights of {name} could not be loaded ({reason}); try again with a "
            "connection, choose another network, or give a safetensors file"
        ) from error
    return Target(name, "published weights", network)


def _unknown(name: str, error: InputError) -> str:
    """A path that does not exist, or a name that is not known: one sentence with what is near."""
    if name.startswith(_TIMM):
        return str(error)
    path = Path(name)
    is_path = len(path.parts) > 1 or path.suffix == ".safetensors"
    parent = path.parent
    while not parent.exists():
        path, parent = parent, parent.parent
    near = difflib.get_close_matches(path.name, [one.name for one in parent.iterdir()], n=3)
    meant = " or ".join(str(parent / one) for one in near)
    if is_path:
        fix = f"did you mean {meant}?" if meant else "correct the path"
        return f"there is no file or folder {name}; {fix}"
    return f"{error}, nor a file; near is {meant}" if meant else str(error)
