"""Every argument of every public function, given a wrong value, is refused in a sentence or is valid."""

import importlib
import inspect
import math
import random
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from dynaconv import DCDConv2d, KernelWarehouseConv2d, conversion_of, convert, plan_conversion
from dynaconv.export import pipeline, verified_target
from dynaconv.families import families, get_family
from dynaconv.hub import DynaconvModel
from dynaconv.train.factory import create_network
from tests.conversion.published_layers import PublishedDCD

HUGE = 2**40
WRONG: list[Any] = [None, -1, 0, HUGE, 1.5, math.nan, -math.inf, True, "", "no such", [], {}, (), object(), b"x"]
WRONG += [{"x": 1}, [None]]
WRONG_TENSORS = [torch.empty(0), torch.full((2, 3, 8, 8), math.nan), torch.zeros(1, dtype=torch.int64)]
"""For arguments that take a tensor."""
LONG = [list(range(1000)), torch.zeros(40, 40)]
"""Values of which a message shows the type alone."""
QUOTED = {"dynaconv.hub.HubConfig", "dynaconv.hub.DynaconvModel.from_network", "dynaconv.export.verified_target"}
"""What quotes the message of another package, or the caller's own list of endings."""
COUNTS = {"rounds", "warmup", "restarts", "max_steps", "seed"}
"""Arguments of which a huge value is valid, but not in the time of a test."""
LAYERS = ("CondConv2d", "DCDConv2d", "DYConv2d", "FDConv2d", "KernelWarehouseConv2d", "ODConv2d", "SEConv2d")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))


def classifier() -> nn.Module:
    return nn.Sequential(convert(network(), "dyconv"), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def dynamic() -> nn.Module:
    return convert(network(), "dcd").eval()


def images() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))]


def hub_model() -> DynaconvModel:
    return DynaconvModel.from_network(
        create_network("test_resnet", num_classes=10, in_channels=3), model="test_resnet", image_size=32
    )


def write_target(**given: Any) -> None:
    with verified_target(**given) as file:
        file.write_text("content")


