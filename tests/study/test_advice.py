"""The prediction of DCD's gain: the line by hand, its error by hand, and the command on a run folder."""

import json
import math
import runpy
from pathlib import Path

import pytest

from dynaconv.cli import main
from dynaconv.errors import RunError
from dynaconv.study.advice import Setting, advise, fit_slope, loss_floor, prediction_error, read_settings
from tests.messages import refuses, spelled
from tests.study.helpers import write_static_run


def setting(data: str, excess: float, gain: float) -> Setting:
    rest = {"network": "net 1", "seeds": 3, "accuracy": 80.0, "half_width": 1.0}
    return Setting(data=data, excess=excess, gain=gain, parameters=None, latency=None, time=None, **rest)  # type: ignore[arg-type]


def test_the_floor_is_the_entropy_of_the_labels() -> None:
    assert loss_floor(10, 0.0) == 0
    assert loss_floor(2, 0.5) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert loss_floor(10, 0.999) == pytest.approx(math.log(10), abs=1e-3)


def test_every_group_has_the_same_weight() -> None:
    one, other = setting("one", 1.0, 4.0), setting("other", 1.0, 2.0)
    assert fit_slope([one, other]) == pytest.approx(3.0)
    assert fit_slope([one, one, one, other]) == pytest.approx(3.0)
    # Each is predicted by the other's slope alone, and missed by two points.
    assert prediction_error([one, other]) == pytest.approx(2.0)
    assert prediction_error([setting("one", 1.0, 3.0), setting("other", 2.0, 6.0)]) == pytest.approx(0.0)


def test_the_shipped_settings_are_those_of_the_committed_results() -> None:
    made = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "advice.py"))["find_settings"]()
    shipped = read_settings()
    assert [(each.data, each.network, each.seeds) for each in made] == [
        (each.data, each.network, each.seeds) for each in shipped
    ], "run python tools/advice.py"
    for one, other in zip(made, shipped, strict=True):
        assert (one.excess, one.gain) == pytest.approx((other.excess, other.gain), abs=1e-3), (
            "run python tools/advice.py"
        )


def test_the_prediction_is_that_of_the_shipped_settings() -> None:
    settings = read_settings()
    assert len({each.group for each in settings}) >= 3
    near, far = advise(1.0 + loss_floor(500, 0.1), 500, 0.1), advise(6.0, 500, 0.1)
    assert near.gain == pytest.approx(fit_slope(settings))
    assert (near.known, far.known) == (True, False)
    # The error is that of settings that the fit has not seen, so it is not smaller than that of the fit itself.
    residual = sum((each.gain - fit_slope(settings) * each.excess) ** 2 for each in settings) / len(settings)
    assert 0 < near.error < 3
    assert math.isfinite(residual)


@pytest.mark.parametrize(
    "values",
    [{"train_loss": 0.5}, {"train_loss": math.nan}, {"num_classes": 1}, {"label_smoothing": 1.0}],
    ids=spelled,
)
def test_values_that_cannot_be(values: dict[str, float]) -> None:
    with refuses(RunError):
        advise(**{"train_loss": 2.0, "num_classes": 500, "label_smoothing": 0.1} | values)  # type: ignore[arg-type]


def test_the_command_reads_the_last_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_static_run(tmp_path / "run", losses=(2.0, 1.5))
    assert main(["advise", str(run), "--json", str(tmp_path / "advice.json")]) == 0
    found = json.loads((tmp_path / "advice.json").read_text())
    assert (found["train_loss"], found["epoch"]) == (1.5, 2)
    assert f"{found['excess']:.2f} nats" in capsys.readouterr().out


def test_a_run_that_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, options, said in (
        ("unfinished", {"losses": ()}, "complete epoch"),
        ("dynamic", {"model": "dcd_resnet10"}, "dynamic already"),
        ("mixed", {"mix": "Mixup"}, "mixed images"),
    ):
        assert main(["advise", str(write_static_run(tmp_path / name, **options))]) == 2  # type: ignore[arg-type]
        assert said in capsys.readouterr().err
    assert main(["advise", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
