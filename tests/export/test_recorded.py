"""Coefficients and kernels as outputs of an exported network."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dynaconv import DCDConv2d, DYConv2d
from dynaconv.errors import ExportError
from dynaconv.export import export_onnx
from tests.export.networks import tiny
from tests.messages import refuses

pytestmark = pytest.mark.export


def run(file: Path, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    arrays = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip(names, map(torch.as_tensor, arrays), strict=True))


@pytest.mark.parametrize("case", ["dcd", "dcd-batch-norm", "condconv", "odconv", "se"])
def test_the_file_gives_what_each_layer_computes_for_each_sample(case: str, tmp_path: Path) -> None:
    model, example = tiny(case).eval(), torch.rand(5, 3, 9, 8)
    report = export_onnx(model, tmp_path / "net.onnx", example[:2], free_size=False, coefficients=True, kernels=True)
    want, layers = {}, {name: layer for name, layer in model.named_modules() if hasattr(layer, "coefficients")}

    def note(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        (name,) = (name for name, each in layers.items() if each is layer)
        parts = {**layer.coefficients(*args)._asdict(), "weight": layer.kernel(*args)}
        want.update({f"{name}.{part}": value for part, value in parts.items() if value is not None})

    for layer in layers.values():
        layer.register_forward_pre_hook(note)
    with torch.no_grad():
        want["output"] = model(example)
    found = run(tmp_path / "net.onnx", images=example)
    assert found.keys() == want.keys() == set(report.outputs)
    assert len(want) > 2
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_network_keeps_its_layers_and_hooks(tmp_path: Path) -> None:
    model = tiny("dcd")
    export_onnx(model, tmp_path / "net.onnx", torch.rand(1, 3, 9, 8), batch=1, free_size=False, coefficients=True)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert isinstance(model(torch.rand(2, 3, 9, 8)), torch.Tensor)


class Twice(nn.Module):
    """Calls one layer twice, with a context, and returns two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = DYConv2d(3, 3, 1, context_features=2)

    def forward(self, image: torch.Tensor, style: torch.Tensor) -> dict[str, torch.Tensor]:
        once = self.layer(image, style)
        return {"once": once, "twice": self.layer(once, context=2 * style)}


def test_a_layer_that_is_called_twice_has_both_calls(tmp_path: Path) -> None:
    model, image, style = Twice().eval(), torch.rand(2, 3, 5, 5), torch.rand(2, 2)
    export_onnx(model, tmp_path / "net.onnx", (image, style), free_size=False, coefficients=True)
    found = run(tmp_path / "net.onnx", image=image, style=style)
    assert list(found) == ["once", "twice", "layer.attention", "layer.attention.2"]
    want = model.layer.coefficients(image, 2 * style).attention
    torch.testing.assert_close(found["layer.attention.2"], want, rtol=1e-4, atol=1e-5)


def test_a_network_without_named_dynamic_layers_is_refused(tmp_path: Path) -> None:
    for model in (nn.Conv2d(3, 4, 1), DCDConv2d(3, 4, 1)):
        with refuses(ExportError, "dynamic layer", "coefficients"):
            export_onnx(model, tmp_path / "net.onnx", torch.rand(1, 3, 9, 8), coefficients=True)
    with refuses(ExportError, "native", "kernels"):
        export_onnx(tiny("dcd"), tmp_path / "net.onnx", torch.rand(1, 3, 9, 8), kernels=True, native=True)
    assert not list(tmp_path.iterdir())