LAYER = {"in_channels": 4, "out_channels": 8, "kernel_size": 3}
HUB = {"model": "x", "model_options": {}, "num_classes": 2, "in_channels": 1, "image_size": 8, "mean": (0.5,)}
KERNELS, ATTENTION = torch.randn(4, 8, 6, 1, 1), torch.softmax(torch.randn(9, 4), 1)
# Name -> the arguments of a valid call, in a folder.
CALLS: dict[str, Callable[[Path], dict[str, Any]]] = {
    **{f"dynaconv.{name}": lambda _: LAYER for name in LAYERS},
    "dynaconv.DCDConfig": lambda _: {},
    "dynaconv.DCDLinear": lambda _: {"in_features": 4, "out_features": 8},
    "dynaconv.KernelWarehouseLinear": lambda _: {"in_features": 4, "out_features": 8},
    "dynaconv.SharedContext": lambda _: {"channels": 4, "features": 3},
    "dynaconv.apply_conversion": lambda _: {"model": network(), "record": conversion_of(dynamic())},
    "dynaconv.batched_conv": lambda _: {"x": torch.randn(2, 4, 8, 8), "kernels": torch.randn(2, 6, 4, 3, 3)},
    "dynaconv.batched_conv_transpose": lambda _: {"x": torch.randn(2, 4, 8), "kernels": torch.randn(2, 4, 6, 3)},
    "dynaconv.conversion_of": lambda _: {"model": dynamic()},
    "dynaconv.convert": lambda _: {"model": network()},
    "dynaconv.deploy": lambda _: {"model": dynamic()},
    "dynaconv.export_onnx": lambda folder: {"model": dynamic(), "path": folder / "net.onnx", "example": images()[0][0]},
    "dynaconv.export_openvino": lambda to: {"model": dynamic(), "path": to / "net.xml", "example": images()[0][0]},
    "dynaconv.freeze": lambda _: {"model": dynamic(), "names": "0", "data": torch.randn(2, 3, 8, 8)},
    "dynaconv.load_published": lambda _: {"model": (model := dynamic()), "path": model.state_dict()},
    "dynaconv.parameter_groups": lambda _: {"model": dynamic(), "lr": 0.1, "weight_decay": 0.1},
    "dynaconv.plan_conversion": lambda _: {"model": network()},
    "dynaconv.plan_deployment": lambda _: {"model": dynamic()},
    "dynaconv.profile": lambda _: {"model": dynamic(), "input_size": (3, 8, 8)},
    "dynaconv.published_layer": lambda _: {
        "family": "dcd",
        "state": PublishedDCD(4, 8, style="mobilenet").state_dict(),
    },
    "dynaconv.register_family": lambda _: {"family": get_family("dcd")},
    "dynaconv.revert": lambda _: {"model": dynamic()},
    "dynaconv.set_temperature": lambda _: {"model": dynamic(), "value": 1.0},
    "dynaconv.share_cells": lambda _: {"layers": [KernelWarehouseConv2d(4, 8, 1)]},
    "dynaconv.deployment.register_backend": lambda _: {"name": "own", "backend": lambda model: model},
    "dynaconv.export.export_aoti": lambda to: {"model": dynamic(), "path": to / "net.pt2", "example": images()[0][0]},
    "dynaconv.export.export_program": lambda to: {"model": dynamic(), "path": to / "n.pt2", "example": images()[0][0]},
    "dynaconv.export.ImageInfo": lambda _: {"mean": (0.5,), "std": (0.5,)},
    "dynaconv.export.quantize_onnx": lambda to: {"model": dynamic(), "path": to / "net.onnx", "calibration": images()},
    "dynaconv.export.quantize_openvino": lambda to: {"model": dynamic(), "path": to / "n.xml", "calibration": images()},
    "dynaconv.export.verified_target": lambda to: {"path": to / "a.txt", "suffixes": (".txt",), "overwrite": True},
    "dynaconv.export.verify": lambda _: {
        "run": (model := dynamic()),
        "model": model,
        "example": images()[0][0],
        "runtime": "torch",
    },
    "dynaconv.families.family_of": lambda _: {"layer": DCDConv2d(4, 8, 1)},
    "dynaconv.families.get_family": lambda _: {"name": "dcd"},
    "dynaconv.hub.HubConfig": lambda _: {**HUB, "std": (0.5,), "style": "small"},
    "dynaconv.hub.DynaconvModel.from_network": lambda _: {
        "network": create_network("test_resnet", num_classes=10, in_channels=3),
        "model": "test_resnet",
        "image_size": 32,
    },
    "dynaconv.hub.DynaconvModel.from_pretrained": lambda folder: {"pretrained_model_name_or_path": folder},
    "dynaconv.hub.DynaconvModel.from_run": lambda folder: {"path": folder},
    "dynaconv.models.DynamicMobileNetV2": lambda _: {"width": 0.35},
    "dynaconv.models.DynamicMobileNetV2Features": lambda _: {"width": 0.35},
    "dynaconv.models.DynamicResNet": lambda _: {"block": BasicBlock, "layers": [1, 1]},
    "dynaconv.native.deploy_native": lambda _: {"model": dynamic()},
    "dynaconv.testing.cases": lambda _: {"family": get_family("se")},
    # Functions and methods that the guides use.
    **{f"dynaconv.{name}.forward": lambda _: {"x": torch.randn(2, 4, 8, 8)} for name in LAYERS},
    **{f"dynaconv.{name}.kernel": lambda _: {"x": torch.randn(2, 4, 8, 8)} for name in LAYERS},
    **{f"dynaconv.{name}.coefficients": lambda _: {"x": torch.randn(2, 4, 8, 8)} for name in LAYERS},
    **{f"dynaconv.{name}.from_conv": lambda _: {"conv": nn.Conv2d(4, 8, 3)} for name in LAYERS},
    "dynaconv.conversion.ConversionPlan.apply": lambda _: {"model": network()},
    "dynaconv.hub.DynaconvModel.generate_model_card": lambda _: {},
    "dynaconv.native.accelerate_training": lambda folder: {"enabled": True},
    "dynaconv.hub.DynaconvModel.save_pretrained": lambda folder: {"save_directory": folder / "hub"},
    "dynaconv.explain.coefficients.collect_coefficients": lambda _: {
        "model": classifier(),
        "batches": images(),
        "num_classes": 2,
    },
    "dynaconv.explain.dcd_fit.dcd_error_curve": lambda _: {
        "kernels": KERNELS,
        "attention": ATTENTION,
        "latent_dims": [1],
    },
    "dynaconv.explain.dcd_fit.fit_dcd": lambda _: {"kernels": KERNELS, "attention": ATTENTION, "latent_dim": 2},
    "dynaconv.explain.decomposition.latent_form": lambda _: {"kernels": KERNELS},
    "dynaconv.explain.decomposition.residual_form": lambda _: {"kernels": KERNELS},
    "dynaconv.explain.decomposition.svd_form": lambda _: {"kernels": KERNELS},
    "dynaconv.explain.decomposition_spectrum.directions_for_energy": lambda _: {
        "singular_values": torch.rand(5),
        "share": 0.5,
    },
    "dynaconv.explain.decomposition_spectrum.effective_rank": lambda _: {"singular_values": torch.rand(5)},
    "dynaconv.explain.decomposition_spectrum.residual_spectrum": lambda _: {"kernels": KERNELS},
    "dynaconv.explain.freezing.rank_layers": lambda _: {"model": classifier(), "batches": images()},
    "dynaconv.explain.mixtures.layer_mixture": lambda _: {
        "layer": convert(network(), "dyconv")[0],  # type: ignore[index]
        "x": images()[0][0],
    },
    "dynaconv.explain.movement.kernel_movement": lambda _: {"model": dynamic(), "batches": images()},
    "dynaconv.explain.statistics.collect_statistics": lambda _: {
        "model": classifier(),
        "batches": images(),
        "class_names": ["a", "b"],
    },
    "dynaconv.explain.suppression.measure_suppression": lambda _: {"model": classifier(), "batches": images()},
    "dynaconv.measure.latency.measure_latency": lambda _: {
        "models": {"one": dynamic()},
        "input_size": (3, 8, 8),
        "rounds": 1,
    },
    "dynaconv.study.advice.advise": lambda _: {"train_loss": 1.5, "num_classes": 10},
    "dynaconv.study.load.load_study": lambda _: {"study": "mobilenetv2"},
}
# Layers of other dimensions check arguments by the same code, and so do the methods of a class.
NOT_CALLED = {layer.__name__ for family in families() for layer in family.others}
# Abstract classes, and the cells that layers make.
NOT_CALLED |= {"DeployedLayer", "DynamicConv", "DynamicLayer", "KernelMixture", "KernelMixture2d", "Warehouse"}
NOT_CALLED |= {f"DynamicConv{kind}{dims}d" for kind in ("", "Transpose") for dims in (1, 2, 3)}
# The definition of a family, the suite over it, and the comparisons of tests, which raise AssertionError.
NOT_CALLED |= {"Coefficient", "Family", "Case", "check_family", "assert_close", "assert_close_to_scale"}
# A module, made by `deploy`; a class with methods that are called; whole trainings; what takes no argument or compiles.
NOT_CALLED |= {"NativeProgram", "DynaconvModel", "run_demo", "extension", "families", "instruction_set", "ready"}
METHODS: dict[str, Callable[[], Any]] = {
    **{f"dynaconv.{name}": lambda name=name: located(f"dynaconv.{name}")(**LAYER).eval() for name in LAYERS},
    "dynaconv.conversion.ConversionPlan": lambda: plan_conversion(network()),
    "dynaconv.hub.DynaconvModel": hub_model,
}
"""Classes whose methods are called, and an object of each."""


