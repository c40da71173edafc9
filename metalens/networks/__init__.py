"""Networks: a backbone that makes features and a head that reads them."""

from metalens.networks.base import Network
from metalens.networks.conv4 import conv4
from metalens.networks.mlp import mlp
from metalens.networks.norm import TaskNorm
from metalens.networks.wrap import wrap

__all__ = ["Network", "TaskNorm", "conv4", "mlp", "wrap"]
