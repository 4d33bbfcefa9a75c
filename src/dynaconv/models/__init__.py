"""Networks with dynamic convolutions, their static twins and the published structures. Importing this imports timm.

Every network here is registered with timm under ``{family}_{network}{size}``; `timm.create_model` builds them.
"""

import timm  # noqa: F401  # first and whole: while another thread imports timm, this waits; `from timm.models` would not

from dynaconv.models._families import STATIC
from dynaconv.models.dynamic_mobilenetv2 import DynamicMobileNetV2, DynamicMobileNetV2Features
from dynaconv.models.dynamic_resnet import DynamicResNet

__all__ = ["STATIC", "DynamicMobileNetV2", "DynamicMobileNetV2Features", "DynamicResNet"]
