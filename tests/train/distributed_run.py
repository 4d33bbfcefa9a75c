"""Whole runs in each of several processes: ``python -m torch.distributed.run ... distributed_run.py CASES.json``."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.nn.modules.batchnorm import _BatchNorm

from dynaconv.train.config import TrainConfig
from dynaconv.train.run import fit, resume
from dynaconv.train.strategy import leave_processes


class FixedNorms(Callback):
    """Keeps the statistics of batch norms as they are, so that images do not see one another."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for module in pl_module.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


class LossCurve(Callback):
    """Keeps the loss of every step, averaged over processes."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))


class PowerCut(Callback):
    """Ends a run before its second epoch, as a crash would."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            raise OSError("power cut")


def run_case(case: dict[str, Any], root: Path) -> list[float]:
    """Run one case and return its loss curve; a case that is cut short is resumed."""
    out, curve = root / case["name"], LossCurve()
    norms = [FixedNorms()] if case["fixed_norms"] else []
    config = TrainConfig.from_dict(case["config"])
    if case.get("cut"):
        try:
            fit(config, out=out, callbacks=[*norms, curve, PowerCut()])
        except OSError:
            # Every process was cut; none may go on before the first has written its last file.
            torch.distributed.barrier()
        resume(out, callbacks=[*norms, curve])
    else:
        fit(config, out=out, callbacks=[*norms, curve])
    return curve.losses


def main() -> None:
    torch.set_num_threads(1)
    file = Path(sys.argv[1])
    curves = {}
    for case in json.loads(file.read_text()):
        print(f"case {case['name']}", flush=True)
        curves[case["name"]] = run_case(case, file.parent)
        rank = int(os.environ.get("RANK", "0"))
        (file.parent / f"curves-{rank}.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
    leave_processes()
