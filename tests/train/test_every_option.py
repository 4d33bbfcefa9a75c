"""Every option of a run acts: a value other than the default changes the data, a step or the plan of the run."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from dynaconv.ops.eager import compiled_is_enabled
from dynaconv.train.config import TrainConfig, choices, option_types, resolve
from dynaconv.train.data.pack import pack_folder
from dynaconv.train.execution import build
from dynaconv.train.run import fit
from tests.train.helpers import TINY_MODEL, tiny_config, write_folder

DIGITS = ["--data.name=digits", "--data.batch_size=8", "--data.num_workers=0"]
DRAWN = ["--data.name=glyphs-mini", "--data.epoch_size=16", "--data.batch_size=8"]
FOLDER = ["--data.name={folder}", "--data.image_size=40", "--data.batch_size=4", "--data.num_workers=0"]
PHOTOS = [*FOLDER, "--data.augment=Photo"]
SHARDS = ["--data.name=wds/{shards}", "--data.image_size=16", "--data.batch_size=4", "--data.num_workers=0"]
RESNET = '--model.model_options={"stem_stride": 2, "channels": [4, 8, 16, 32]}'
DCD, DYCONV = (["--data.num_workers=0", f"--model.name={name}_resnet10", RESNET] for name in ("dcd", "dyconv"))
# Option -> its value, and the other options it needs. An option of an alternative starts with the name of its class.
CASES: dict[str, tuple[str, list[str]]] = {
    "seed": ("5", DIGITS),
    "data.name": ("glyphs-mini", DIGITS),
    "data.data_dir": ("{other}", ["--data.name=folder", "--data.data_dir={folder}", "--data.image_size=16"]),
    "data.classes": (
        "3",
        ["--data.name=wds/{unlisted}", "--data.image_size=16", "--data.batch_size=4", "--data.classes=2"],
    ),
    "data.channels": ("1", FOLDER),
    "data.image_size": ("12", DIGITS),
    "data.batch_size": ("16", DIGITS),
    "data.eval_batch_size": ("5", DIGITS),
    "data.num_workers": ("1", DIGITS),
    "data.val_fraction": ("0.5", DIGITS),
    "data.test_fraction": ("0.5", ["--data.name={classes}", "--data.image_size=16", "--data.batch_size=4"]),
    "data.split_seed": ("3", DIGITS),
    "data.train_limit": ("50", DIGITS),
    "data.epoch_size": ("32", DRAWN),
    "data.shuffle_buffer": ("2", SHARDS),
    "data.augment": ("Off", DIGITS),
    "data.augment.Small.padding": ("3", DIGITS),
    "data.augment.Small.flip": ("true", DIGITS),
    "data.augment.Small.erase_prob": ("1", DIGITS),
    "data.augment.Photo.flip": ("false", PHOTOS),
    "data.augment.Photo.erase_prob": ("1", PHOTOS),
    "data.augment.Photo.rand_augment": ("rand-m9-mstd0.5", PHOTOS),
    "data.augment.Photo.color_jitter": ("0.9", PHOTOS),
    "data.augment.Photo.crop_scale": ("[0.9, 1]", PHOTOS),
    "data.crop_pct": ("0.5", PHOTOS),
    "data.interpolation": ("bilinear", PHOTOS),
    "data.max_corrupt": ("1", FOLDER),
    "data.options": ('{"distinct": 4}', DRAWN),
    "model.name": ("static_resnet10", [*DIGITS, *DCD]),
    "model.model_options": ('{"drop_rate": 0.5}', DIGITS),
    "model.classifier_std": ("0", DIGITS),
    "model.optimizer": ("AdamW", DIGITS),
    "model.optimizer.SGD.momentum": ("0.5", DIGITS),
    "model.optimizer.SGD.nesterov": ("false", DIGITS),
    "model.optimizer.AdamW.betas": ("[0.5, 0.9]", DIGITS),
    "model.schedule": ("Constant", DIGITS),
    "model.schedule.Cosine.warmup_epochs": ("1", DIGITS),
    "model.schedule.Cosine.end_factor": ("0.5", DIGITS),
    "model.schedule.Step.warmup_epochs": ("1", DIGITS),
    "model.schedule.Step.step_epochs": ("1", DIGITS),
    "model.schedule.Step.gamma": ("0.5", [*DIGITS, "--model.schedule.step_epochs=1"]),
    "model.schedule.Constant.warmup_epochs": ("1", DIGITS),
    "model.lr": ("0.3", DIGITS),
    "model.lr_reference_batch": ("4", DIGITS),
    "model.weight_decay": ("0.3", DIGITS),
    "model.decay_norm_and_bias": ("true", [*DIGITS, "--model.weight_decay=0.5"]),
    "model.branch_lr": ("1", [*DIGITS, *DCD]),
    "model.branch_weight_decay": ("0.5", [*DIGITS, *DCD]),
    "model.label_smoothing": ("0.2", DIGITS),
    "model.mix": ("Mixup", DIGITS),
    "model.mix.Mixup.prob": ("0.01", DIGITS),
    "model.mix.Mixup.ramp_epochs": ("9", DIGITS),
    "model.mix.Mixup.alpha": ("1", DIGITS),
    "model.mix.CutMix.prob": ("0.01", DIGITS),
    "model.mix.CutMix.ramp_epochs": ("9", DIGITS),
    "model.mix.CutMix.alpha": ("0.1", DIGITS),
    "model.mix.MixupOrCutMix.prob": ("0.01", DIGITS),
    "model.mix.MixupOrCutMix.ramp_epochs": ("9", DIGITS),
    "model.mix.MixupOrCutMix.mixup_alpha": ("1", [*DIGITS, "--model.mix.switch_prob=0.01"]),
    "model.mix.MixupOrCutMix.cutmix_alpha": ("0.1", [*DIGITS, "--model.mix.switch_prob=0.99"]),
    "model.mix.MixupOrCutMix.switch_prob": ("0.99", DIGITS),
    "model.ema_decay": ("0.5", DIGITS),
    "model.channels_last": ("true", DIGITS),
    "model.compiled_operators": ("false", [*DIGITS, *DCD]),
    "model.temperature.TemperatureSchedule.start": ("20", [*DIGITS, *DYCONV]),
    "model.temperature.TemperatureSchedule.end": ("2", [*DIGITS, *DYCONV]),
    "model.temperature.TemperatureSchedule.epochs": ("1", [*DIGITS, *DYCONV]),
    "model.weights": ("{run}", DIGITS),
    "model.skip_nonfinite": ("4", DIGITS),
    "checkpoint.every_steps": ("3", DIGITS),
    "checkpoint.every_minutes": ("1", DIGITS),
}


def walked() -> set[str]:
    """Every option of dynaconv, and every option of each alternative."""
    names = {name for name in option_types() if name.split(".")[0] in ("seed", "data", "model", "checkpoint")}
    names -= {"data.seed", "model.num_classes", "model.in_channels"}  # follow from other options
    names -= {"model.pretrained"}  # downloads: tests/train/test_module.py
    for name, hint in option_types().items():
        for alternative, kind in choices(hint).items():
            names |= {f"{name}.{alternative}.{field.name}" for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return names - {"model.temperature"}


def test_every_option_has_a_case() -> None:
    assert walked() == CASES.keys()


@pytest.fixture(scope="module")
def locations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Data and a run to start from."""
    root = tmp_path_factory.mktemp("options")
    folder, other = write_folder(root / "folder"), write_folder(root / "other", images=9)
    pack_folder(folder, root / "shards", shard_images=4)
    pack_folder(folder, root / "unlisted", shard_images=4)
    index = root / "unlisted" / "_info.json"
    text = index.read_text()
    assert '"classes"' in text
    index.write_text(text.replace('"classes"', '"other_key"'))
    fit(tiny_config(data__image_size=8, data__train_limit=32, trainer__max_epochs=1), out=root / "run")
    return {
        **{path.name: str(path) for path in (folder, other)},
        "classes": str(folder / "train"),
        "shards": str(root / "shards"),
        "unlisted": str(root / "unlisted"),
        "run": str(root / "run"),
    }


