"""What one line of the compatibility table asks of one network and one family."""

import copy
import dataclasses
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _compatibility_networks import Network, flat
from torch import Tensor, nn

from dynaconv import convert, plan_conversion
from dynaconv.conversion.example import temporary_hooks
from dynaconv.errors import ConversionError
from dynaconv.export.onnx import export_onnx, load_onnx
from dynaconv.export.openvino import load_openvino
from dynaconv.families import DynamicConv

BATCHES = (1, 2, 7)
WHOLE = "export of the whole"
EXPORTS = frozenset({"export", "onnxruntime", "openvino", WHOLE})
"""The steps that an export fails in."""
LIMIT = 1e-4
"""How far a runtime may be from the network, relative to the largest value of the output."""
_TRAINED_WITH = 4
_STEPS = 2
_BRANCH_RATES = {"odconv": 5e-3, "fdconv": 5e-3, "se": 5e-3}
"""Rates of the branches other than 0.05, at which these end up ill-conditioned: SE's sigmoids saturate, the branch of
ODConv and FDConv normalises by what little the averages of four images differ, and the network's own rounding errors
reach its first digits."""
_WHOLE_WITH = ("dcd", "static")
"""Families with which a whole detector is exported too: what stands against it is not in the convolutions."""


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """What came out; a field that is None was not run.

    Attributes:
        network, family, library, size: What was tried; the family ``static`` is the network as it was.
        converted, convolutions: How many of its convolutions became dynamic; with none of them, nothing else is tried.
        difference: Largest ``max|dynamic - static| / max|static|`` over the outputs, before training, in eval mode and
            float32.
        exact_difference: The same, converted and computed in float64.
        static_rounding: How far the network as it was is in float32 from itself in float64, on the same images.
        reached: How many dynamic layers a gradient reached in the branch within two steps.
        varying: How many have coefficients that differ between the samples afterwards.
        loss: Before and after the steps.
        trained_rounding: How far the trained network is in float32 from itself in float64, for each batch size.
        exported: Whether an export was tried.
        onnxruntime, openvino: Largest difference to the network in eager mode, for each batch size.
        errors: What failed, by the name of the step.
        versions: Packages, Python and the system that it was tried with.
        seconds: How long it took.
    """

    network: str
    library: str
    family: str
    size: int
    converted: int | None = None
    convolutions: int | None = None
    difference: float | None = None
    exact_difference: float | None = None
    static_rounding: float | None = None
    reached: int | None = None
    varying: int | None = None
    loss: list[float] | None = None
    trained_rounding: list[float] | None = None
    exported: bool = False
    onnxruntime: list[float] | None = None
    openvino: list[float] | None = None
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    versions: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """The network with its library, and the family."""
        return f"{self.library}/{self.network}", self.family


def check(network: Network, family: str, *, export: bool = True, seed: int = 0) -> Outcome:
    """Convert, compare, train two steps, export, run in both runtimes. A failure ends up in the outcome.

    Args:
        network: The network.
        family: A family, or ``static`` to train and export the network as it is.
        export: Whether to export and run the file.
        seed: Of the weights and the images.
    """
    start = time.perf_counter()
    outcome = Outcome(network=network.name, library=network.library, family=family, size=network.size)
    step = "build"
    try:
        torch.manual_seed(seed)
        model = prepared(network)
        step = "convert"
        if family != "static":
            model = _converted(network, model, family, outcome)
        if outcome.converted == 0:
            return outcome
        step = "train"
        _train(network, model, outcome)
        step = "rounding"
        outcome.trained_rounding = _trained_rounding(network, model)
        step = "export"
        if export:
            outcome.exported = True
            _export(network, model, outcome)
    except Exception as error:
        outcome.errors[step] = why(error)
    outcome.seconds = time.perf_counter() - start
    return outcome


def prepared(network: Network) -> nn.Module:
    """The network with fresh weights that all matter and with running statistics of its own features."""
    model = network.build().train()
    with torch.no_grad():
        # Layers that start at zero (the last norm of a residual block, layer scales, some classifiers) hide what
        # stands before them: neither a difference nor a gradient would pass.
        for name, parameter in model.named_parameters():
            if "bias" not in name and parameter.abs().max() < 1e-3:
                parameter.uniform_(0.5, 1) if parameter.dim() < 2 or parameter.squeeze().dim() < 2 else (
                    nn.init.normal_(parameter, std=0.05)
                )
    _warm(network, model)
    return model


def images(network: Network, count: int, seed: int) -> Tensor:
    """Smooth noise, each image and channel with a contrast of its own: samples differ in what a branch sees."""
    generator = torch.Generator().manual_seed(seed)
    channels, *sizes = network.shape
    coarse = torch.rand((count, channels, *(4 for _ in sizes)), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=sizes, mode=("linear", "bilinear", "trilinear")[len(sizes) - 1])
    fine = torch.rand(smooth.shape, generator=generator)
    contrast = 0.2 + 0.8 * torch.rand((count, channels, *(1 for _ in sizes)), generator=generator)
    return (smooth + fine) / 2 * contrast


