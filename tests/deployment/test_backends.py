"""Backends of `deploy` and their precisions."""

from typing import Any

import pytest
import torch
from torch import nn

from dynaconv import deploy
from dynaconv.deployment import backends
from dynaconv.errors import ConversionError
from dynaconv.native import deploy_native
from tests.messages import refuses


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).eval()


@pytest.mark.parametrize("precision", ["float16", None, torch.bfloat16, []])
def test_unknown_precisions_are_refused_before_the_network_changes(precision: Any) -> None:
    model = network()
    with refuses(ConversionError, "precision"):
        deploy(model, (3, 8, 8), backend="native", inplace=True, precision=precision)
    assert isinstance(model[1], nn.BatchNorm2d)
    with refuses(ConversionError, "precision"):
        deploy_native(model, precision=precision)


@pytest.mark.parametrize("backend", ["torch", "own"])
def test_a_backend_of_one_precision_refuses_others(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "PRECISIONS", ("float32", "bf16"))
    monkeypatch.setitem(backends._registered, "own", lambda model: model)
    model = network()
    with refuses(ConversionError, "precision"):
        deploy(model, (3, 8, 8), backend=backend, inplace=True, precision="bf16")
    assert isinstance(model[1], nn.BatchNorm2d)
    assert deploy(model, (3, 8, 8), backend=backend, precision="float32") is not None


def test_a_backend_that_takes_a_precision_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def backend(model: nn.Module, *, precision: str = "float32") -> nn.Module:
        given.append(precision)
        return model

    monkeypatch.setattr(backends, "PRECISIONS", ("float32", "bf16"))
    monkeypatch.setitem(backends._registered, "own", backend)
    deploy(network(), (3, 8, 8), backend="own", precision="bf16")
    deploy(network(), (3, 8, 8), backend="own")
    assert given == ["bf16", "float32"]
