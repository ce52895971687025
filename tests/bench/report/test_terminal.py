import io

import pytest
from rich.console import Console

from headstart.bench.report import terminal
from headstart.bench.report.terminal import Bars
from headstart.bench.runs.executors.base import Working


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("hidden", [False, True])
def test_where_there_are_no_bars_a_line_of_life_comes_every_half_minute(clock, hidden):
    file = io.StringIO()
    with Bars(Console(file=file, force_terminal=False, width=40), hidden) as bars:
        bars.begin(64, 3)
        for seconds in (10, 31, 45, 62):
            clock[0] = seconds
            bars.working([Working("prewarm\x1b[31m", 3, seconds, 100)])
        bars.end({})
        clock[0] = 100
        bars.end({})
    said = [line for line in file.getvalue().splitlines() if "trials done after" in line]
    assert said == (
        []
        if hidden
        else [
            "3 of 64 trials done after 31 s; at work: prewarm\ufffd[31m, seed 3: step 31 of 100.",
            "3 of 64 trials done after 62 s; at work: prewarm\ufffd[31m, seed 3: step 62 of 100.",
            "5 of 64 trials done after 100 s.",
        ]
    )


def test_on_a_terminal_the_bars_are_enough(clock):
    file = io.StringIO()
    with Bars(Console(file=file, force_terminal=True, width=100)) as bars:
        bars.begin(4, 0)
        clock[0] = 100
        bars.working([Working("prewarm", 3, 1, 100)])
    assert "trials done after" not in file.getvalue()
