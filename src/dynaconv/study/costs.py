"""Costs of each variant: parameters, multiply-adds, memory, and times measured in interleaved rounds."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv import __version__
from dynaconv.conversion.example import eval_mode
from dynaconv.deployment import deploy
from dynaconv.deployment.norm_pairs import fill_zero_norms
from dynaconv.measure.memory import MemoryRecorder
from dynaconv.measure.profile import profile
from dynaconv.measure.timing import time_in_turns
from dynaconv.native import accelerate_training, ready
from dynaconv.ops.eager import compiled_is_enabled
from dynaconv.study.definition import Study, Variant
from dynaconv.train.config import make_parser, resolve
from dynaconv.train.threads import threads

# Options of the recipe that can change the cost of a step.
_COST_OPTIONS = ("name", "model_options", "channels_last", "optimizer")
# An inference pass of one image is much shorter than a training step, so more rounds are affordable.
_MIN_INFERENCE_ROUNDS = 31
# Native passes per round. One pass is so short that cold caches would dominate its time.
_NATIVE_PASSES = 10
Say = Callable[[str], None]


@dataclass
class _TrainableNetwork:
    """A network with everything that a training step needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    targets: Tensor
    clip: float | None

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.images), self.targets).backward()  # type: ignore[no-untyped-call]
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()


