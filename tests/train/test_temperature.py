"""Annealing the temperature of attention."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from dynaconv.errors import RunError
from dynaconv.families import DYConv2d, KernelWarehouseConv2d
from dynaconv.train.lightning_messages import quiet_lightning
from dynaconv.train.module import ClassificationModule
from dynaconv.train.temperature import AnnealTemperature, TemperatureSchedule
from tests.messages import refuses, spelled


class Recorder(LightningModule):
    """A tiny network that writes down the temperature it is trained at."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = DYConv2d(2, 3, 1)
        self.seen: list[float] = []

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        self.seen.append(float(self.layer.temperature))
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def train(callback: AnnealTemperature, tmp_path, *, epochs: int, batches: int = 4, checkpoint=None) -> Recorder:
    module = Recorder()
    with quiet_lightning():
        return _train(module, callback, tmp_path, epochs, batches, checkpoint)


def _train(module: Recorder, callback: AnnealTemperature, tmp_path, epochs: int, batches: int, checkpoint) -> Recorder:
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[callback],
        default_root_dir=tmp_path,
    )
    loader = torch.utils.data.DataLoader(torch.randn(batches, 2, 3, 3), batch_size=1)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=False)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return module


def test_it_falls_in_equal_steps_and_stays(tmp_path) -> None:
    module = train(AnnealTemperature(TemperatureSchedule(epochs=2)), tmp_path, epochs=3)
    assert module.seen == pytest.approx([30 - 29 * step / 8 for step in range(8)] + [1.0] * 4)
    assert float(module.layer.temperature) == 1


def test_a_short_run_anneals_over_its_first_third(tmp_path) -> None:
    module = train(AnnealTemperature(TemperatureSchedule()), tmp_path, epochs=3)
    assert module.seen == pytest.approx([30, 22.75, 15.5, 8.25] + [1.0] * 8)


def test_the_end_is_reached_when_the_whole_run_anneals(tmp_path) -> None:
    assert (
        float(
            train(
                AnnealTemperature(TemperatureSchedule(start=10, end=2, epochs=1)), tmp_path, epochs=1
            ).layer.temperature
        )
        == 2
    )


def test_a_resumed_run_goes_on(tmp_path) -> None:
    schedule = TemperatureSchedule(epochs=2)
    train(AnnealTemperature(schedule), tmp_path, epochs=1)
    resumed = train(AnnealTemperature(schedule), tmp_path, epochs=2, checkpoint=tmp_path / "last.ckpt")
    assert resumed.seen == pytest.approx([30 - 29 * step / 8 for step in range(4, 8)])


@pytest.mark.parametrize("options", [{"start": -1}, {"end": -1.0}, {"epochs": 0}], ids=spelled)
def test_what_is_not_positive_is_refused(options: dict[str, float]) -> None:
    with refuses(RunError, next(iter(options))):
        TemperatureSchedule(**options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("dyconv_resnet10", {"start": 0.0}), ("kernel_warehouse_resnet10", {"start": 2.0})],
    ids=spelled,
)
def test_a_temperature_out_of_the_familys_range_is_refused(name: str, options: dict[str, float]) -> None:
    with refuses(RunError, "start"):
        ClassificationModule(name, {"stem_stride": 2}, temperature=TemperatureSchedule(**options))


def test_the_family_says_where_it_starts_and_ends(tmp_path) -> None:
    module = Recorder()
    module.layer = KernelWarehouseConv2d(2, 3, 1)
    with quiet_lightning():
        _train(module, AnnealTemperature(TemperatureSchedule(epochs=2)), tmp_path, 3, 4, None)
    assert module.seen == pytest.approx([1 - step / 8 for step in range(8)] + [0.0] * 4)
    assert float(module.layer.temperature) == 0
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert float(saved["layer.temperature"]) == 0


def test_a_network_with_a_temperature_brings_the_callback() -> None:
    schedule = TemperatureSchedule(start=20, end=2, epochs=0.5)
    module = ClassificationModule("dyconv_resnet10", {"stem_stride": 2}, temperature=schedule)
    (callback,) = module.configure_callbacks()
    assert isinstance(callback, AnnealTemperature)
    assert callback.schedule is schedule


def test_a_network_without_one_refuses_its_options() -> None:
    assert not ClassificationModule("static_resnet10", {"stem_stride": 2}).configure_callbacks()
    with refuses(RunError, "static_resnet10"):
        ClassificationModule("static_resnet10", {"stem_stride": 2}, temperature=TemperatureSchedule())
