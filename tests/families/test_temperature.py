"""The temperature of a whole network, set by one call."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dynaconv import DCDConv2d, DYConv2d, set_temperature
from dynaconv.families.contract.temperature import HasTemperature, has_temperature
from tests.messages import refuses


def network() -> nn.Sequential:
    """Two layers with a temperature, one of them nested, and two without."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), DYConv2d(8, 8, 3), nn.Sequential(nn.ReLU(), DYConv2d(8, 8, 1)), DCDConv2d(8, 8, 1)
    )


def temperatures(model: nn.Module) -> list[float]:
    return [float(module.temperature) for module in model.modules() if isinstance(module, HasTemperature)]


def test_every_layer_that_has_one_is_set() -> None:
    model = network()
    assert temperatures(model) == [1, 1]
    assert set_temperature(model, 30) == 2
    assert temperatures(model) == [30, 30]
    layer = model[1]
    assert set_temperature(layer, 0.5) == 1
    assert temperatures(model) == [0.5, 30]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int32])
def test_a_number_of_numpy_is_a_temperature(kind: type[Any]) -> None:
    model = network()
    assert set_temperature(model, kind(4)) == 2
    assert temperatures(model) == [4, 4]
    assert float(DYConv2d(3, 8, 1, temperature=kind(4)).temperature) == 4


def test_the_tensor_stays_the_same() -> None:
    """A compiled graph, which holds the tensor, sees the new value."""
    model = network()
    before = [module.temperature for module in model.modules() if isinstance(module, HasTemperature)]
    set_temperature(model, 7)
    assert [float(temperature) for temperature in before] == [7, 7]


def test_copies_keep_it_and_are_independent() -> None:
    model = network()
    set_temperature(model, 12)
    twin = copy.deepcopy(model)
    assert temperatures(twin) == [12, 12]
    set_temperature(twin, 3)
    assert temperatures(model) == [12, 12]
    fresh = network()
    fresh.load_state_dict(twin.state_dict())
    assert temperatures(fresh) == [3, 3]


def test_no_gradient_and_no_graph_reaches_it() -> None:
    model = network()
    with torch.enable_grad():
        set_temperature(model, 2.5)
    assert not any(module.temperature.requires_grad for module in model.modules() if isinstance(module, HasTemperature))


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, True, "30", None])
def test_a_wrong_value_is_explained_and_changes_nothing(value: Any) -> None:
    model = network()
    with refuses(ValueError, "temperature"):
        set_temperature(model, value)
    assert temperatures(model) == [1, 1]
    with refuses(ValueError, "temperature"):
        DYConv2d(3, 8, 1, temperature=value)


def test_a_model_without_temperature_is_explained() -> None:
    with refuses(ValueError):
        set_temperature(nn.Sequential(nn.Conv2d(3, 8, 1), DCDConv2d(8, 8, 1)), 30)


def test_only_a_layer_of_ours_counts() -> None:
    other = nn.ReLU()
    other.temperature = 5.0  # type: ignore[assignment]
    assert not has_temperature(other)
    assert has_temperature(DYConv2d(3, 8, 1))
    assert not has_temperature(network())


def test_state_dict_and_moves() -> None:
    model = network()
    set_temperature(model, 1 / 3)
    state = model.state_dict()
    assert sorted(key for key in state if key.endswith("temperature")) == ["1.temperature", "2.1.temperature"]
    assert not any(name.endswith("temperature") for name, _ in model.named_buffers())
    # The saved tensor is not the layer's.
    state["1.temperature"].mul_(2)
    assert temperatures(model) == pytest.approx([1 / 3, 1 / 3])
    model.half().double().float()
    assert temperatures(model) == pytest.approx([1 / 3, 1 / 3])
    model.to("meta").to_empty(device="cpu")
    assert temperatures(model) == pytest.approx([1 / 3, 1 / 3])
    with torch.device("meta"):
        assert temperatures(network()) == [1, 1]
    for wrong in (torch.zeros(()), torch.ones(2), torch.tensor(math.nan), "1"):
        with pytest.raises(RuntimeError, match=r"1\.temperature"):
            network().load_state_dict({**network().state_dict(), "1.temperature": wrong})
    missing, _ = network().load_state_dict({k: v for k, v in state.items() if k != "1.temperature"}, strict=False)
    assert missing == ["1.temperature"]


class OwnAverageOfWeights:
    """An average as people write it: a deep copy, whose state is moved towards the network's."""

    def __init__(self, model: nn.Module) -> None:
        self.module = copy.deepcopy(model).eval()

    def update(self, model: nn.Module) -> None:
        with torch.no_grad():
            for own, theirs in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
                own.copy_(0.9 * own + 0.1 * theirs)


def averages(model: nn.Module) -> dict[str, tuple[nn.Module, Any]]:
    """Averages of the weights by several libraries, and how each is updated."""
    from timm.utils.model_ema import ModelEmaV2, ModelEmaV3
    from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

    built = {
        "timm-2": ModelEmaV2(model, decay=0.9),
        "timm-3": ModelEmaV3(model, decay=0.9),
        "timm-3-each": ModelEmaV3(model, decay=0.9, foreach=False),
        "torch": AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
        "torch-buffers": AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
        "torch-each": AveragedModel(model, avg_fn=get_ema_avg_fn(0.9), use_buffers=True),
        "torch-swa": AveragedModel(model, use_buffers=True),
        "own": OwnAverageOfWeights(model),
    }
    return {n: (a.module, a.update_parameters if n.startswith("torch") else a.update) for n, a in built.items()}


def test_averages_of_the_weights_have_the_temperature_of_the_network() -> None:
    model = network()
    averaged = averages(model)
    snapshot = copy.deepcopy(model)
    weight = model[1].weight
    for value in (30.0, 20.0, 0.1, 0.1):
        set_temperature(model, value)
        with torch.no_grad():
            weight.add_(1)
        for name, (module, update) in averaged.items():
            update(model)
            assert temperatures(module) == temperatures(model) == pytest.approx([value, value]), name
    assert not any(torch.equal(module[1].weight, weight) for module, _ in averaged.values())
    assert temperatures(snapshot) == [1, 1]
    # What is loaded later goes on with the network too.
    saved = {name: module.state_dict() for name, (module, _) in averaged.items()}
    again = network()
    for name, (module, _) in averages(again).items():
        module.load_state_dict(saved[name])
    assert temperatures(again) == pytest.approx([0.1, 0.1])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_lightnings_average_of_the_weights() -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    from dynaconv.train.temperature import AnnealTemperature, TemperatureSchedule

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(DYConv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def training_step(self, batch: Any, index: int) -> Any:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Module()
    average = callbacks.EMAWeightAveraging(decay=0.99)
    trainer = lightning.Trainer(
        max_epochs=2,
        callbacks=[average, AnnealTemperature(TemperatureSchedule(epochs=1))],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.randn(8, 1, 6, 6), batch_size=2))
    assert temperatures(module) == [1]
    assert temperatures(average._average_model) == [1]
