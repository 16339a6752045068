"""A finished run, loaded from its folder: the network and its recipe, without its data."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from convprior._files import load_tensors, read_json
from convprior.errors import InputError, RunError
from convprior.lab.data import DataRecipe
from convprior.lab.data.decode import Format, decode
from convprior.lab.data.resolve import open_source
from convprior.lab.train.priors import shape_filters_
from convprior.lab.train.recipe import Recipe, from_dict
from convprior.lab.train.state import SMALL, TRIAL, create_network

Shapes = Mapping[str, torch.Size]

# Class count and channels of a trial network, whose tensors are compared with the saved ones: a
# prime that is the width of no layer, and the channels of colored images.
_CLASSES, _CHANNELS = 1009, 3


def load_run(
    folder: str | Path, *, initial: bool = False, small_input: bool | None = None
) -> tuple[nn.Module, Recipe]:
    """Loads the network that :func:`train` left in a folder.

    The recipe names the network; class count and input channels follow from the shapes of the
    weights. The small and the standard form of some networks have equal weights; where the recipe
    leaves the choice to the size of the images, that is noted with the weights. Of older runs,
    whose images were not resized, one image is looked at.

    Args:
        folder: of a finished run, or of a study's cell.
        initial: the network before training instead, rebuilt from the seed.
        small_input: the form of the network, for older runs where the data are gone as well.

    Returns:
        The network on the CPU in evaluation mode, and the recipe.

    Raises:
        InputError: the folder holds no run, or its data are needed and not found.
        RunError: the run is not finished, or its files are damaged or of another version.
    """
    folder = Path(folder)
    if not (folder / "recipe.json").is_file():
        raise InputError(
            f"{folder} holds no run: no recipe.json; give the folder of a run, or of a study's "
            "cell (STUDY/cells/KEY)"
        )
    values = read_json(folder / "recipe.json")
    if not isinstance(values, dict):
        raise RunError(f"{folder / 'recipe.json'} is no recipe; choose another folder")
    recipe = from_dict(Recipe, values)
    path = folder / "weights.safetensors"
    if not path.exists():
        raise RunError(
            f"the run in {folder} has no weights yet: it is not finished; train it to the end with "
            "the command that started it"
        )
    weights, header = load_tensors(path)
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    form = recipe.model.small_input if small_input is None else small_input
    # The tables of local layers follow the size of the images; runs of before it was noted have
    # no such layers.
    noted = (header or {}).get("image_size")
    height, width = noted or (TRIAL, TRIAL)
    fitting = fitting_forms(recipe, shapes, form, (height, width))
    if not fitting:
        raise RunError(
            f"the weights in {folder} do not fit the {recipe.model.name} of its recipe: another "
            "version of convprior or timm wrote them"
        )
    if len(fitting) > 1:
        small = (max(noted) if noted else _largest_side(recipe.data)) <= SMALL
        fitting = [one for one in fitting if one[2] == small]
    model = create_network(recipe, *fitting[0], (height, width))
    if initial:
        shape_filters_(model, recipe)
    else:
        model.load_state_dict(weights)
    return model.eval(), recipe


def fitting_forms(
    recipe: Recipe,
    shapes: Shapes,
    small_input: bool | None = None,
    size: tuple[int, int] = (TRIAL, TRIAL),
    *,
    convolutions_only: bool = False,
) -> list[tuple[int, int, bool]]:
    """Class count, channels and form of the networks whose tensors have exactly these shapes.

    Args:
        recipe: its network is meant.
        shapes: of every tensor of a state dict.
        small_input: None: try both forms.
        size: of the images; it matters where positions have weights of their own.
        convolutions_only: compare the tensors of three axes and more alone.

    Returns:
        None, one, or both forms.
    """

    def compared(every: Shapes) -> Shapes:
        return {n: s for n, s in every.items() if len(s) > 2} if convolutions_only else dict(every)

    timm = recipe.model.name.startswith("timm:")
    forms = (True, False) if small_input is None and not timm else (bool(small_input),)
    added = 2 if recipe.connectivity.kind == "coordinates" else 0
    found = []
    for form in forms:
        classes, channels = _CLASSES, _CHANNELS
        for name, shape in _shapes(recipe, classes, channels, form, size).items():
            saved = shapes.get(name, shape)
            axis = 3 if len(saved) == 6 else 1  # of the input channels; LocalConv2d has six axes
            if saved and saved[0] != shape[0] == _CLASSES:
                classes = saved[0]
            elif len(saved) == len(shape) > 2 and saved[axis] != shape[axis]:
                share = (saved[axis] - added) / (shape[axis] - added)
                channels = max(1, int(_CHANNELS * share))
        if compared(_shapes(recipe, classes, channels, form, size)) == compared(shapes):
            found.append((classes, channels, form))
    return found


def misfit(recipe: Recipe, shapes: Shapes) -> str:
    """Why no form of a network has convolutions of these shapes, for the form that is nearest.

    Args:
        recipe: its network is meant.
        shapes: of the tensors of a state dict; those of fewer than three axes do not count.

    Returns:
        A clause: another layer, another kernel size, or another width.
    """
    timm = recipe.model.name.startswith("timm:")
    forms = (False,) if timm else (True, False)
    found = {name.removesuffix(".weight"): size for name, size in shapes.items() if len(size) > 2}
    reasons = []
    for form in forms:
        expected = _shapes(recipe, _CLASSES, _CHANNELS, form).items()
        wanted = {name.removesuffix(".weight"): size for name, size in expected if len(size) > 2}
        reasons.append(_difference(found, wanted, recipe.model.name))
    return min(reasons)[1]


def _difference(found: Shapes, wanted: Shapes, model: str) -> tuple[int, str]:
    """The coarsest difference between convolutions, with its rank: 0 is the nearest."""
    for name in wanted:
        if name not in found:
            return 3, f"there is no layer {name}, which {model} has"
    for name in found:
        if name not in wanted:
            return 3, f"{model} has no layer {name}"
    for name, size in wanted.items():
        if found[name][2:] != size[2:]:
            here, there = ("x".join(map(str, one[2:])) for one in (found[name], size))
            return 2, f"layer {name} is {here} where {model} has {there}"
    for name, size in wanted.items():
        if found[name][0] != size[0]:
            return 1, (
                f"layer {name} has {found[name][0]} filters where {model} has {size[0]}: another "
                "width"
            )
    name = next(name for name, size in wanted.items() if found[name] != size)
    return 1, (
        f"a filter of layer {name} has {found[name][1]} channels where {model} has "
        f"{wanted[name][1]}"
    )


def _shapes(
    recipe: Recipe,
    classes: int,
    channels: int,
    form: bool,
    size: tuple[int, int] = (TRIAL, TRIAL),
) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = create_network(recipe, classes, channels, form, size)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _largest_side(data: DataRecipe) -> int:
    if data.image_size is not None:
        return data.image_size
    try:
        part = open_source(data.source).train
    except InputError as error:
        raise InputError(
            f"the recipe leaves the network's form to the size of the images of {data.source!r}, "
            f"which were not found: {error}"
        ) from error
    return max(decode(part.read(0), part.where(0), Format(None, 3)).shape[:2])