def observe(words: list[str]) -> dict[str, Any]:
    """What a run does: its first batches, one step, its learning rates and its plan."""
    if not any(word.startswith("--model.name") for word in words):
        words = [f"--model.name={TINY_MODEL}", *words]
    resolved = resolve(TrainConfig(), [*words, "--trainer.accelerator=cpu", "--trainer.max_epochs=4"])
    built = build(resolved)
    data, module = built.data, built.model
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.datamodule = data  # type: ignore[attr-defined]
    module.trainer = trainer
    loader = data.train_dataloader()
    batches = list(itertools.islice(loader, 2))
    module.on_train_epoch_start()
    optimizer = module.make_optimizer(module.peak_lr())
    for number, batch in enumerate(batches):
        module.training_step(batch, number).backward()
        optimizer.step()
        if module.ema is not None:
            module.ema.update(module.model, step=number)  # type: ignore[operator]
    weights = torch.cat([value.detach().flatten().float() for value in module.evaluated_model.state_dict().values()])
    module.choose_operators(torch.device("cpu"))
    schedules = [getattr(callback, "schedule", None) for callback in module.configure_callbacks()]
    return {
        "train": [images for images, _ in batches],
        "test": next(iter(data.test_dataloader()))[0],
        "lengths": (len(loader), len(data.val_split or ()), data.num_classes),
        "workers": loader.num_workers,
        "max_corrupt": data.corrupt.limit,
        "weights": weights,
        "layout": [
            value.is_contiguous(memory_format=torch.channels_last) for value in module.parameters() if value.dim() == 4
        ],
        "compiled": compiled_is_enabled(),
        "rates": [module.schedule.factor(step, 20, 5) for step in range(20)],
        "temperatures": schedules,
        "skip_nonfinite": module.hparams["skip_nonfinite"],
        "saving": built.checkpoint,
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("option", sorted(CASES))
def test_an_option_acts(locations: dict[str, str], option: str) -> None:
    value, context = CASES[option]
    group, _, rest = option.partition(".")
    parts = rest.split(".")
    if len(parts) == 3 and parts[1] != "TemperatureSchedule":
        context = [word for word in context if f"{group}.{parts[0]}=" not in word]
        context = [context[0], f"--{group}.{parts[0]}={parts[1]}", *context[1:]]
    name = ".".join([group, parts[0], *parts[2:]]) if rest else option
    before, after = (
        observe([word.format(**locations) if "{" in word and '"' not in word else word for word in words])
        for words in (context, [*context, f"--{name}={value}"])
    )
    assert any(not same(before[key], after[key]) for key in before), f"{name}={value} changes nothing"