def relative_difference(got: list[Tensor], want: list[Tensor]) -> float:
    """Largest ``max|got - want| / max|want|`` over outputs; infinite where shapes or numbers of outputs differ."""
    if [each.shape for each in got] != [each.shape for each in want] or not want:
        return math.inf
    differences = []
    for mine, theirs in zip(got, want, strict=True):
        scale = float(theirs.abs().max())
        if not scale > 0:
            raise RuntimeError("an output is all zeros or NaN, so that comparing it says nothing")
        differences.append(float((mine - theirs).abs().max()) / scale)
    return math.nan if any(math.isnan(each) for each in differences) else max(differences)


def why(error: BaseException) -> str:
    """The first cause of an exception, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return f"{type(error).__name__}: {text[:300]}"


def _warm(network: Network, model: nn.Module) -> None:
    """Give every batch norm the mean of three passes' statistics.

    With their own momentum they would be near the initial ones still, next to which fresh features are so small that
    from one layer to the next less of the image is left.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for seed in range(3):
            network.loss(model, images(network, _TRAINED_WITH, 100 + seed))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _converted(network: Network, model: nn.Module, family: str, outcome: Outcome) -> nn.Module:
    try:
        plan = plan_conversion(model, family)
    except ConversionError as error:
        if "nothing to convert" not in str(error):
            raise
        outcome.converted = 0
        return model
    outcome.converted, outcome.convolutions = len(plan.converted), len(plan.layers)
    dynamic = plan.apply(model)
    x = images(network, 2, 0)
    with torch.no_grad():
        pair = [flat(network.view(each).eval()(x)) for each in (dynamic, model)]
        # Converted in float64 as well: several kernels whose mean is the static one round differently in float32.
        double = copy.deepcopy(model).double()
        exact = [flat(network.view(each).eval()(x.double())) for each in (convert(double, family), double)]
    outcome.difference = relative_difference(*pair)
    outcome.exact_difference = relative_difference(*exact)
    outcome.static_rounding = relative_difference([each.double() for each in pair[1]], exact[1])
    return dynamic


def _train(network: Network, model: nn.Module, outcome: Outcome) -> None:
    """Two steps of Adam, the branches at a higher rate so that coefficients soon depend on the input."""
    dynamic = [module for module in model.modules() if isinstance(module, DynamicConv)]
    branches = [list(layer.get_submodule("branch").parameters()) for layer in dynamic]
    own = {id(parameter) for branch in branches for parameter in branch}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in own and parameter.requires_grad]
    groups = [
        {"params": [each for branch in branches for each in branch], "lr": _BRANCH_RATES.get(outcome.family, 5e-2)},
        {"params": rest, "lr": 1e-4},
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    x, losses, reached = images(network, _TRAINED_WITH, 1), [], set()
    model.train()
    for _ in range(_STEPS):
        loss = network.loss(model, x)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise RuntimeError(f"the loss is {losses[-1]}")
        optimizer.zero_grad()
        loss.backward()
        gradients = [[each.grad for each in branch if each.grad is not None] for branch in branches]
        reached |= {n for n, several in enumerate(gradients) if any(bool(g.abs().max() > 0) for g in several)}
        optimizer.step()
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise RuntimeError("a parameter is not finite after the steps")
    if not any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)):
        raise RuntimeError("no parameter moved")
    outcome.loss = losses
    _warm(network, model)
    if dynamic:
        outcome.reached, outcome.varying = len(reached), _varying(network, model, dynamic)


def _varying(network: Network, model: nn.Module, layers: list[DynamicConv]) -> int:
    """How many layers that the view runs have coefficients that differ between samples by more than 1e-4."""
    spread: dict[DynamicConv, float] = {}

    def record(layer: DynamicConv, inputs: tuple[Tensor]) -> None:
        for value in layer.coefficients(inputs[0]):
            if isinstance(value, Tensor):
                spread[layer] = max(spread.get(layer, 0.0), float((value - value[:1]).abs().max()))

    with temporary_hooks(layer.register_forward_pre_hook(record) for layer in layers), torch.no_grad():
        network.view(model)(images(network, max(BATCHES), 2))
    return sum(value > 1e-4 for value in spread.values())


def _trained_rounding(network: Network, model: nn.Module) -> list[float]:
    double = network.view(copy.deepcopy(model).double()).eval()
    with torch.no_grad():
        return _differences(lambda x: flat(double(x.double())), network, network.view(model.eval()).eval())


def _export(network: Network, model: nn.Module, outcome: Outcome) -> None:
    view = network.view(model.eval()).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(view, path, images(network, 2, 3), free_size=False)
        for name, load in (("onnxruntime", load_onnx), ("openvino", load_openvino)):
            try:
                setattr(outcome, name, _differences(load(path), network, view))
            except Exception as error:
                outcome.errors[name] = why(error)
    if network.whole is not None and outcome.family in _WHOLE_WITH:
        with tempfile.TemporaryDirectory() as folder:
            try:
                whole = network.whole(model).eval()
                export_onnx(whole, Path(folder) / "whole.onnx", images(network, 2, 3), free_size=False)
            except Exception as error:
                outcome.errors[WHOLE] = why(error)


def _differences(run: Any, network: Network, view: nn.Module) -> list[float]:
    """How far ``run`` is from the network at each batch size, on images it has not been exported with."""
    differences = []
    for batch in BATCHES:
        x = images(network, batch, 10 + batch)
        with torch.no_grad():
            want = flat(view(x))
        differences.append(relative_difference([torch.as_tensor(each) for each in run(x)], want))
    return differences
