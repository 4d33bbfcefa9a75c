"""The batch that all processes make together: learning rate, accumulated gradients, mixed precision."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything

from dynaconv.errors import RunError
from dynaconv.train.batch_scale import GlobalBatch
from dynaconv.train.config import TrainConfig, make_parser, resolve
from dynaconv.train.folders import is_first_process
from dynaconv.train.options import SGD, AdamW
from dynaconv.train.run import fit
from dynaconv.train.torchrun import placed_by_torchrun
from tests.helpers import LAYERS
from tests.messages import refuses, spelled
from tests.train.distributed_run import FixedNorms, LossCurve
from tests.train.helpers import tiny_config

pytestmark = pytest.mark.usefixtures("own_environment")


def test_the_rate_grows_with_the_batch_or_its_square_root() -> None:
    assert [SGD().lr_scale(ratio) for ratio in (4, 0.25)] == [4, 0.25]
    assert [AdamW().lr_scale(ratio) for ratio in (4, 0.25)] == [2, 0.5]


def test_a_batch_says_what_it_is_made_of() -> None:
    batch = GlobalBatch(batch_size=64, devices=8, nodes=4, accumulation=2)
    assert (batch.processes, batch.images) == (32, 4096)
    assert str(batch) == "4,096 images an update (64 x 8 devices x 4 nodes x 2 accumulated steps)"
    assert str(GlobalBatch(batch_size=64, devices=1, nodes=1, accumulation=1)) == "64 images an update"


@pytest.mark.parametrize(("optimizer", "factor"), [("SGD", 4.0), ("AdamW", 2.0)])
def test_a_run_scales_its_rate_and_says_so(tmp_path: Path, optimizer: str, factor: float) -> None:
    notes: list[str] = []
    changes = {"model__lr": 0.01, "model__schedule": {"end_factor": 0.1}, "model__optimizer": optimizer}
    config = tiny_config(
        model__lr_reference_batch=16, trainer__accumulate_grad_batches=2, trainer__max_epochs=1, **changes
    )
    result = fit(config, out=tmp_path / "run", on_start=lambda _, facts: notes.extend(facts["notes"]))
    assert result.summary["lr"] == pytest.approx(0.01 * factor)
    assert (result.summary["images_per_update"], result.summary["processes"]) == (64, 1)
    assert notes[0] == "64 images an update (32 x 2 accumulated steps)."
    assert notes[1].startswith(f"learning rate {0.01 * factor:.4g}: 0.01 for 16 images an update, scaled by the ")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    # The third and last update, two thirds down the cosine from the scaled rate to the scaled end.
    assert float(row["lr"]) == pytest.approx(factor * (0.001 + 0.009 * 0.25), rel=1e-4)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["lr"] == result.summary["lr"]


def test_accumulated_steps_equal_one_of_their_images(tmp_path: Path) -> None:
    curves = []
    for batch_size, steps in ((32, 1), (16, 2)):
        config = tiny_config(
            data__batch_size=batch_size,
            data__augment="Off",
            trainer__accumulate_grad_batches=steps,
            trainer__precision="64-true",
        )
        curve = LossCurve()
        result = fit(config, out=tmp_path / f"run{steps}", callbacks=[FixedNorms(), curve])
        # Lightning divides the loss of a step by the number that is accumulated.
        losses = torch.tensor(curve.losses).reshape(-1, steps).sum(1)
        curves.append((losses, result.model.state_dict()))
    torch.testing.assert_close(curves[0][0], curves[1][0])
    for key, value in curves[0][1].items():
        torch.testing.assert_close(curves[1][1][key], value)


def resolve_network(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The parameters that a run starts from."""
    seed_everything(config.seed, workers=True, verbose=False)
    built = make_parser().instantiate(resolve(config))
    return dict(built.model.model.named_parameters())


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_every_family_trains_in_mixed_precision_with_accumulated_gradients(tmp_path: Path, family: str) -> None:
    name = {"se": "se"}.get(family, family)
    curve = LossCurve()
    config = tiny_config(
        data__train_limit=48,
        data__batch_size=8,
        data__val_fraction=0,
        model__name=f"{name}_mobilenetv2_035",
        model__model_options={"stem_stride": 1},
        model__lr=0.002,
        model__schedule="Cosine",
        trainer__max_epochs=1,
        trainer__precision="bf16-mixed",
        trainer__accumulate_grad_batches=2,
    )
    result = fit(config, out=tmp_path / "run", callbacks=[curve])
    assert len(curve.losses) == 6
    assert all(parameter.dtype == torch.float32 for parameter in result.model.parameters())
    assert all(value.isfinite().all() for value in result.model.state_dict().values())
    before = resolve_network(config)
    assert all(not torch.equal(value, before[key]) for key, value in result.model.named_parameters())


@pytest.mark.parametrize("changes", [{"model__lr_reference_batch": 0}, {"model__lr_reference_batch": -4}], ids=spelled)
def test_a_reference_batch_counts_images(tmp_path: Path, changes: dict[str, Any]) -> None:
    with refuses(RunError, "lr_reference_batch"):
        fit(tiny_config(**changes), out=tmp_path / "run")


def test_torchrun_gives_the_numbers_of_devices_and_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert placed_by_torchrun({"devices": "auto"}) == {"devices": "auto"}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    placed = {"devices": 2, "num_nodes": 4, "strategy": "ddp"}
    assert placed_by_torchrun({"devices": "auto", "num_nodes": 1}) == placed
    for devices in ([0, 1], "0,1", "2", 2):
        given = {"devices": devices, "num_nodes": 4, "strategy": "fsdp2"}
        assert placed_by_torchrun(given) == given
    with refuses(RunError, "trainer.devices"):
        placed_by_torchrun({"devices": 4})
    with refuses(RunError, "trainer.num_nodes"):
        placed_by_torchrun({"num_nodes": 2})


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_one_process_of_all_nodes_is_the_first(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "0")
    assert is_first_process()
    monkeypatch.setenv(variable, "1")
    assert not is_first_process()
