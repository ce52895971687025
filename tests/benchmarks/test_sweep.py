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
