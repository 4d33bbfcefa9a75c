"""The Lightning module: weight decay groups, schedules, mixing, moving average."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.cli import main
from dynaconv.errors import RunError
from dynaconv.train.module import ClassificationModule
from dynaconv.train.options import SGD, AdamW, Constant, Cosine, CutMix, Mix, Mixup, MixupOrCutMix, Step
from tests.messages import refuses, spelled
from tests.train.helpers import TINY_MODEL


def module(**options: Any) -> ClassificationModule:
    return ClassificationModule(TINY_MODEL, num_classes=10, in_channels=1, **options)


def test_branches_have_rate_and_decay_of_their_own() -> None:
    options = {"lr": 0.4, "lr_reference_batch": 64, "branch_lr": 0.1, "branch_weight_decay": 0.0}
    trained = ClassificationModule("dcd_mobilenetv2_035", num_classes=10, in_channels=1, **options)
    optimizer = trained.make_optimizer(0.8)
    groups = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert groups == {"decayed": (0.8, 1e-4), "not_decayed": (0.8, 0.0), "branch_decayed": (pytest.approx(0.2), 0.0)}


@pytest.mark.parametrize(
    "options", [{"branch_lr": 0.1}, {"branch_weight_decay": 0.0}, {"weight_decay": -1.0}], ids=spelled
)
def test_rates_and_decays_that_cannot_act_are_refused(options: dict[str, float]) -> None:
    with refuses(RunError, next(iter(options))):
        ClassificationModule("static_mobilenetv2_035", num_classes=10, in_channels=1, **options)


def test_cosine_warms_up_and_ends_at_the_floor() -> None:
    schedule = Cosine(warmup_epochs=2, end_factor=0.1)
    factors = [schedule.factor(step, total=100, steps_per_epoch=10) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 21)
    assert factors[20] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[100] == pytest.approx(0.1)
    assert all(a < b for a, b in itertools.pairwise(factors[:21]))
    assert all(a > b for a, b in itertools.pairwise(factors[20:]))


@pytest.mark.parametrize(("epochs", "first"), [(0.0, 1.0), (0.1, 0.5), (0.6, 0.5), (2.0, 1 / 3)])
def test_a_warm_up_of_part_of_a_step_takes_one(epochs: float, first: float) -> None:
    assert Constant(warmup_epochs=epochs).factor(0, total=9, steps_per_epoch=1) == pytest.approx(first)


def test_step_schedule_counts_epochs() -> None:
    schedule = Step(step_epochs=3, gamma=0.1)
    factors = [schedule.factor(step, total=90, steps_per_epoch=10) for step in (0, 29, 30, 59, 60)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_mixing_grows_over_its_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = module(mix=MixupOrCutMix(mixup_alpha=0.2, cutmix_alpha=1.0, ramp_epochs=4))
    for epoch, share in ((0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)):
        monkeypatch.setattr(ClassificationModule, "current_epoch", epoch)
        trained.on_train_epoch_start()
        assert trained._mixer.mixup_alpha == pytest.approx(0.2 * share)
        assert trained._mixer.cutmix_alpha == pytest.approx(1.0 * share)


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("mix", [Mixup(alpha=1.0), CutMix(alpha=1.0)], ids=spelled)
def test_every_image_of_a_batch_is_mixed_with_another_one(
    monkeypatch: pytest.MonkeyPatch, mix: Mix, batch: int
) -> None:
    trained = module(label_smoothing=0.1, mix=mix)
    seen: list[Tensor] = []
    monkeypatch.setattr(trained.model, "forward", lambda images: seen.append(images) or torch.zeros(len(images), 10))
    # Each pixel of an image is its class.
    images = torch.arange(float(batch))[:, None, None, None].expand(batch, 1, 16, 16)
    targets: list[Tensor] = []
    monkeypatch.setattr(F, "cross_entropy", lambda _, soft: targets.append(soft) or torch.tensor(0.0))
    np.random.seed(5)
    trained.training_step((images.clone(), torch.arange(batch)), 0)
    assert seen[0].shape == images.shape
    # With the weights of its target an image's mean is a mean of the classes in it.
    shares = (targets[0] - 0.01) / 0.9
    torch.testing.assert_close(shares.sum(1), torch.ones(batch))
    torch.testing.assert_close(shares @ torch.arange(10.0), seen[0].mean((1, 2, 3)), atol=1e-4, rtol=0)
    parts = (shares > 1e-3).sum(1)
    assert parts.tolist() == [min(batch, 2)] * batch
    own = shares[torch.arange(batch), torch.arange(batch)]
    assert (own > 0.01).all()


def test_an_even_batch_is_mixed_as_timm_mixes_it() -> None:
    trained = module(mix=MixupOrCutMix(mixup_alpha=0.5, cutmix_alpha=0.5))
    images, targets = torch.randn(6, 1, 8, 8), torch.arange(6)
    for seed in range(4):
        np.random.seed(seed)
        want = trained._mixer(images.clone(), targets)
        np.random.seed(seed)
        got = trained._mix_batch(images.clone(), targets)
        assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


def test_the_moving_average_is_what_is_evaluated() -> None:
    trained = module(ema_decay=0.9)
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.zero_()
    assert trained.evaluated_model is not trained.model
    assert float(trained.eval()(torch.randn(1, 1, 32, 32)).abs().sum()) > 0
    assert all("ema" not in name for name, p in trained.named_parameters() if p.requires_grad)


def test_channels_last_gives_the_same_logits() -> None:
    plain = module()
    arranged = module(channels_last=True)
    arranged.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(plain.eval()(x), arranged.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("std", [0.0, 0.01])
def test_the_classifier_can_start_small(std: float) -> None:
    trained = module(classifier_std=std)
    classifier = trained.model.get_classifier().requires_grad_(False)
    assert float(classifier.weight.std()) == pytest.approx(std, rel=0.1)
    assert float(classifier.bias.abs().sum()) == 0
    loss = trained.training_step((torch.randn(8, 1, 32, 32), torch.arange(8)), 0)
    assert float(loss.detach()) == pytest.approx(math.log(10), abs=0.2)


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 1.0},
        {"lr": 0.0},
        {"ema_decay": 1.5},
        {"classifier_std": -1.0},
        {"lr": 1e308},
        {"lr": math.inf},
        {"weight_decay": math.nan},
        {"branch_lr": 1e7},
        {"skip_nonfinite": 0},
        {"model_options": {"num_classes": 3}},
        {"model_options": {"no_such_option": 3}},
    ],
    ids=spelled,
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any]) -> None:
    with refuses(RunError):
        module(**options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(momentum=1.0),
        lambda: SGD(momentum=0.0),
        lambda: AdamW(betas=(0.9, 1.0)),
        lambda: Cosine(warmup_epochs=-1),
        lambda: Cosine(end_factor=1.0),
        lambda: Step(step_epochs=0),
        lambda: Step(gamma=1.5),
        lambda: Mixup(alpha=0),
        lambda: Mixup(prob=1.5),
        lambda: CutMix(alpha=5),
        lambda: MixupOrCutMix(switch_prob=1.0),
        lambda: Mixup(ramp_epochs=-1),
        lambda: Constant(warmup_epochs=math.nan),
    ],
)
def test_a_choice_refuses_values_out_of_range(make: Callable[[], object]) -> None:
    with refuses(RunError):
        make()


def test_an_unknown_model_lists_the_nearest() -> None:
    with refuses(RunError, "dcd_mobilenet_050"):
        ClassificationModule("dcd_mobilenet_050")


@pytest.mark.parametrize("name", ["resnet18.nosuch", "dcd_resnet10.a1_in1k"])
def test_an_unknown_tag_of_weights_is_refused_by_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with refuses(RunError, repr(name.partition(".")[2])) as caught:
        ClassificationModule(name)
    for command in (["profile", name], ["convert", name], ["export", name, "--format", "onnx"]):
        assert main(command) == 2
        assert str(caught.value) in capsys.readouterr().err


def test_pretrained_weights_are_asked_of_timm_and_not_kept_as_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def without_download(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
        asked.append(pretrained)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", without_download)
    module = ClassificationModule("test_resnet", pretrained=True)
    ClassificationModule("test_resnet")
    assert asked == [True, False]
    assert module.structure == {"model_options": {}}


@pytest.mark.parametrize(
    "options", [{"weights": "x.pth"}, {"model_options": {"pretrained": True}}, {}], ids=["weights", "option", "own"]
)
def test_pretrained_weights_that_cannot_be(options: dict[str, Any]) -> None:
    with refuses(RunError):
        ClassificationModule("dcd_resnet10", pretrained=True, **options)
