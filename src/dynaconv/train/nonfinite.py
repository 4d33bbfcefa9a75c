"""Handles losses and gradients that are not finite: stops the run and names the layer, or skips the step."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils.hooks import RemovableHandle

from dynaconv.conversion.example import temporary_hooks
from dynaconv.errors import TrainingDivergedError, abbreviated
from dynaconv.train.saving import SaveRun

# Reading a value synchronises with the device. Off the CPU, a run that skips no step checks one of this many batches.
_CHECK_EVERY = 50
_ADVICE = "lower the learning rate, lengthen the warm-up or clip gradients"


class GuardFinite(Callback):
    """Checks the loss and the gradients before each update of the weights.

    Args:
        limit: Skip an update with a non-finite value, restore the buffers, such as the statistics of the norms, and
            end the run at this many in a row. With None, the first one ends it. The message names the layer with the
            first non-finite value.

    Attributes:
        skipped: Number of steps skipped so far.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.skipped = 0
        self._in_a_row = 0
        self._loss: Tensor | None = None
        self._step: tuple[Tensor, Tensor, Tensor | None] | None = None
        self._buffers: list[Tensor] = []
        self._hook: RemovableHandle | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hook = network(pl_module).register_forward_pre_hook(self._record_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._step, self._loss, self._buffers = None, None, None, []

    def _record_step(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if module.training and self._step is None:
            images = arguments[0]
            on_gpu = images.device.type == "cuda"
            # The states repeat the dropout if the step has to be run again.
            states = torch.get_rng_state(), torch.cuda.get_rng_state(images.device) if on_gpu else None
            self._step = (images.detach(), *states)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step = None
        if self.limit is not None and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = [buffer.clone() for buffer in network(pl_module).buffers()]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        sampled = self.limit is None and pl_module.device.type != "cpu"
        if sampled and trainer.fit_loop.epoch_loop.batch_idx % _CHECK_EVERY:
            return
        # A gradient scaler tries scales that overflow, and skips those steps itself.
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        assert self._loss is not None
        finite = math.isfinite(self._loss) and (scaled or _finite_gradients(network(pl_module)))
        if self.limit is not None and trainer.world_size > 1:
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if finite:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self.limit is None or self._in_a_row >= self.limit:
            raise self._error(trainer, network(pl_module))
        self.skipped += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        with torch.no_grad():
            for buffer, before in zip(network(pl_module).buffers(), self._buffers, strict=True):
                buffer.copy_(before)

    def _error(self, trainer: Trainer, model: nn.Module) -> TrainingDivergedError:
        assert self._loss is not None
        loss = float(self._loss) * trainer.accumulate_grad_batches
        problem = "the gradients became non-finite" if math.isfinite(loss) else f"the training loss became {loss}"
        where = f"in epoch {trainer.current_epoch + 1}, batch {trainer.fit_loop.epoch_loop.batch_idx + 1}"
        row = f", after {self._in_a_row} consecutive such steps" if self._in_a_row > 1 else ""
        return TrainingDivergedError(
            f"{problem} {where}{row}: {self._locate(model)}; {_ADVICE}. {_last_saved(trainer)}"
        )

    def _locate(self, model: nn.Module) -> str:
        assert self._step is not None
        images, generator, device_generator = self._step
        torch.set_rng_state(generator)
        if device_generator is not None:
            torch.cuda.set_rng_state(device_generator, images.device)
        return first_not_finite(model, images)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = {"training": float(pl_module.train_loss.compute())}  # type: ignore[operator, union-attr]
        if "val_loss" in trainer.callback_metrics:
            losses["validation"] = float(trainer.callback_metrics["val_loss"])
        for phase, loss in losses.items():
            if not math.isfinite(loss):
                raise TrainingDivergedError(
                    f"the {phase} loss became {loss} in epoch {trainer.current_epoch + 1}; {_ADVICE}. "
                    f"{_last_saved(trainer)}"
                )


def network(pl_module: LightningModule) -> nn.Module:
    """Return the network that a module trains."""
    model = pl_module.model
    assert isinstance(model, nn.Module)
    return model


def _last_saved(trainer: Trainer) -> str:
    last = next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, SaveRun)), None)
    return last.last_saved if last is not None else ""


def _finite_gradients(model: nn.Module) -> bool:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    # The norm of finite gradients may overflow; then each gradient is checked.
    return math.isfinite(get_total_norm(gradients)) or all(bool(g.isfinite().all()) for g in gradients)


def first_not_finite(model: nn.Module, images: Tensor) -> str:
    """Find the first non-finite value of a step by running the network once more.

    Args:
        model: The network with the weights from before the step and the gradients of the step.
        images: Input of the step, ``(B, C, H, W)``.

    Returns:
        A clause for a message that names the images, the weights, the layer with the first non-finite output, the
        gradients or the loss.
    """
    if not bool(images.isfinite().all()):
        return "the images of the batch are not finite"
    weights = [repr(name) for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    if weights:
        return f"the weights of {abbreviated(weights, most=3)} were not finite before the step"
    first: list[str] = []

    def check(name: str, module: nn.Module, output: Any) -> None:
        if not first and any(not bool(t.isfinite().all()) for t in _tensors(output)):
            first.append(f"{name!r} ({type(module).__name__})")

    hooks = (
        module.register_forward_hook(lambda module, _, output, name=name: check(name, module, output))
        for name, module in model.named_modules()
        if name
    )
    with temporary_hooks(hooks), torch.no_grad():
        model(images)
    if first:
        return f"the first non-finite output is that of the layer {first[0]}"
    # The backward pass starts at the last layer, so the last layers are named first.
    gradients = [
        repr(name) for name, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())
    ]
    if gradients:
        return f"the forward pass is finite, but the gradients of {abbreviated(gradients[::-1], most=3)} are not"
    return "the outputs of the network are finite, but the loss is not"


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []
