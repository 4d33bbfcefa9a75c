"""The demonstration: a static network and its DCD twin are trained on drawn letters, compared and explained."""

from dynaconv.demo.result import DemoResult, NetworkResult
from dynaconv.demo.run import run_demo

__all__ = ["DemoResult", "NetworkResult", "run_demo"]
