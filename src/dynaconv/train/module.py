"""The Lightning module: one classifier, its loss, optimiser and schedule."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from dynaconv.errors import RunError, check_range
from dynaconv.families import DynamicLayer, parameter_groups
from dynaconv.families.contract.temperature import has_temperature
from dynaconv.native import accelerate_training
from dynaconv.train.batch_scale import global_batch
from dynaconv.train.checkpoint import find_checkpoint
from dynaconv.train.data.shares import PADDING
from dynaconv.train.factory import check_model_name, create_network
from dynaconv.train.initial_weights import start_from
from dynaconv.train.options import SGD, Cosine, Mix, Optimizer, Schedule
from dynaconv.train.strategy import FullyShardedStrategy, shard_network
from dynaconv.train.sync_norm import synchronise_norms
from dynaconv.train.temperature import AnnealTemperature, TemperatureSchedule

_LARGEST = 1e6
"""Limit of rates and decays, far above every useful one. torch cannot convert products near the end of float32."""
_RANGES: dict[str, dict[str, Any]] = {
    "lr": {"low": 0, "high": _LARGEST, "open_low": True},
    "lr_reference_batch": {"low": 1, "high": 1e9},
    "weight_decay": {"low": 0, "high": _LARGEST},
    "branch_lr": {"low": 0, "high": _LARGEST},
    "branch_weight_decay": {"low": 0, "high": _LARGEST},
    "label_smoothing": {"low": 0, "high": 1, "open_high": True},
    "classifier_std": {"low": 0, "high": _LARGEST},
    "ema_decay": {"low": 0, "high": 1, "open_low": True, "open_high": True},
    "skip_nonfinite": {"low": 1},
}
"""Intervals of the numbers among the options, as arguments of `check_range`."""


def draw_classifier(model: nn.Module, std: float) -> None:
    """Draw the weights of a model's linear classifier from N(0, std^2) and set its bias to zero.

    Raises:
        RunError: The model has no linear classifier, or ``std`` is negative.
    """
    get_classifier = getattr(model, "get_classifier", None)
    classifier = get_classifier() if callable(get_classifier) else None
    weight, bias = getattr(classifier, "weight", None), getattr(classifier, "bias", None)
    if not isinstance(weight, Tensor) or std < 0:
        raise RunError(f"classifier_std={std} must be at least 0, and needs a model with one linear classifier.")
    nn.init.normal_(weight, std=std)
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)


def check_options(options: Mapping[str, Any]) -> None:
    """Check options of `ClassificationModule` without building the network.

    A run calls it before the data is loaded, drawn or downloaded, which can take minutes.

    Raises:
        RunError: A number is out of its range, two options exclude each other, or the model is unknown.
        CheckpointError: There are no weights to start from.
    """
    for name, bounds in _RANGES.items():
        if options[name] is not None:
            check_range(f"model.{name}", options[name], **bounds)
    if "pretrained" in (options["model_options"] or {}):
        raise RunError("model_options cannot hold pretrained; pass model.pretrained in place of it.")
    if options["pretrained"] and options["weights"] is not None:
        raise RunError("model.pretrained and model.weights are two starts; pass one of them.")
    check_model_name(options["name"])
    if options["weights"] is not None and not (file := Path(options["weights"]).expanduser()).is_file():
        find_checkpoint(file)


class _AverageWeights(Callback):
    """Updates the moving average of the weights.

    It is a callback because Lightning saves checkpoints before it calls the hooks of the module.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pl_module.ema.update(pl_module.model, step=trainer.global_step)  # type: ignore[operator, union-attr]


