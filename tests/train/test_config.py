"""Recipes and configurations."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from dynaconv.errors import RunError
from dynaconv.train import RECIPES
from dynaconv.train.config import TrainConfig, load_recipe, resolve, to_yaml
from tests.messages import refuses


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_shipped_recipe_resolves(name: str) -> None:
    resolved = resolve(load_recipe(name))
    assert resolved.trainer.max_epochs > 0
    assert load_recipe(name).to_dict() == yaml.safe_load(yaml.safe_dump(load_recipe(name).to_dict()))


def test_the_papers_recipes_have_the_papers_figures() -> None:
    mobile, residual = (resolve(load_recipe(f"imagenet-{name}")) for name in ("mobilenetv2", "resnet"))
    wanted = {"lr": 0.1, "weight_decay": 2e-5, "label_smoothing": 0.1}
    assert {key: mobile.model[key] for key in wanted} == wanted
    assert mobile.model.schedule.class_path.endswith(".Cosine")
    assert mobile.model.mix.init_args.alpha == 0.2
    assert (mobile.model.mix.init_args.ramp_epochs, mobile.trainer.max_epochs, mobile.data.batch_size) == (
        100,
        300,
        512,
    )
    assert mobile.model.model_options["drop_rate"] == 0.2
    wanted = {"lr": 0.1, "weight_decay": 1e-4, "label_smoothing": 0.1}
    assert {key: residual.model[key] for key in wanted} == wanted
    step = residual.model.schedule
    assert (step.class_path.rpartition(".")[2], step.init_args.step_epochs, step.init_args.gamma) == ("Step", 30, 0.1)
    assert residual.model.mix.init_args.alpha == 0.2
    assert (residual.trainer.max_epochs, residual.data.batch_size) == (120, 256)
    assert residual.model.model_options["drop_rate"] == 0.1


def test_what_is_written_resolves_to_the_same(tmp_path: Path) -> None:
    resolved = resolve(
        load_recipe("digits"),
        ["--trainer.max_epochs=3", "--model.optimizer", "AdamW", "--model.optimizer.betas=[0.8,0.9]"],
    )
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(resolved))
    assert resolve(load_recipe(path)).as_dict() == resolved.as_dict()


def test_flags_win_over_the_recipe() -> None:
    resolved = resolve(load_recipe("digits"), ["--model.lr=0.3", "--seed=7", "--model.model_options.stem_stride=2"])
    assert (resolved.model.lr, resolved.seed, resolved.data.seed) == (0.3, 7, 7)
    assert resolved.model.model_options["stem_stride"] == 2


@pytest.mark.parametrize(
    "override",
    [
        "--model.lrr=1",
        "--trainer.max_epoch=1",
        "--model.optimizer=Adam",
        "--model.optimizer.betas=[0.8,0.9]",
        "--model.mix.alpha=0.3",
        "--model.schedule.warmup_epochs=-1",
        "--data.augment=Large",
        "--data.augment.erase_prob=null",
        "--model.optimizer.momentum=null",
        "--trainer.max_epochs=many",
        "--model.lr=nan",
        "--model.lr=null",
        "--model.lr=[0.1]",
        "--model.mix=",
        "--model.mix=SGD",
        "--model.mix=0.2",
        "--model.mix=true",
    ],
)
def test_a_flag_that_does_not_fit_is_one_sentence(override: str) -> None:
    with refuses(RunError):
        resolve(load_recipe("digits"), [override])


@pytest.mark.parametrize(
    "overrides",
    [
        ["--model.mix=MixupOrCutMix", "--model.mix.alpha={}"],
        ["--model.mix=Mixup", "--model.mix.alpha=0.1", "--model.mix=MixupOrCutMix"],
        ["--model.mix=Mixup", "--model.mix.alpha=nan"],
        ["--model.mix=Mixup", "--model.mix.alpha=.nan"],
        ["--model.mix=Mixup", "--model.mix.alpha=1e-320"],
        ["--model.mix=Mixup", f"--model.mix.ramp_epochs=1{'0' * 400}"],
    ],
    ids=["left over", "of another", "no number", "not finite", "underflows", "too many"],
)
def test_an_option_of_an_alternative_acts_or_is_one_sentence(overrides: list[str]) -> None:
    with refuses(RunError):
        resolve(load_recipe("digits"), overrides)


@pytest.mark.parametrize("lr", [np.float32(0.5), np.float64(0.5)])
def test_a_number_of_numpy_is_a_number(lr: float) -> None:
    resolved = resolve(load_recipe("digits").with_changes(model__lr=lr, seed=np.int64(3)))
    assert (resolved.model.lr, resolved.seed) == (0.5, 3)


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        ('{"class_path": "lightning.pytorch.callbacks.EarlyStoping"}', "no attribute 'EarlyStoping'"),
        ('{"class_path": "EarlyStopping", "init_args": {"monitr": "val_loss"}}', "Option 'monitr'"),
    ],
)
def test_a_callback_that_cannot_be_made_is_named_with_the_reason(callback: str, words: str) -> None:
    with pytest.raises(RunError, match=f"^trainer.callbacks does not take .*{words}"):  # the reason is jsonargparse's
        resolve(load_recipe("digits"), [f"--trainer.callbacks=[{callback}]"])


def test_an_object_is_no_option() -> None:
    with refuses(TypeError, "an option"):
        resolve(load_recipe("digits").with_changes(model__lr=object()))


@pytest.mark.parametrize(
    "text",
    [
        "data: {nmae: digits}\nmodel: {name: x}",
        "optimiser: SGD",
        "- a\n- b",
        "data: [",
        "data: 3",
        "seed: many",
        "data: {name: 2026-11-30}",
    ],
    ids=["unknown option", "unknown key", "a list", "no YAML", "a number for keys", "a word for a number", "a date"],
)
def test_a_recipe_that_does_not_fit_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with refuses(RunError):
        resolve(load_recipe(path))


def test_a_path_is_a_location(tmp_path: Path) -> None:
    data = {"name": "folder", "data_dir": tmp_path}
    assert resolve(TrainConfig(data=data, model={"name": "test_resnet"})).data.data_dir == str(tmp_path)


def test_what_is_missing_is_named_with_its_flag() -> None:
    with refuses(RunError, "model.name"):
        resolve(TrainConfig(), ["--data.name=digits"])


def test_a_recipe_in_another_encoding_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes("# Größe\nseed: 0\n".encode("latin-1"))
    with refuses(RunError):
        load_recipe(path)


def test_an_unknown_recipe_lists_the_nearest(tmp_path: Path) -> None:
    with refuses(RunError, "fashion"):
        load_recipe("fashion")
    with refuses(RunError):
        load_recipe(tmp_path / "none.yaml")


def test_changes_leave_the_original_alone() -> None:
    config = TrainConfig(model={"lr": 1.0})
    assert config.with_changes(model__lr=2.0, seed=4).to_dict()["model"] == {"lr": 2.0}
    assert config.model == {"lr": 1.0}
