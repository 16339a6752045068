"""Layers whose own ``reset_parameters`` draws He's normal law.

Paper: K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", ICCV 2015
(arXiv 1502.01852), equation 10: ``w ~ N(0, 2 / fan_in)``, biases zero.

Reference code: ``torch.nn.init.kaiming_normal_(weight, nonlinearity="relu")``.

Differences: the law belongs to the layer, not to a loop over the finished network, so drawing one
layer again (``layer.reset_parameters()``) repeats the law it was built with; with PyTorch's own
layers it would change to a uniform law with a sixth of the variance. ``fan_in`` is used
everywhere, as in ``FilterPrior.init_``, where torchvision and the WideResNet codes take
``fan_out``: the two differ only where a layer changes the number of channels.
"""

from torch import nn


class HeConv2d(nn.Conv2d):
    """``nn.Conv2d`` with weights from ``N(0, 2 / fan_in)`` and a zero bias."""

    # It differs in its draw alone, so ``convprior.local.localize`` need not leave it alone.
    localizable = True

    def reset_parameters(self) -> None:
        """Draws the weights again."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class HeLinear(nn.Linear):
    """``nn.Linear`` with weights from ``N(0, 2 / fan_in)`` and a zero bias: for hidden layers."""

    def reset_parameters(self) -> None:
        """Draws the weights again."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)