def measure_costs(
    study: Study,
    only: Iterable[str] = (),
    *,
    rounds: int = 11,
    say: Say = print,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Measure every variant, on the CPU.

    Each round runs every variant once, and every second round runs in reverse order, so that a temporary slowdown of
    the machine affects all variants. There are three series of rounds: one training step on the first batch of the
    variant's recipe, by compiled operators where there are some, as ``dynaconv train`` runs it; one inference pass of
    one image; and, if the native kernels can be compiled, ten such passes of ``deploy(network, backend="native")``.
    Augmentation and data loading are not measured.

    Args:
        study: The study.
        only: Names of variants; empty for all. The reference is always measured.
        rounds: Timed steps of each variant; inference has at least 31 rounds.
        say: Called with one line per variant.
        clock: Returns the time in seconds; for tests.

    Returns:
        ``conditions``, and ``variants`` by name; docs/studies.md explains each number.
    """
    with threads(study.threads), _compiled_operators():
        names = set(only or study.variants) | {study.reference}
        cost_keys = {name: _cost_key(variant) for name, variant in study.variants.items() if name in names}
        first = {key: name for name, key in reversed(cost_keys.items())}
        subjects = {
            name: _trainable_network(study.variants[name]) for name in cost_keys if first[cost_keys[name]] == name
        }
        costs = {name: _count_costs(subject) for name, subject in subjects.items()}
        _measure_times(subjects, costs, rounds, clock)
        for name in cost_keys:
            cost = costs[first[cost_keys[name]]]
            say(f"{name}: {cost['step_seconds'] * 1e3:.0f} ms a step, {cost['parameters']:,} parameters")
        return {
            "conditions": _conditions(subjects[first[cost_keys[study.reference]]], rounds),
            "variants": {name: costs[first[key]] for name, key in cost_keys.items()},
        }


@contextmanager
def _compiled_operators() -> Iterator[None]:
    """Train by compiled operators inside the block, if they can be compiled."""
    before = compiled_is_enabled()
    accelerate_training(ready())
    try:
        yield
    finally:
        accelerate_training(before)


def merge_costs(earlier: Mapping[str, Any], found: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """Add the costs of some variants to those of an earlier measurement, whose conditions remain.

    Times of the two may differ because the machine does, so new times are scaled to the earlier ones by the reference,
    which both have: they keep their ratios to it. A variant that both have takes its new costs.

    Args:
        earlier, found: Results of `measure_costs`.
        reference: Name of the study's reference.
    """
    before, now = earlier["variants"].get(reference), found["variants"][reference]
    if before is None:
        return dict(found)
    merged = dict(earlier["variants"])
    for name, cost in found["variants"].items():
        if name == reference:
            continue
        scaled = dict(cost)
        for kind in ("step", "latency", "native"):
            seconds, rounds = f"{kind}_seconds", f"{kind}_rounds"
            if seconds in cost and seconds in now and seconds in before:
                factor = before[seconds] / now[seconds]
                scaled[seconds] = cost[seconds] * factor
                scaled[rounds] = [float(f"{each * factor:.4g}") for each in cost[rounds]]
        merged[name] = scaled
    return {"conditions": earlier["conditions"], "variants": merged}


def _cost_key(variant: Variant) -> str:
    """Return a key that variants of equal cost share, so that a sweep over the learning rate is measured once."""
    config = variant.config
    model = {key: config.model.get(key) for key in _COST_OPTIONS}
    return json.dumps([model, dict(config.data), config.trainer.get("gradient_clip_val")], sort_keys=True)


def _trainable_network(variant: Variant) -> _TrainableNetwork:
    resolved = resolve(variant.config)
    torch.manual_seed(0)
    built = make_parser().instantiate(resolved)
    module = built.model
    fill_zero_norms(module)
    # With a learning rate of zero, a step does its full work, but the weights do not change over the rounds.
    optimizer = module.make_optimizer(0.0)
    images, targets = next(iter(built.data.train_dataloader()))
    if module.hparams["channels_last"]:
        images = images.contiguous(memory_format=torch.channels_last)
    return _TrainableNetwork(module.model.train(), optimizer, images, targets, resolved.trainer.gradient_clip_val)


def _count_costs(subject: _TrainableNetwork) -> dict[str, Any]:
    size = tuple(subject.images.shape[1:])
    counted = profile(subject.model, size)
    return {
        "parameters": counted.params,
        "madds": counted.published_macs,
        "madds_executed": counted.macs,
        "step_peak_bytes": step_peak_bytes(subject),
    }


def step_peak_bytes(subject: _TrainableNetwork) -> int:
    """Return the peak number of bytes of operator outputs in one training step.

    Included are activations, tensors saved for the backward pass, and gradients; parameters, optimiser state and images
    are not.
    """
    # The first step creates the optimiser's state.
    subject.step()
    state = [
        value for values in subject.optimizer.state.values() for value in values.values() if isinstance(value, Tensor)
    ]
    own = [*subject.model.parameters(), *subject.model.buffers(), *state, subject.images, subject.targets]
    subject.optimizer.zero_grad(set_to_none=True)
    with MemoryRecorder({}, own) as recorder:
        subject.step()
    return recorder.peak_bytes


def _measure_times(
    subjects: dict[str, _TrainableNetwork], costs: dict[str, dict[str, Any]], rounds: int, clock: Callable[[], float]
) -> None:
    time_series = partial(time_in_turns, warmup=1, clock=clock)
    steps = time_series({name: subject.step for name, subject in subjects.items()}, rounds)
    with ExitStack() as stack:
        for subject in subjects.values():
            stack.enter_context(eval_mode(subject.model))
        stack.enter_context(torch.inference_mode())
        passes = {name: partial(subject.model, subject.images[:1]) for name, subject in subjects.items()}
        inference = time_series(passes, max(rounds, _MIN_INFERENCE_ROUNDS))
        native = {}
        if ready():
            for name, subject in subjects.items():
                native[name] = partial(_repeat, deploy(subject.model, backend="native"), subject.images[:1])
        compiled = time_series(native, max(rounds, _MIN_INFERENCE_ROUNDS))
    per_pass = {name: [seconds / _NATIVE_PASSES for seconds in times] for name, times in compiled.items()}
    for kind, series in (("step", steps), ("latency", inference), ("native", per_pass)):
        for name, times in series.items():
            costs[name][f"{kind}_seconds"] = statistics.median(times)
            costs[name][f"{kind}_rounds"] = [float(f"{seconds:.4g}") for seconds in times]


def _repeat(network: nn.Module, images: Tensor) -> None:
    for _ in range(_NATIVE_PASSES):
        network(images)


def _conditions(subject: _TrainableNetwork, rounds: int) -> dict[str, Any]:
    return {
        "batch": len(subject.images),
        "input_size": list(subject.images.shape[1:]),
        "device": subject.images.device.type,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "torch": torch.__version__,
        "dynaconv": __version__,
        "measured": time.strftime("%Y-%m-%d"),
    }
