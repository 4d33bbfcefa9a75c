from dynaconv.measure.timing import median_ratio, quartiles, time_in_turns


def test_candidates_alternate_after_the_warmup() -> None:
    seen: list[str] = []
    ticks = iter(range(100))
    functions = {name: (lambda name=name: seen.append(name)) for name in "abc"}
    times = time_in_turns(functions, 2, warmup=1, clock=lambda: float(next(ticks)))
    assert "".join(seen) == "cba" + "abc" + "cba"
    assert times == {"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}


def test_ratios_compare_times_of_the_same_round() -> None:
    assert median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == 3.0
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)
