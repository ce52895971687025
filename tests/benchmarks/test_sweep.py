"""The sweep goes on whatever a model's process does."""

import multiprocessing
import signal

import pytest


class Ended:
    def __init__(self, exitcode):
        self.exitcode = exitcode

    def join(self):
        pass


@pytest.fixture
def pipe():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    yield receiver, sender
    receiver.close()
    sender.close()


def test_a_process_that_waits_is_given_up(pipe, monkeypatch):
    import sweep

    monkeypatch.setattr(sweep, "WAIT", 0.01)
    failed, found = sweep.answer(pipe[0], Ended(None))
    assert failed
    assert found.startswith("waited: nothing came in 0.01 seconds")


def test_what_a_process_sends_or_ended_with_is_told(pipe):
    import sweep

    receiver, sender = pipe
    sender.send((False, {"side": 64}))
    assert sweep.answer(receiver, Ended(None)) == (False, {"side": 64})
    sender.close()
    assert sweep.answer(receiver, Ended(-signal.SIGXCPU)) == (True, "not done after 600 seconds")
    assert sweep.answer(receiver, Ended(1)) == (True, "it ended with 1")


def test_rows_of_modules_that_were_not_run_stay(tmp_path, monkeypatch):
    import types

    import sweep

    zoo = types.SimpleNamespace(__version__="1", list_modules=lambda: ["a", "b"])
    row = {"module": "b", "model": "b_1", "auto": "done", "before": "swapped fan"}
    sweep.write_table([row, row | {"module": "a"}], tmp_path, zoo)
    about = (tmp_path / "sweep.json").read_text()
    monkeypatch.setattr(sweep, "machine", lambda: "another")
    sweep.write_table([row | {"before": ""}], tmp_path, zoo)
    lines = (tmp_path / "sweep.csv").read_text().splitlines()[1:]
    assert [(line.split(",")[0], "swapped" in line) for line in lines] == [("a", True), ("b", False)]
    assert (tmp_path / "sweep.json").read_text() == about
