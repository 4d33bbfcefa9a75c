"""What happens when a loss or gradient is not finite: the run stops and names the layer, or passes over the step."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils.hooks import RemovableHandle

from dynaconv.errors import TrainingDivergedError
from dynaconv.train.saving import SaveLast

# Looking at a value waits for the device, so off the CPU a run that would stop anyway looks once in this many batches.
_LOOK_EVERY = 50
_ADVICE = "lower the learning rate, lengthen the warm-up or clip gradients"


class GuardFinite(Callback):
    """Looks at the loss and the gradients before the weights are changed by them.

    Args:
        mode: ``"stop"`` ends the run with the name of the layer where it began. ``"skip"`` leaves the weights and the
            statistics of the norms as they were before the step, and goes on.
        limit: Steps skipped in a row that end the run all the same.

    Attributes:
        skipped: Steps that were skipped so far.
    """

    def __init__(self, mode: Literal["stop", "skip"], limit: int) -> None:
        self.mode = mode
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
        self._hook = network(pl_module).register_forward_pre_hook(self._note_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._step, self._loss, self._buffers = None, None, None, []

    def _note_step(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if module.training and self._step is None:
            images = arguments[0]
            on_gpu = images.device.type == "cuda"
            # For dropout, should the step have to be looked at again.
            states = torch.get_rng_state(), torch.cuda.get_rng_state(images.device) if on_gpu else None
            self._step = (images.detach(), *states)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step = None
        if self.mode == "skip" and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = [buffer.clone() for buffer in network(pl_module).buffers()]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        economical = self.mode == "stop" and pl_module.device.type != "cpu"
        if economical and trainer.fit_loop.epoch_loop.batch_idx % _LOOK_EVERY:
            return
        # A scaler of half-precision gradients tries scales that overflow, and passes over those steps itself.
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        assert self._loss is not None
        fine = math.isfinite(self._loss) and (scaled or _finite_gradients(network(pl_module)))
        if self.mode == "skip" and trainer.world_size > 1:
            fine = trainer.strategy.reduce_boolean_decision(fine, all=True)
        if fine:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self.mode == "stop" or self._in_a_row >= self.limit:
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
        what = "the gradients left the finite numbers" if math.isfinite(loss) else f"the training loss became {loss}"
        where = f"in epoch {trainer.current_epoch + 1}, batch {trainer.fit_loop.epoch_loop.batch_idx + 1}"
        row = f", after {self._in_a_row} such steps in a row" if self._in_a_row > 1 else ""
        return TrainingDivergedError(f"{what} {where}{row}: {self._first(model)}; {_ADVICE}. {_kept(trainer)}")

    def _first(self, model: nn.Module) -> str:
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
                    f"the {phase} loss became {loss} in epoch {trainer.current_epoch + 1}; {_ADVICE}. {_kept(trainer)}"
                )


def network(pl_module: LightningModule) -> nn.Module:
    """The network that a module trains."""
    model = pl_module.model
    assert isinstance(model, nn.Module)
    return model


def _kept(trainer: Trainer) -> str:
    last = next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, SaveLast)), None)
    return last.kept if last is not None else ""


def _finite_gradients(model: nn.Module) -> bool:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    # The norm of finite gradients may overflow.
    return math.isfinite(get_total_norm(gradients)) or all(bool(g.isfinite().all()) for g in gradients)


def first_not_finite(model: nn.Module, images: Tensor) -> str:
    """Say where a network leaves the finite numbers, by running it once more.

    Args:
        model: With the weights from before the step, and the gradients of it.
        images: What the step was given, ``(B, C, H, W)``.

    Returns:
        A clause that names the images, the weights, the layer with the first output, or else the gradients.
    """
    if not bool(images.isfinite().all()):
        return "the images of the batch are not finite"
    weights = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    if weights:
        return f"before the step the weights {_some(weights)} were not finite"
    found: list[str] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        if not found and any(not bool(t.isfinite().all()) for t in _tensors(output)):
            found.append(f"{name!r} ({type(module).__name__})")

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return f"the first output that is not finite is that of the layer {found[0]}"
    # Backward begins at the end of the network.
    gradients = [
        name for name, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())
    ]
    if gradients:
        return f"the forward pass is finite, and the gradients {_some(gradients[::-1])} are not"
    return "the network's outputs are finite, and the loss of them is not"


def _some(names: Sequence[str]) -> str:
    more = f" and of {len(names) - 3} more" if len(names) > 3 else ""
    return "of " + ", ".join(repr(name) for name in names[:3]) + more


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []
