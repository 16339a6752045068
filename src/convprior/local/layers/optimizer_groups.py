"""Optimizer groups for networks with low-rank local layers."""

from typing import Any, Literal

from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters.locoreg.double_decay import undecayed_tables
from convprior.filters.selection import convolutions_of, layers_of
from convprior.local.layers.low_rank import LowRankLocalConvNd


def param_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    lr: float | None = None,
    basis_lr_scale: float | Literal["rank"] | None = None,
) -> list[dict[str, Any]]:
    """Groups that leave tables undecayed and let bases learn as fast as a convolution's filters.

    Weight decay pulls the logits together, which is toward a plain convolution; tables of logits
    and of spatial bias get none. Under a softmax each of K bases receives a K-th of the gradient
    and counts a K-th, so that the mean kernel moves K times slower than a convolution's: in SGD
    ``basis_lr_scale="rank"`` makes up for it exactly. Optimizers that divide by the size of the
    gradient, such as Adam, need no scale.

    Args:
        model: any network; compiled and data-parallel wrappers are looked through.
        weight_decay: for every parameter but the tables.
        lr: the learning rate of the optimizer, needed for a scale.
        basis_lr_scale: factor s on the learning rate of the bases; "rank" is K where a softmax
            averages them, else 1. Their decay is divided by it, so that they shrink as before.

    Returns:
        One dict for the ordinary parameters, one for the tables if there are any, and one for each
        scale of bases, for any ``torch.optim`` optimizer.

    Raises:
        InputError: a scale without ``lr``, or one that is not > 0.

    Example:
        >>> from convprior.local import LowRankLocalConv2d
        >>> layer = LowRankLocalConv2d(3, 8, 3, input_size=16, rank=4)
        >>> groups = param_groups(layer, 5e-4, lr=0.1, basis_lr_scale="rank")
        >>> [(len(g["params"]), g["weight_decay"], g.get("lr")) for g in groups]
        [(1, 0.0005, None), (4, 0.0, None), (1, 0.000125, 0.4)]

    Source: our choice.
    """
    if basis_lr_scale is not None and lr is None:
        raise InputError(
            f"basis_lr_scale is {basis_lr_scale!r} without lr; give the optimizer's lr"
        )
    if isinstance(basis_lr_scale, float | int):
        wrong = not basis_lr_scale > 0
    else:
        wrong = basis_lr_scale not in (None, "rank")
    if wrong:
        raise InputError(f"basis_lr_scale is {basis_lr_scale!r}; give a number > 0 or 'rank'")
    tables = undecayed_tables(model)
    scales = {} if basis_lr_scale is None else _scales(model, basis_lr_scale)
    ordinary: list[Tensor] = []
    scaled: dict[float, list[Tensor]] = {}
    kept = {id(table) for table in tables}
    for parameter in model.parameters():
        if id(parameter) in kept:
            continue
        scale = scales.get(id(parameter), 1.0)
        (ordinary if scale == 1.0 else scaled.setdefault(scale, [])).append(parameter)
    groups: list[dict[str, Any]] = [{"params": ordinary, "weight_decay": weight_decay}]
    if tables:
        groups.append({"params": tables, "weight_decay": 0.0})
    for scale, bases in scaled.items():
        assert lr is not None
        groups.append({"params": bases, "weight_decay": weight_decay / scale, "lr": lr * scale})
    return groups


def _scales(model: nn.Module, scale: float | Literal["rank"]) -> dict[int, float]:
    scales = {}
    for layer in layers_of(convolutions_of(model)):
        module = layer.module
        if isinstance(module, LowRankLocalConvNd):
            parity = module.rank if module.normalize == "softmax" else 1
            factor = float(parity if scale == "rank" else scale)
            scales.update({id(tensor): factor for tensor in layer.tensors()})
    return scales
