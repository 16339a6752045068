"""Every convolution decays once: not twice, and not never because of the wrong groups."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from convprior.errors import InputError
from convprior.filters.selection import ConvLayer, convolutions_of


def undecayed_groups(
    model: nn.Module, layers: Sequence[ConvLayer], weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups: the weights of ``layers`` without decay, the rest with it.

    Tables of local layers are in a third group without decay, if there are any.
    """
    covered = {id(tensor) for layer in layers for tensor in layer.tensors()}
    tables = undecayed_tables(model)
    kept = {id(table) for table in tables}
    ours: list[Tensor] = []
    others: list[Tensor] = []
    for parameter in model.parameters():
        if id(parameter) not in kept:
            (ours if id(parameter) in covered else others).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": ours, "weight_decay": 0.0},
        {"params": others, "weight_decay": weight_decay},
    ]
    return [*groups, {"params": tables, "weight_decay": 0.0}] if tables else groups


def undecayed_tables(model: nn.Module) -> list[Tensor]:
    """Parameters that a convolution's own ``no_weight_decay()`` names, in the model's order.

    Those are the tables of local layers: which kernel a position takes, and its bias.
    """
    kept = {
        id(parameter)
        for module in convolutions_of(model).values()
        if callable(undecayed := getattr(module, "no_weight_decay", None))
        for name, parameter in module.named_parameters()
        if name in undecayed()
    }
    return [parameter for parameter in model.parameters() if id(parameter) in kept]


def refuse_double_decay(optimizer: Optimizer, layers: Sequence[ConvLayer]) -> None:
    """Raises if ``optimizer`` decays a weight of ``layers``.

    Raises:
        InputError: it does; the message names the layer and the optimizer's group.
    """
    names = {id(tensor): layer.name for layer in layers for tensor in layer.tensors()}
    for number, group in enumerate(optimizer.param_groups):
        if float(group.get("weight_decay", 0.0)) == 0.0:
            continue
        for parameter in group["params"]:
            if id(parameter) in names:
                raise InputError(
                    f"the weight of {names[id(parameter)]!r} would decay twice: group {number} of "
                    f"the optimizer has weight_decay={group['weight_decay']}; build its groups "
                    "with LocoReg.param_groups(model, weight_decay)"
                )


def refuse_lost_decay(
    optimizer: Optimizer, layers: Sequence[ConvLayer], others: Sequence[ConvLayer]
) -> None:
    """Raises if one of ``others`` stands among the undecayed ``layers`` while the rest decays.

    That is what groups made for another selection or law look like. A convolution that shall not
    decay at all can have a group of its own.

    Raises:
        InputError: it does; the message names the layer and the optimizer's group.
    """
    groups = optimizer.param_groups
    if all(float(group.get("weight_decay", 0.0)) == 0.0 for group in groups):
        return
    covered = {id(tensor) for layer in layers for tensor in layer.tensors()}
    names = {id(tensor): layer.name for layer in others for tensor in layer.tensors()}
    for number, group in enumerate(groups):
        held = [id(parameter) for parameter in group["params"]]
        lost = [names[key] for key in held if key in names]
        undecayed = float(group.get("weight_decay", 0.0)) == 0.0
        if lost and undecayed and not covered.isdisjoint(held):
            raise InputError(
                f"the weight of {lost[0]!r} would never decay: LocoReg does not cover it and group "
                f"{number} of the optimizer has weight_decay=0; give LocoReg.param_groups the law, "
                "include and exclude that LocoReg has"
            )
