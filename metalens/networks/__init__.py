"""Networks: a backbone that makes features and a head that reads them."""

from metalens.networks.base import Network
from metalens.networks.conv4 import conv4
from metalens.networks.forecast_mlp import forecast_mlp
from metalens.networks.mlp import mlp
from metalens.networks.norm import TransductiveBatchNorm
from metalens.networks.pose_net import pose_net
from metalens.networks.resnet12 import resnet12
from metalens.networks.timm_model import timm_model
from metalens.networks.vit import vit
from metalens.networks.wrap import wrap

__all__ = [
    "Network",
    "TransductiveBatchNorm",
    "conv4",
    "forecast_mlp",
    "mlp",
    "pose_net",
    "resnet12",
    "timm_model",
    "vit",
    "wrap",
]
