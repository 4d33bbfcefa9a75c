"""Several processes: fully sharded training (FSDP2) as a strategy of Lightning, and what a network needs for it."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

FULLY_SHARDED = "fsdp2"


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes: each holds a share of weights, gradients and optimiser state.

    Lightning's own default shards over the nodes and asks for tensor parallelism inside each; convolutions have none.
    A checkpoint is one whole file, as of any other run.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


StrategyRegistry.register(
    FULLY_SHARDED, FullyShardedStrategy, description="FSDP2 over all processes, whole checkpoints", override=True
)


def shard_network(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide a network's parameters over the processes, in place; each block is gathered when it runs.

    Args:
        model: On any device; its parameters become `torch.distributed.tensor.DTensor`.
        mesh: One-dimensional, over all processes.
    """
    from torch.distributed.fsdp import fully_shard

    # FSDP2 does not take weights in channels_last order.
    model.to(memory_format=torch.contiguous_format)
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost composite modules that stand in a sequence, which calls them as a whole."""
    for child in model.children():
        if isinstance(model, nn.Sequential) and not isinstance(child, nn.Sequential):
            if sum(any(True for _ in part.parameters(recurse=False)) for part in child.modules()) > 1:
                yield child
        else:
            yield from _blocks(child)


def sum_over_processes(values: Tensor, device: torch.device) -> Tensor:
    """Return the sum of ``values`` over all processes, on the CPU; without others the values themselves."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    total = values.to(device)
    dist.all_reduce(total)
    return total.cpu()


def leave_processes() -> None:
    """Wait for the other processes, then close the connection to them, once and at the end of a program.

    Left to the interpreter's end, a process that is still connected can find its peers gone and abort. A connection
    that is closed cannot be opened again from within torchrun, so a run does not do this itself: another may follow.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
