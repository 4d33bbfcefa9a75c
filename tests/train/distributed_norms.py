"""Synchronised norms in two processes against plain ones on the whole batch; torchrun starts this."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from dynaconv.families.contract.norms import LatentBatchNorm2d
from dynaconv.train.strategy import leave_processes
from dynaconv.train.sync_norm import SyncedBatchNorm, synchronise_norms


def make(kind: str) -> nn.Sequential:
    norm: nn.Module
    if kind == "timm":
        norm = BatchNormAct2d(5, act_layer=nn.SiLU)  # type: ignore[no-untyped-call]
    elif kind == "latent":
        norm = LatentBatchNorm2d(5)
    elif kind == "cumulative":
        norm = nn.BatchNorm2d(5, momentum=None)
    else:
        norm = nn.BatchNorm2d(5, affine=kind != "bare", track_running_stats=kind != "untracked")
    model = nn.Sequential(nn.Conv2d(3, 5, 3), norm).double()
    torch.manual_seed(1)
    for value in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
        nn.init.uniform_(value, 0.5, 1.5)
    return model


def compare(kind: str, split: int, size: tuple[int, int]) -> None:
    """Three steps of forward and backward, of unlike batches and means far from zero."""
    rank = dist.get_rank()
    whole, synced = make(kind), make(kind)
    synchronise_norms(synced, torch.device("cpu"))
    assert isinstance(synced[1], SyncedBatchNorm)
    assert synced.state_dict().keys() == whole.state_dict().keys()
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        images = 100 + torch.randn(7, 3, *size, generator=generator, dtype=torch.float64)
        weights = torch.randn(7, 5, size[0] - 2, size[1] - 2, generator=generator, dtype=torch.float64)
        mine = slice(0, split) if rank == 0 else slice(split, 7)
        x, part = images.clone().requires_grad_(), images[mine].clone().requires_grad_()
        (whole(x) * weights).sum().backward()
        out = synced(part)
        (out * weights[mine]).sum().backward()
        assert x.grad is not None
        close(part.grad, x.grad[mine])
        for value, other in zip(synced.parameters(), whole.parameters(), strict=True):
            assert value.grad is not None
            total = value.grad.clone()
            dist.all_reduce(total)
            close(total, other.grad)
            value.grad = other.grad = None
    for key, value in whole.state_dict().items():
        close(synced.state_dict()[key], value)
    whole.eval(), synced.eval()
    close(synced(images), whole(images))


def close(value: Tensor | None, other: Tensor | None) -> None:
    torch.testing.assert_close(value, other, rtol=1e-8, atol=1e-8)


def main() -> None:
    dist.init_process_group("gloo")
    for kind in ("plain", "timm", "latent", "cumulative", "bare", "untracked"):
        compare(kind, split=2, size=(5, 6))
    # One value a channel in the first process.
    compare("latent", split=1, size=(3, 3))
    shared = nn.BatchNorm2d(4)
    both = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    synchronise_norms(both, torch.device("cpu"))
    assert both["a"] is both["b"][0]  # type: ignore[index]
    half = SyncedBatchNorm.from_norm(nn.BatchNorm2d(4))
    assert half(torch.randn(2, 4, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    Path(sys.argv[1], f"done-{dist.get_rank()}").touch()


if __name__ == "__main__":
    main()
    leave_processes()
