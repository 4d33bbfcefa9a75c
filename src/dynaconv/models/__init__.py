"""Networks with dynamic convolutions, their static twins and the published structures.

Importing this module imports timm and registers every network with it under ``{family}_{network}{size}``;
`timm.create_model` builds them.
"""

import timm  # noqa: F401  # first: this waits while another thread imports timm; `from timm.models` does not

from dynaconv.models._families import STATIC
from dynaconv.models.dynamic_mobilenetv2 import DynamicMobileNetV2, DynamicMobileNetV2Features
from dynaconv.models.dynamic_resnet import DynamicResNet

__all__ = ["STATIC", "DynamicMobileNetV2", "DynamicMobileNetV2Features", "DynamicResNet"]