class ClassificationModule(LightningModule):
    """Trains one image classifier.

    Attributes:
        model: The network that is trained.
        ema: The moving average of the weights, or ``None``. If there is one, it is evaluated and exported.
        sync_norms: Whether batch norms compute their statistics over all processes.
    """

    def __init__(
        self,
        name: str,
        model_options: dict[str, Any] | None = None,
        classifier_std: float | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        optimizer: Optimizer = SGD(),
        schedule: Schedule = Cosine(),
        lr: float = 0.1,
        lr_reference_batch: int | None = None,
        weight_decay: float = 1e-4,
        decay_norm_and_bias: bool = False,
        branch_lr: float | None = None,
        branch_weight_decay: float | None = None,
        label_smoothing: float = 0.0,
        mix: Mix | None = None,
        ema_decay: float | None = None,
        channels_last: bool = False,
        compiled_operators: bool = True,
        temperature: TemperatureSchedule | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        skip_nonfinite: int | None = None,
    ) -> None:
        """Build the network.

        Args:
            name: Name of a timm model, including those of dynaconv: dcd_mobilenetv2_050, static_resnet18, ...
            model_options: Further arguments of the model, such as drop_rate or stem_stride.
            classifier_std: Standard deviation to draw the classifier's weights with; 0 sets them to zero. By default
                they keep the model's initialisation, which in timm's MobileNets is large for few classes.
            num_classes: Number of classes; set by the data.
            in_channels: Number of input channels; set by the data.
            optimizer: SGD or AdamW.
            schedule: Cosine, Step or Constant, after a warm-up.
            lr: Peak learning rate.
            lr_reference_batch: Images per update that the learning rates were chosen for. They are scaled to the run's
                batch_size x devices x nodes x accumulation: linearly with SGD, by the square root with AdamW. By
                default they are not scaled.
            weight_decay: Weight decay of kernels and other matrices; norms and biases have none by default.
            decay_norm_and_bias: Apply the weight decay to norms and biases too.
            branch_lr: Peak learning rate of the branches of dynamic layers; by default lr.
            branch_weight_decay: Weight decay of the branches' matrices; by default weight_decay.
            label_smoothing: Fraction of the target that is spread over all classes, in [0, 1).
            mix: Mixup, CutMix or MixupOrCutMix; by default images are not mixed.
            ema_decay: Decay of the moving average of the weights, such as 0.9998; by default off.
            channels_last: Keep images and weights in channels_last memory format.
            compiled_operators: Train dynamic layers on the CPU by compiled operators where there are some, see
                `dynaconv.native.accelerate_training`. The first run of a version compiles them, in about a minute.
            temperature: How the temperature of the attention falls, for networks that have one; by default as in the
                family's paper.
            pretrained: Download timm's weights for this model, and start from them.
            weights: A run folder, a checkpoint, or a file of ``dynaconv convert`` to load the initial weights from; the
                network is built with the model_options of that file. Or a file of a state dict (.pth, .safetensors)
                of this model.
            skip_nonfinite: Skip steps whose loss or gradients are not finite, and end the run at this many in a row. By
                default the first one ends it. The message names the layer.
        """
        super().__init__()
        # Checkpoints are read as plain values, so they do not store these objects.
        self.save_hyperparameters(ignore=["optimizer", "schedule", "mix", "temperature"])
        check_options(self.hparams)
        self.optimizer, self.schedule, self.mix = optimizer, schedule, mix
        self.structure: dict[str, Any] = {"model_options": dict(model_options or {})}
        if weights is None:
            options = {**(model_options or {}), **({"pretrained": True} if pretrained else {})}
            self.model = create_network(name, num_classes=num_classes, in_channels=in_channels, options=options)
        else:
            self.model, self.structure = start_from(
                weights, name=name, num_classes=num_classes, in_channels=in_channels, options=model_options
            )
        if classifier_std is not None:
            draw_classifier(self.model, classifier_std)
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        # Raises for invalid options of the optimiser before anything is written.
        self.make_optimizer(lr)
        self._annealing = self._make_annealing(name, temperature)
        self.ema: nn.Module | None = None
        if ema_decay is not None:
            from timm.utils.model_ema import ModelEmaV3

            self.ema = ModelEmaV3(self.model, decay=ema_decay, use_warmup=True).requires_grad_(False)
        self.metadata: dict[str, Any] = {}
        self.sync_norms = False
        self._configured = False
        self._mixer = self._make_mixer()
        top5 = min(5, num_classes)
        self.train_loss, self.val_loss = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")
        self.train_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_acc5 = MulticlassAccuracy(num_classes, top_k=top5, average="micro", validate_args=False)

    def make_optimizer(self, lr: float) -> torch.optim.Optimizer:
        """Return the optimiser of the network.

        Args:
            lr: Peak learning rate, in place of ``hparams["lr"]``; ``branch_lr`` is scaled with it.

        Raises:
            RunError: A rate or a weight decay is out of range, or one for branches is set and the network has no
                branch.
        """
        options = self.hparams
        branch_lr = options["branch_lr"]
        try:
            groups = parameter_groups(
                self.model,
                lr,
                options["weight_decay"],
                branch_lr=None if branch_lr is None else branch_lr * lr / options["lr"],
                branch_weight_decay=options["branch_weight_decay"],
                decay_norm_and_bias=options["decay_norm_and_bias"],
            )
        except ValueError as error:
            raise RunError(str(error)) from error
        return self.optimizer.make(groups, lr)

    def _make_annealing(self, name: str, temperature: TemperatureSchedule | None) -> list[Callback]:
        if any(has_temperature(module) for module in self.model.modules()):
            schedule = temperature or TemperatureSchedule()
            schedule.check(self.model)
            return [AnnealTemperature(schedule)]
        if temperature is not None:
            raise RunError(f"{name} has no temperature; leave out model.temperature.")
        return []

    def configure_callbacks(self) -> Sequence[Callback]:
        """Return the callbacks that anneal the temperature and average the weights, if the run needs them."""
        return [*self._annealing, *([_AverageWeights()] if self.ema is not None else [])]

    def _make_mixer(self) -> Any:
        if self.mix is None:
            return None
        from timm.data.mixup import Mixup

        return Mixup(  # type: ignore[no-untyped-call]
            **self.mix.timm_options,
            prob=self.mix.prob,
            label_smoothing=self.hparams["label_smoothing"],
            num_classes=self.hparams["num_classes"],
        )

    @property
    def evaluated_model(self) -> nn.Module:
        """The network that is evaluated: the moving average of the weights if there is one."""
        if self.ema is not None:
            averaged = self.ema.module
            assert isinstance(averaged, nn.Module)
            return averaged
        return self.model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)`` of images ``(B, C, H, W)``."""
        logits: Tensor = self.evaluated_model(self._to_memory_format(images))
        return logits

    def _to_memory_format(self, images: Tensor) -> Tensor:
        if self.hparams["channels_last"]:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def on_train_start(self) -> None:
        # Lightning does not call on_train_epoch_start for a run that is resumed inside an epoch.
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        if self.mix is not None:
            strength = min(1.0, (self.current_epoch + 1) / max(self.mix.ramp_epochs, 1))
            self._mixer.mixup_alpha = self.mix.timm_options["mixup_alpha"] * strength
            self._mixer.cutmix_alpha = self.mix.timm_options["cutmix_alpha"] * strength

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, targets = batch
        if self.mix is not None:
            images, soft_targets = self._mix_batch(images, targets)
            logits = self.model(self._to_memory_format(images))
            loss = F.cross_entropy(logits, soft_targets)
        else:
            logits = self.model(self._to_memory_format(images))
            loss = F.cross_entropy(logits, targets, label_smoothing=self.hparams["label_smoothing"])
        if self.hparams["skip_nonfinite"] is None or bool(loss.isfinite()):
            self.train_loss.update(loss.detach())
            self.train_acc.update(logits.detach(), targets)
        return loss

    def _mix_batch(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix every image with another one of the batch, by timm's `Mixup`.

        timm mixes a batch with its reverse. In an odd batch the middle image would be mixed with itself, so there each
        image is mixed with the one before it: timm gets the images followed by their partners in reverse order.
        """
        batch = len(images)
        if batch % 2:
            images, targets = (torch.cat([each, each.roll(1, 0).flip(0)]) for each in (images, targets))
        mixed, soft_targets = self._mixer(images, targets)
        return mixed[:batch], soft_targets[:batch]

    def on_train_epoch_end(self) -> None:
        self.log("train_loss", self.train_loss)
        self.log("train_acc", self.train_acc)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, targets = batch
        logits = self(images)
        # Drop the padding, which fills the batches of a process that has fewer images.
        real = targets != PADDING
        logits, targets = logits[real], targets[real]
        self.val_loss.update(F.cross_entropy(logits, targets, reduction="sum") / max(len(targets), 1), len(targets))
        self.val_acc.update(logits, targets)
        self.val_acc5.update(logits, targets)
        self.log("val_loss", self.val_loss)
        self.log("val_acc", self.val_acc)
        self.log("val_acc5", self.val_acc5)

    def configure_model(self) -> None:
        """Synchronise the batch norms and shard the network, if asked for. Lightning calls this before the training."""
        if self._configured:
            return
        self._configured = True
        self.choose_operators(self.trainer.strategy.root_device)
        networks = [self.model] if self.ema is None else [self.model, self.evaluated_model]
        for network in networks:
            if self.sync_norms and self.trainer.world_size > 1:
                synchronise_norms(network, self.trainer.strategy.root_device)
            if isinstance(self.trainer.strategy, FullyShardedStrategy):
                shard_network(network, self.trainer.strategy.device_mesh["data_parallel"])
                if self.ema is not None:
                    # torch's foreach operations do not accept sharded parameters together with unsharded buffers.
                    self.ema.foreach = False  # type: ignore[assignment]

    def peak_lr(self) -> float:
        """Return the learning rate after warm-up, scaled to the global batch if ``lr_reference_batch`` is set."""
        options = self.hparams
        if options["lr_reference_batch"] is None:
            return float(options["lr"])
        images = global_batch(self.trainer).images
        return float(options["lr"] * self.optimizer.lr_scale(images / options["lr_reference_batch"]))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.peak_lr())
        steps = self.trainer.estimated_stepping_batches
        # Lightning returns -1 for a stream of unknown length.
        if not math.isfinite(steps) or steps < 1:
            raise RunError(
                "the length of the data set is unknown; pass the steps per epoch as trainer.limit_train_batches."
            )
        total = int(steps)
        steps_per_epoch = self._steps_per_epoch(total)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.schedule.factor(step, total, steps_per_epoch)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _steps_per_epoch(self, total: int) -> float:
        # Lightning has set up the data already, unless the length of the run is given in steps.
        self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches
        if math.isfinite(batches):
            return max(math.ceil(batches / self.trainer.accumulate_grad_batches), 1)
        return max(total / max(self.trainer.max_epochs or 1, 1), 1)

    def choose_operators(self, device: torch.device) -> None:
        """Switch the compiled operators for training on or off, as the options and the network ask for."""
        dynamic = any(isinstance(module, DynamicLayer) for module in self.model.modules())
        accelerate_training(self.hparams["compiled_operators"] and dynamic and device.type == "cpu")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["dynaconv"] = self.metadata
