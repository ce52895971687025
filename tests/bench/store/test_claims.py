import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from headstart.bench.store.claims import Claims
from headstart.errors import HeadstartError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "claims"


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_claim_is_had_by_one_and_free_when_released(folder):
    with Claims(folder) as one, Claims(folder) as other:
        assert one.take("a")
        assert not other.take("a")
        one.release("a")
        assert other.take("a")
    assert list(folder.glob("*.json")) == []


def test_a_claim_tells_who_has_it(folder):
    with Claims(folder) as claims:
        claims.take("a")
        owner = json.loads((folder / "a.json").read_text())
    assert owner["pid"] == os.getpid()
    assert owner["host"]
    assert abs(owner["time"] - time.time()) < 60


HOLDER = """
import sys, time
from pathlib import Path
from headstart.bench.store.claims import Claims
claims = Claims(Path(sys.argv[1]))
claims.take("a")
print("held", flush=True)
time.sleep(60)
"""


def test_the_claim_of_a_killed_process_is_taken_over(folder):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with Claims(folder) as claims:
            assert not claims.take("a")
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert claims.take("a")


def test_what_killed_processes_left_is_tidied_and_what_is_held_stays(folder):
    folder.mkdir()
    with Claims(folder) as other, Claims(folder) as claims:
        other.take("held")
        owner = json.loads((folder / "held.json").read_text())
        (folder / "left.json").write_text(json.dumps({**owner, "started": "another time"}))
        (folder / "old.json").write_text("")
        age(folder / "old.json", 1000)
        (folder / "young.json").write_text("")
        claims.tidy()
        assert {path.stem for path in folder.glob("*.json")} == {"held", "young"}


def test_a_process_that_reuses_the_number_is_not_taken_for_the_owner(folder):
    with Claims(folder) as one, Claims(folder) as other:
        one.take("a")
        path = folder / "a.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "started": "1"}))
        assert other.take("a")


@pytest.mark.parametrize("text", ["", '{"host": "elsewhere", "space": "elsewhere", "pid": 1}', "[]"])
def test_a_claim_from_elsewhere_or_cut_short_is_taken_over_when_its_heart_stands_still(folder, text):
    folder.mkdir()
    path = folder / "a.json"
    path.write_text(text)
    with Claims(folder, limit=50) as claims:
        assert not claims.take("a")
        age(path, 45)
        assert not claims.take("a")
        age(path, 55)
        assert claims.take("a")


def test_the_heart_beats_while_a_claim_is_held(folder):
    with Claims(folder, limit=0.4) as claims:
        claims.take("a")
        age(folder / "a.json", 1000)
        deadline = time.monotonic() + 20
        while time.time() - (folder / "a.json").stat().st_mtime > 500:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_what_was_taken_over_is_not_released_by_its_old_owner(folder):
    with Claims(folder) as one, Claims(folder) as other:
        one.take("a")
        age(folder / "a.json", 1000)
        assert other.take("a")
        one.release("a")
        assert (folder / "a.json").exists()


def test_of_many_that_want_an_abandoned_claim_one_gets_it(folder):
    folder.mkdir()
    everyone = [Claims(folder) for _ in range(16)]
    for round_ in range(10):
        path = folder / f"{round_}.json"
        path.write_text("{}")
        age(path, 1000)
        got, gate = [], threading.Barrier(len(everyone))

        def want(claims, key=str(round_), got=got, gate=gate):
            gate.wait()
            got.append(claims.take(key))

        threads = [threading.Thread(target=want, args=(claims,)) for claims in everyone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got.count(True) == 1
    for claims in everyone:
        claims.__exit__(None, None, None)


def test_a_full_disk_is_one_error_and_leaves_no_claim(folder, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", fail)
    with Claims(folder) as claims, pytest.raises(HeadstartError, match="No space left"):
        claims.take("a")
    assert list(folder.glob("*.json")) == []
