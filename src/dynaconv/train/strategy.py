"""Training in several processes: a Lightning strategy for fully sharded training (FSDP2), and helpers."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

FULLY_SHARDED = "fsdp2"


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes: each holds a shard of the weights, gradients and optimiser state.

    Lightning's default shards over the nodes and uses tensor parallelism inside each, which convolutions do not have.
    A checkpoint is one file with unsharded tensors, as in any other run.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


StrategyRegistry.register(
    FULLY_SHARDED, FullyShardedStrategy, description="FSDP2 over all processes, unsharded checkpoints", override=True
)


def shard_network(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network's parameters over the processes, in place; each block is gathered when it runs.

    Args:
        model: The network, on any device; its parameters become `torch.distributed.tensor.DTensor`.
        mesh: One-dimensional mesh over all processes.
    """
    from torch.distributed.fsdp import fully_shard

    # FSDP2 does not support weights in channels_last memory format.
    model.to(memory_format=torch.contiguous_format)
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules in an `nn.Sequential` that contain more than one module with parameters.

    The `nn.Sequential` calls each of them as a whole, as FSDP2 requires.
    """
    for child in model.children():
        if isinstance(model, nn.Sequential) and not isinstance(child, nn.Sequential):
            if sum(any(True for _ in part.parameters(recurse=False)) for part in child.modules()) > 1:
                yield child
        else:
            yield from _blocks(child)


def sum_over_processes(values: Tensor, device: torch.device) -> Tensor:
    """Return the sum of ``values`` over all processes, on the CPU; with a single process ``values`` itself."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    total = values.to(device)
    dist.all_reduce(total)
    return total.cpu()


def leave_processes() -> None:
    """Wait for the other processes and destroy the process group. Call it once, at the end of a program.

    If the group exists until the interpreter exits, a process can find its peers gone and abort. Under torchrun a
    destroyed group cannot be created again, so a run does not destroy it itself: another run may follow.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
