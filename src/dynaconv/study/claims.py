"""Compares published claims with the results of a study."""

from dataclasses import dataclass
from typing import Literal

from dynaconv.errors import counted
from dynaconv.measure.timing import quartiles
from dynaconv.study.definition import Claim
from dynaconv.study.results import Results, VariantResults

Verdict = Literal["agrees", "differs", "cannot tell"]
_ROUNDS = {"step_seconds": "step_rounds", "latency_seconds": "latency_rounds"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A study's finding on a claim: the verdict, and the numbers for it in one phrase."""

    claim: Claim
    verdict: Verdict
    found: str


def judge(claim: Claim, results: Results) -> Finding:
    """Decide whether a study agrees with a claim.

    For accuracy, the verdict is "agrees" or "differs" if the 95 % interval of the paired difference excludes zero, and
    "cannot tell" otherwise. Parameters and multiply-adds are compared exactly. For times, both quartiles of the ratio
    within a round must be above one, or both below.
    """
    left, right = results.variants[claim.variant], results.variants[claim.against]
    if claim.metric == "accuracy":
        return _judge_accuracy(claim, left, right)
    if left.cost is None or right.cost is None:
        return Finding(claim=claim, verdict="cannot tell", found="costs not measured yet")
    if claim.metric in _ROUNDS:
        return _judge_times(claim, left, right)
    mine, theirs = left.cost[claim.metric], right.cost[claim.metric]
    found = f"{mine / 1e6:.2f}M against {theirs / 1e6:.2f}M"
    return Finding(claim=claim, verdict=_verdict(claim, (mine > theirs) - (mine < theirs)), found=found)


def _judge_accuracy(claim: Claim, left: VariantResults, right: VariantResults) -> Finding:
    difference = left.difference(right)
    if difference is None:
        return Finding(claim=claim, verdict="cannot tell", found="no runs of one seed yet")
    spread = "" if difference.half_width is None else f" ± {100 * difference.half_width:.2f}"
    seeds = counted(difference.count, "seed")
    found = f"{100 * difference.mean:+.2f}{spread} points, {seeds}"
    return Finding(claim=claim, verdict=_verdict(claim, difference.sign), found=found)


def _judge_times(claim: Claim, left: VariantResults, right: VariantResults) -> Finding:
    assert left.cost is not None
    assert right.cost is not None
    key = _ROUNDS[claim.metric]
    ratios = [mine / theirs for mine, theirs in zip(left.cost[key], right.cost[key], strict=True)]
    low, middle, high = quartiles(ratios)
    sign = 1 if low > 1 else -1 if high < 1 else 0
    found = f"{middle:.2f} of the time (quartiles {low:.2f} to {high:.2f})"
    return Finding(claim=claim, verdict=_verdict(claim, sign), found=found)


def _verdict(claim: Claim, sign: int) -> Verdict:
    if sign == 0:
        return "cannot tell"
    return "agrees" if (sign > 0) == (claim.expect == "higher") else "differs"
