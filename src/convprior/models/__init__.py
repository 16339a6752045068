"""Networks by name, for small and for large images.

``create_model("wrn16_2", num_classes=10, small_input=True)`` builds a network, ``list_models()``
names them, ``timm:NAME`` reaches all of timm. All return logits (n, num_classes), take any number
of channels and start from He's law; ``seed=`` makes the initial weights a function of it alone.
"""

from convprior.models.coordinates import AddCoordinates, with_coordinates
from convprior.models.densenet import DenseNet, densenet121, densenet_bc
from convprior.models.he import HeConv2d, HeLinear
from convprior.models.inception import GoogLeNet
from convprior.models.mobilenet import MobileNetV2
from convprior.models.plain import PlainCNN
from convprior.models.registry import create_model, list_models
from convprior.models.resnet import ResNet, resnet18
from convprior.models.simple_local_net import SimpleLocalNet
from convprior.models.skipnet import SkipNet
from convprior.models.skipnet_sizes import (
    mobilenet_v3_large,
    mobilenet_v3_large_skips,
    skipnet_l,
    skipnet_m,
    skipnet_m_no_skips,
    skipnet_s,
    skipnet_xs,
)
from convprior.models.vgg import VGG, vgg11_bn, vgg16_bn
from convprior.models.wide_resnet import WideResNet

__all__ = [
    "VGG",
    "AddCoordinates",
    "DenseNet",
    "GoogLeNet",
    "HeConv2d",
    "HeLinear",
    "MobileNetV2",
    "PlainCNN",
    "ResNet",
    "SimpleLocalNet",
    "SkipNet",
    "WideResNet",
    "create_model",
    "densenet121",
    "densenet_bc",
    "list_models",
    "mobilenet_v3_large",
    "mobilenet_v3_large_skips",
    "resnet18",
    "skipnet_l",
    "skipnet_m",
    "skipnet_m_no_skips",
    "skipnet_s",
    "skipnet_xs",
    "vgg11_bn",
    "vgg16_bn",
    "with_coordinates",
]
