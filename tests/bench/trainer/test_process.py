import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headstart.bench.trainer.process import last_lines, run_command

PYTHON = [sys.executable, "-S", "-c"]
# Starts a child in its own session that starts another, notes their numbers, and sleeps.
FAMILY = """
import os, subprocess, sys, time
from pathlib import Path
inner = "import os,sys,time;open(sys.argv[1],'w').write(str(os.getpid()));time.sleep(99)"
outer = ("import os,subprocess,sys,time;open(sys.argv[1]+'1','w').write(str(os.getpid()));"
         "subprocess.Popen([sys.executable,'-S','-c',sys.argv[2],sys.argv[1]+'2'],start_new_session=True);"
         + ("sys.exit()" if {orphan} else "time.sleep(99)"))
subprocess.Popen([sys.executable, "-S", "-c", outer, sys.argv[1], inner], start_new_session=True)
while not all(Path(sys.argv[1] + n).is_file() and Path(sys.argv[1] + n).read_text() for n in "12"):
    time.sleep(0.01)
Path(sys.argv[1] + "0").write_text(str(os.getpid()))
time.sleep({sleep})
"""


def family(tmp_path, sleep=99, orphan=False):
    code = FAMILY.replace("{sleep}", str(sleep)).replace("{orphan}", str(orphan))
    return [*PYTHON, code, str(tmp_path / "pid")]


def pids(tmp_path):
    return [int((tmp_path / f"pid{n}").read_text()) for n in "012"]


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    assert condition()


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


linux = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are counted in /proc")


@pytest.mark.parametrize(
    ("code", "expected"), [("0", 0), ("3", 3), ("__import__('os').kill(__import__('os').getpid(), 9)", 137)]
)
def test_the_exit_code_comes_back(tmp_path, code, expected):
    assert run_command([*PYTHON, f"import sys; sys.exit({code})"], tmp_path / "log", 0, 1).code == expected


def test_a_command_that_is_not_there_says_so(tmp_path):
    assert run_command(["no-such-command-here"], tmp_path / "log", 0, 1).code == 127
    assert last_lines(tmp_path / "log") == "no-such-command-here: No such file or directory"


def test_output_words_environment_and_input(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = (
        "import os, sys; print(sys.argv[1:], os.environ['OMP_NUM_THREADS'], sys.stdin.read());"
        "print('x', file=sys.stderr)"
    )
    run_command([*PYTHON, code, "a b", "$HOME;", ""], tmp_path / "log", 0, 3)
    assert (tmp_path / "log").read_text() == "['a b', '$HOME;', ''] 3 \nx\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run_command([*PYTHON, code], tmp_path / "log", 0, 3)
    assert " 7 " in (tmp_path / "log").read_text()


@linux
@pytest.mark.parametrize("orphan", [False, True])
def test_a_run_whose_time_is_over_is_ended_with_its_children(tmp_path, orphan):
    started = time.monotonic()
    ended = run_command(family(tmp_path, orphan=orphan), tmp_path / "log", 3, 1)
    assert ended.late
    assert time.monotonic() - started < 30
    assert not any(map(is_alive, pids(tmp_path)))


@linux
def test_what_a_run_leaves_behind_is_ended(tmp_path):
    ended = run_command(family(tmp_path, sleep=0), tmp_path / "log", 0, 1)
    assert (ended.code, ended.late) == (0, False)
    assert not any(map(is_alive, pids(tmp_path)))


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_children_end_with_the_process_that_ran_them(tmp_path, number):
    code = (
        "import signal, sys; from pathlib import Path; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from headstart.bench.trainer.process import run_command;"
        "run_command(sys.argv[2:], Path(sys.argv[1]), 0, 1)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log"), *family(tmp_path)], stderr=subprocess.DEVNULL
    )
    try:
        wait_for((tmp_path / "pid0").is_file, 60)
        os.kill(driver.pid, number)
        driver.wait(30)
        wait_for(lambda: not any(map(is_alive, pids(tmp_path))))
    finally:
        driver.kill()


@linux
def test_a_child_that_will_not_end_is_killed(tmp_path):
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "open(sys.argv[1], 'w').close(); time.sleep(99)"
    )
    ended = run_command([*PYTHON, code, str(tmp_path / "ready")], tmp_path / "log", 1, 1)
    assert ended.late
    assert 4 <= ended.seconds < 30


def test_the_last_lines_are_what_a_terminal_would_show(tmp_path):
    text = "".join(f"line {i}\n" for i in range(100)) + "bar 1\rbar 2\rbar 3\n\n\nlast \xff"
    (tmp_path / "log").write_bytes(text.encode("latin-1"))
    lines = last_lines(tmp_path / "log").split("\n")
    assert len(lines) == 20
    assert lines[-3:] == ["line 99", "bar 3", "last \ufffd"]
    (tmp_path / "log").write_text("")
    assert last_lines(tmp_path / "log") == ""
