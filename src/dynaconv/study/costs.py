"""What each variant costs: parameters, multiply-adds, memory, and times measured in turns in one process."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv import __version__
from dynaconv.analysis._timing import take_turns
from dynaconv.analysis._units import eval_mode
from dynaconv.analysis.memory import MemoryRecorder
from dynaconv.analysis.profile import profile
from dynaconv.deployment import deploy
from dynaconv.native import ready
from dynaconv.study.definition import Study, Variant
from dynaconv.train.config import make_parser, resolve
from dynaconv.train.module import make_optimizer

# Of the recipe's options, those that can change what a step costs.
_COSTLY = ("name", "model_options", "channels_last", "optimizer", "momentum", "nesterov")
# A pass of one image takes so much less than a step that more of them can be afforded.
_LEAST_PASSES = 31
# A native pass is so short that the first one, on cold caches, would say little.
_REPEATED = 10
Say = Callable[[str], None]


@dataclass
class _Subject:
    """One network with all that a training step needs."""

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

    The variants take turns, each one step on the first batch of its own recipe, later one inference pass of one image,
    and then, where the native kernels can be compiled, ten passes as ``deploy(network, backend="native")`` runs them.
    Every other round goes in reverse order: a machine that slows down for a while slows all of them down. Augmentation
    and loading are left out.

    Args:
        study: The study.
        only: Names of variants; all when empty. The reference is always measured.
        rounds: Timed steps of each variant; of inference passes there are at least 31.
        say: Gets one line a variant.
        clock: Seconds; for tests.

    Returns:
        ``conditions`` and ``variants``, by name; docs/studies.md says what each number is.
    """
    threads = torch.get_num_threads()
    if study.threads is not None:
        torch.set_num_threads(study.threads)
    try:
        names = set(only or study.variants) | {study.reference}
        kinds = {name: _kind(variant) for name, variant in study.variants.items() if name in names}
        first = {kind: name for name, kind in reversed(kinds.items())}
        subjects = {name: _subject(study.variants[name]) for name in kinds if first[kinds[name]] == name}
        found = {name: _count(subject) for name, subject in subjects.items()}
        _time(subjects, found, rounds, clock)
        for name in kinds:
            cost = found[first[kinds[name]]]
            say(f"{name}: {cost['step_seconds'] * 1e3:.0f} ms a step, {cost['parameters']:,} parameters")
        return {
            "conditions": _conditions(subjects[first[kinds[study.reference]]], rounds),
            "variants": {name: found[first[kind]] for name, kind in kinds.items()},
        }
    finally:
        torch.set_num_threads(threads)


def _kind(variant: Variant) -> str:
    """Equal for variants that cost the same: those of a sweep over the learning rate are measured once."""
    config = variant.config
    model = {key: config.model.get(key) for key in _COSTLY}
    return json.dumps([model, dict(config.data), config.trainer.get("gradient_clip_val")], sort_keys=True)


def _subject(variant: Variant) -> _Subject:
    resolved = resolve(variant.config)
    torch.manual_seed(0)
    built = make_parser().instantiate(resolved)
    module, options = built.model, built.model.hparams
    # A rate of zero does a step's work and leaves the network where it is, however many rounds there are.
    optimizer = make_optimizer(module.model, options, 0.0)
    images, targets = next(iter(built.data.train_dataloader()))
    if options["channels_last"]:
        images = images.contiguous(memory_format=torch.channels_last)
    return _Subject(module.model.train(), optimizer, images, targets, resolved.trainer.gradient_clip_val)


def _count(subject: _Subject) -> dict[str, Any]:
    size = tuple(subject.images.shape[1:])
    counted = profile(subject.model, size)
    return {
        "parameters": counted.params,
        "madds": counted.published_macs,
        "madds_executed": counted.macs,
        "step_peak_bytes": step_peak_bytes(subject),
    }


def step_peak_bytes(subject: _Subject) -> int:
    """The most bytes of operators' outputs that one training step holds at once.

    These are activations, what is kept for the backward pass, and gradients; not the parameters, the optimiser's
    state and the images.
    """
    subject.step()  # afterwards the optimiser has its state
    state = [
        value for values in subject.optimizer.state.values() for value in values.values() if isinstance(value, Tensor)
    ]
    own = [*subject.model.parameters(), *subject.model.buffers(), *state, subject.images, subject.targets]
    subject.optimizer.zero_grad(set_to_none=True)
    with MemoryRecorder({}, own) as recorder:
        subject.step()
    return recorder.peak_bytes


def _time(
    subjects: dict[str, _Subject], found: dict[str, dict[str, Any]], rounds: int, clock: Callable[[], float]
) -> None:
    steps = _take_turns({name: subject.step for name, subject in subjects.items()}, rounds, clock)
    with ExitStack() as stack:
        for subject in subjects.values():
            stack.enter_context(eval_mode(subject.model))
        stack.enter_context(torch.inference_mode())
        passes = {name: partial(subject.model, subject.images[:1]) for name, subject in subjects.items()}
        inference = _take_turns(passes, max(rounds, _LEAST_PASSES), clock)
        native = {}
        if ready():
            for name, subject in subjects.items():
                native[name] = partial(_repeat, deploy(subject.model, backend="native"), subject.images[:1])
        compiled = _take_turns(native, max(rounds, _LEAST_PASSES), clock)
    for name, times in compiled.items():
        passes_seconds = [seconds / _REPEATED for seconds in times]
        found[name]["native_seconds"] = statistics.median(passes_seconds)
        found[name]["native_rounds"] = [float(f"{seconds:.4g}") for seconds in passes_seconds]
    for name, cost in found.items():
        cost["step_seconds"] = statistics.median(steps[name])
        cost["latency_seconds"] = statistics.median(inference[name])
        cost["step_rounds"] = [float(f"{seconds:.4g}") for seconds in steps[name]]
        cost["latency_rounds"] = [float(f"{seconds:.4g}") for seconds in inference[name]]


def _repeat(network: nn.Module, images: Tensor) -> None:
    for _ in range(_REPEATED):
        network(images)


def _take_turns(
    work: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round; a round before the first warms up."""
    for do in reversed(list(work.values())):
        do()
    return take_turns(work, rounds, clock)


def _conditions(subject: _Subject, rounds: int) -> dict[str, Any]:
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
