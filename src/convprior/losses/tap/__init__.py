"""The feature map of any network's last forward pass, without editing the network."""

from convprior.losses.tap.feature_tap import FeatureTap

__all__ = ["FeatureTap"]
