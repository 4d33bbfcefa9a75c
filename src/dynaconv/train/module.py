"""The Lightning module: one classifier, its loss, optimiser and schedule."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from dynaconv.errors import RunError
from dynaconv.families import parameter_groups
from dynaconv.families.contract.temperature import has_temperature
from dynaconv.train.batch_scale import global_batch, lr_scale
from dynaconv.train.data.shares import PADDING
from dynaconv.train.factory import create_network
from dynaconv.train.initial_weights import start_from
from dynaconv.train.strategy import FullyShardedStrategy, shard_network
from dynaconv.train.sync_norm import synchronise_norms
from dynaconv.train.temperature import AnnealTemperature


def make_optimizer(model: nn.Module, options: Mapping[str, Any], lr: float) -> torch.optim.Optimizer:
    """Build the optimiser of a network.

    Args:
        model: The network.
        options: Arguments of `ClassificationModule`; ``branch_lr`` is scaled by ``lr / options["lr"]``.
        lr: Learning rate, in place of ``options["lr"]``.

    Raises:
        RunError: A rate or a weight decay is out of range, or one for branches is set and the network has no branch.
    """
    branch_lr = options["branch_lr"]
    try:
        groups = parameter_groups(
            model,
            lr,
            options["weight_decay"],
            branch_lr=None if branch_lr is None else branch_lr * lr / options["lr"],
            branch_weight_decay=options["branch_weight_decay"],
            decay_norm_and_bias=options["decay_norm_and_bias"],
        )
    except ValueError as error:
        raise RunError(str(error)) from error
    if options["optimizer"] == "sgd":
        momentum = options["momentum"]
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=options["nesterov"] and momentum > 0)
    return torch.optim.AdamW(groups, lr=lr, betas=tuple(options["betas"]))


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
        optimizer: Literal["sgd", "adamw"] = "sgd",
        lr: float = 0.1,
        lr_reference_batch: int | None = None,
        weight_decay: float = 1e-4,
        decay_norm_and_bias: bool = False,
        branch_lr: float | None = None,
        branch_weight_decay: float | None = None,
        momentum: float = 0.9,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        schedule: Literal["cosine", "step", "constant"] = "cosine",
        warmup_epochs: float = 0.0,
        min_lr: float = 0.0,
        step_epochs: float = 30.0,
        step_gamma: float = 0.1,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mixup_prob: float = 1.0,
        mixup_switch_prob: float = 0.5,
        mixup_ramp_epochs: int = 0,
        ema_decay: float | None = None,
        channels_last: bool = False,
        temperature: tuple[float, float] | None = None,
        temperature_epochs: float | None = None,
        weights: str | None = None,
        nonfinite: Literal["stop", "skip"] = "stop",
        nonfinite_limit: int = 10,
    ) -> None:
        """Build the network.

        Args:
            name: Name of a timm model, including those of dynaconv: dcd_mobilenetv2_050, static_resnet18, ...
            model_options: Further arguments of the model, such as drop_rate or stem_stride.
            classifier_std: Standard deviation to draw the classifier's weights with; 0 sets them to zero. By default
                they keep the model's initialisation, which in timm's MobileNets is large for few classes.
            num_classes: Number of classes; set by the data.
            in_channels: Number of input channels; set by the data.
            optimizer: "sgd" or "adamw".
            lr: Peak learning rate.
            lr_reference_batch: Images per update that the learning rates were chosen for. They are scaled to the run's
                batch_size x devices x nodes x accumulation: linearly with "sgd", by the square root with "adamw". By
                default they are not scaled.
            weight_decay: Weight decay of kernels and other matrices; norms and biases have none by default.
            decay_norm_and_bias: Apply the weight decay to norms and biases too.
            branch_lr: Peak learning rate of the branches of dynamic layers; by default lr.
            branch_weight_decay: Weight decay of the branches' matrices; by default weight_decay.
            momentum: Momentum of SGD.
            nesterov: Use Nesterov momentum in SGD.
            betas: Betas of AdamW.
            schedule: "cosine" decays to min_lr, "step" multiplies by step_gamma every step_epochs, "constant" keeps lr.
                The rate is set at every step.
            warmup_epochs: Epochs of linear warm-up from zero; they are part of the run's epochs.
            min_lr: Final learning rate of the cosine schedule.
            step_epochs: Epochs between two steps of the step schedule.
            step_gamma: Factor on the learning rate at each step of the step schedule.
            label_smoothing: Fraction of the target that is spread over all classes, in [0, 1).
            mixup: Alpha of mixup's beta distribution; 0 turns it off.
            cutmix: Alpha of cutmix's beta distribution; 0 turns it off.
            mixup_prob: Probability that a batch is mixed.
            mixup_switch_prob: Probability that a mixed batch gets cutmix if both are on.
            mixup_ramp_epochs: Epochs over which both alphas grow linearly to their values.
            ema_decay: Decay of the moving average of the weights, such as 0.9998; by default off.
            channels_last: Keep images and weights in channels_last memory format.
            temperature: Start and end temperature of the attention over kernels; by default 30 and 1 if the network
                has a temperature.
            temperature_epochs: Epochs over which the temperature falls; by default ten, or a third of a run that is
                shorter than thirty epochs.
            weights: A run folder, a checkpoint, or a file of ``dynaconv convert`` to load the initial weights from.
                The network is built with the model_options of that file.
            nonfinite: If a loss or gradient is not finite, "stop" ends the run and names the layer, "skip" skips the
                step.
            nonfinite_limit: Number of consecutive non-finite steps that ends the run in the mode "skip".
        """
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise RunError(f"label_smoothing must be in [0, 1); got {label_smoothing}.")
        if lr <= 0:
            raise RunError(f"lr must be positive; got {lr}.")
        if lr_reference_batch is not None and lr_reference_batch < 1:
            raise RunError(f"lr_reference_batch must be at least 1 image; got {lr_reference_batch}.")
        if nonfinite_limit < 1:
            raise RunError(f"nonfinite_limit must be at least 1 step; got {nonfinite_limit}.")
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise RunError(f"ema_decay must be in (0, 1); got {ema_decay}.")
        self.save_hyperparameters()
        self.structure: dict[str, Any] = {"model_options": dict(model_options or {})}
        if weights is None:
            self.model = create_network(name, num_classes=num_classes, in_channels=in_channels, options=model_options)
        else:
            self.model, self.structure = start_from(
                weights, name=name, num_classes=num_classes, in_channels=in_channels, options=model_options
            )
        if classifier_std is not None:
            draw_classifier(self.model, classifier_std)
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        # Raises for invalid options of the optimiser before anything is written.
        make_optimizer(self.model, self.hparams, lr)
        self._annealing = self._make_annealing(name)
        self.ema: nn.Module | None = None
        if ema_decay is not None:
            from timm.utils.model_ema import ModelEmaV3

            self.ema = ModelEmaV3(self.model, decay=ema_decay, use_warmup=True).requires_grad_(False)
        self.metadata: dict[str, Any] = {}
        self.sync_norms = False
        self._configured = False
        self.mix = self._make_mix()
        top5 = min(5, num_classes)
        self.train_loss, self.val_loss = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")
        self.train_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_acc5 = MulticlassAccuracy(num_classes, top_k=top5, average="micro", validate_args=False)

    def _make_annealing(self, name: str) -> list[Callback]:
        start_and_end, epochs = self.hparams["temperature"], self.hparams["temperature_epochs"]
        if not any(has_temperature(module) for module in self.model.modules()):
            if start_and_end is not None or epochs is not None:
                raise RunError(f"{name} has no temperature; leave out model.temperature and model.temperature_epochs.")
            return []
        start, end = start_and_end or (30.0, 1.0)
        return [AnnealTemperature(start, end, epochs)]

    def configure_callbacks(self) -> Sequence[Callback]:
        """Return the callbacks that anneal the temperature and average the weights, if the run needs them."""
        return [*self._annealing, *([_AverageWeights()] if self.ema is not None else [])]

    def _make_mix(self) -> Any:
        options = self.hparams
        if options["mixup"] < 0 or options["cutmix"] < 0:
            raise RunError(f"mixup and cutmix must be at least 0; got {options['mixup']} and {options['cutmix']}.")
        for name in ("mixup_prob", "mixup_switch_prob"):
            if not 0 <= options[name] <= 1:
                raise RunError(f"{name} must be a probability in [0, 1]; got {options[name]}.")
        if not (options["mixup"] or options["cutmix"]):
            return None
        from timm.data.mixup import Mixup

        return Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=options["mixup"],
            cutmix_alpha=options["cutmix"],
            prob=options["mixup_prob"],
            switch_prob=options["mixup_switch_prob"],
            label_smoothing=options["label_smoothing"],
            num_classes=options["num_classes"],
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
            ramp = self.hparams["mixup_ramp_epochs"]
            strength = min(1.0, (self.current_epoch + 1) / ramp) if ramp else 1.0
            self.mix.mixup_alpha = self.hparams["mixup"] * strength
            self.mix.cutmix_alpha = self.hparams["cutmix"] * strength

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, targets = batch
        if self.mix is not None:
            images, soft_targets = self._mix_batch(images, targets)
            logits = self.model(self._to_memory_format(images))
            loss = F.cross_entropy(logits, soft_targets)
        else:
            logits = self.model(self._to_memory_format(images))
            loss = F.cross_entropy(logits, targets, label_smoothing=self.hparams["label_smoothing"])
        if self.hparams["nonfinite"] == "stop" or bool(loss.isfinite()):
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
        mixed, soft_targets = self.mix(images, targets)
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
        return float(options["lr"] * lr_scale(images, options["lr_reference_batch"], options["optimizer"]))

    def configure_optimizers(self) -> Any:
        options = self.hparams
        lr = self.peak_lr()
        optimizer = make_optimizer(self.model, options, lr)
        steps = self.trainer.estimated_stepping_batches
        # Lightning returns -1 for a stream of unknown length.
        if not math.isfinite(steps) or steps < 1:
            raise RunError(
                "the length of the data set is unknown; pass the steps per epoch as trainer.limit_train_batches."
            )
        total = int(steps)
        steps_per_epoch = self._steps_per_epoch(total)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self._lr_factor(step, total, steps_per_epoch)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _steps_per_epoch(self, total: int) -> float:
        # Lightning has set up the data already, unless the length of the run is given in steps.
        self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches
        if math.isfinite(batches):
            return max(math.ceil(batches / self.trainer.accumulate_grad_batches), 1)
        return max(total / max(self.trainer.max_epochs or 1, 1), 1)

    def _lr_factor(self, step: int, total: int, steps_per_epoch: float) -> float:
        """Return the learning rate after ``step`` updates as a fraction of the peak."""
        options = self.hparams
        # A warm-up that is shorter than half a step takes one step, not zero.
        warmup = max(round(options["warmup_epochs"] * steps_per_epoch), 1) if options["warmup_epochs"] > 0 else 0
        if step < warmup:
            return float((step + 1) / (warmup + 1))
        if options["schedule"] == "cosine":
            progress = min((step - warmup) / max(total - warmup, 1), 1.0)
            floor = options["min_lr"] / options["lr"]
            return float(floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
        if options["schedule"] == "step":
            return float(options["step_gamma"] ** math.floor(step / steps_per_epoch / options["step_epochs"]))
        return 1.0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["dynaconv"] = self.metadata