def located(name: str) -> Any:
    """What a dotted name stands for."""
    module, _, last = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), last)
    except ModuleNotFoundError:
        return getattr(located(module), last)


def function_of(name: str) -> Callable[..., Any]:
    owner, _, method = name.rpartition(".")
    if name == "dynaconv.export.verified_target":
        return write_target
    if owner in METHODS and not method.startswith("from_"):
        return getattr(METHODS[owner](), method)  # type: ignore[no-any-return]
    return located(name)  # type: ignore[no-any-return]


def test_every_public_name_is_called() -> None:
    """Building blocks of layers, which check the arguments, and what functions return, are no part of it."""
    names = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "site_hook.py"))["public_names"]()
    called = {name for name in CALLS if name.count(".") == 1 or name in names}
    for name, value in names.items():
        blocks = name.startswith("dynaconv.ops.") or name.count(".") > 2
        results = not callable(value) or name.endswith(("Report", "Plan", "Check", "Result", "Coefficients", "Layer"))
        error = inspect.isclass(value) and issubclass(value, Exception)
        expected = not (blocks or results or error or name.rpartition(".")[2] in NOT_CALLED)
        assert (name in called) == expected, name


def wrong_values(function: str, parameter: str, valid: Any, *, every: bool) -> Iterator[Any]:
    values = WRONG + (WRONG_TENSORS if isinstance(valid, Tensor) else [])
    yield from values if every else random.Random(f"{function} {parameter}").sample(values, 4)
    yield from LONG


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused_or_valid(
    name: str, every: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: Any) -> None:
        raise ValueError("the arguments are accepted; the export itself takes seconds")

    # Some functions write where an argument names a file.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline._Request, "of", reached)
    function, valid = function_of(name), CALLS[name](tmp_path)
    signature = inspect.signature(verified_target if function is write_target else function)
    parameters = [
        each for each in signature.parameters.values() if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    for parameter in parameters:
        # torch refuses sizes beyond any memory, unknown devices and tensors of another shape, as in `torch.nn.Conv2d`.
        of_torch = "device" in signature.parameters
        for wrong in wrong_values(name, parameter.name, valid.get(parameter.name), every=every):
            if wrong is HUGE and parameter.name in COUNTS:
                continue
            message = ""
            given = CALLS[name](tmp_path) | ({"device": "meta"} if of_torch else {}) | {parameter.name: wrong}
            try:
                function(**given)
            except (TypeError, ValueError) as error:
                message = str(error)
            except RuntimeError:
                if parameter.name != "device" and not isinstance(wrong, Tensor) and wrong is not HUGE:
                    raise
            assert name in QUOTED or (len(message) < 1500 and "tensor([[" not in message), parameter.name
