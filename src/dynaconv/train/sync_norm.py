"""Synchronised batch norm: torch's on a GPU, and an implementation for the CPU, where torch has none."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverProcesses(torch.autograd.Function):
    """Sums a tensor over all processes; the backward pass sums the gradient over them too.

    `torch.distributed.nn.functional.all_reduce` does the same, but torch deprecates it for a private function.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # A copy, because the incoming gradient may be an expanded view that other nodes read too.
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class SyncedBatchNorm(_BatchNorm):
    """A synchronised batch norm that works on the CPU, and keeps the activation and dropout of timm's norms.

    Mean and variance are computed from sums over all processes, in at least float32 and in two passes, so that a mean
    far from zero costs no precision. Batches may differ in size between processes. State-dict keys are those of the
    norm it replaces. It is not a subclass of `torch.nn.SyncBatchNorm`, which DDP rejects on the CPU.

    Attributes:
        act, drop: Activation and dropout of `timm.layers.BatchNormAct2d`; identities for a plain norm.
    """

    act: nn.Module
    drop: nn.Module

    @classmethod
    def from_norm(cls, norm: _BatchNorm) -> "SyncedBatchNorm":
        """Create a norm with a batch norm's parameters and buffers (the same tensors), mode, activation and dropout."""
        synced = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
        if norm.affine:
            synced.weight, synced.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(synced, name, getattr(norm, name))
        for name in ("drop", "act"):
            setattr(synced, name, getattr(norm, name, None) or nn.Identity())
        return synced.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, C, ...)`` over all axes but the second, and over all processes in train mode."""
        out: Tensor = self.act(self.drop(self._over_processes(input) if self.training else super().forward(input)))
        return out

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of axes, because the replaced norm may be a 1d, 2d or 3d one."""

    def _over_processes(self, input: Tensor) -> Tensor:
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        x = input if input.dtype == torch.float64 else input.float()
        local = x.new_tensor([x.numel() / x.shape[1]])
        sums: Tensor = _SumOverProcesses.apply(torch.cat([x.sum(axes), local]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance: Tensor = _SumOverProcesses.apply(centred.square().sum(axes)) / count
        self._track(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        normalised = centred * scale.view(shape)
        if self.bias is not None:
            normalised = normalised + self.bias.view(shape)
        return normalised.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics with those of this batch; the running variance is unbiased."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * count / (count - 1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def synchronise_norms(model: nn.Module, device: torch.device) -> None:
    """Replace every batch norm inside ``model`` by a synchronised one, in place.

    Args:
        model: The network. Its norms may be torch's, timm's with an activation, or `LatentBatchNorm2d`.
        device: Device of the training.
    """
    if device.type != "cpu":
        from timm.layers.norm_act import convert_sync_batchnorm

        convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    replacements: dict[_BatchNorm, SyncedBatchNorm] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, SyncedBatchNorm):
                if child not in replacements:
                    replacements[child] = SyncedBatchNorm.from_norm(child)
                setattr(parent, name, replacements[child])
