import errno
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from headstart.bench.tasks.data import cache
from headstart.bench.tasks.loading import load_task
from headstart.errors import DataError


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.bin"
    path.write_bytes(b"1234")
    return path


def count_up(calls=None):
    def convert(writer):
        if calls is not None:
            calls.append(1)
        writer.save("images", np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2))
        writer.save("labels", iter([np.array([4]), np.array([5, 6])]), 3)
        writer.names["classes"] = ["a", "b"]

    return convert


def test_a_set_is_converted_once_and_mapped(source, tmp_path):
    calls, seen = [], []
    first = cache.converted("s", [source], count_up(calls), progress=lambda *p: seen.append(p))
    again = cache.converted("s", [source], count_up(calls))
    assert len(calls) == 1
    assert seen == [(2, 2), (1, 3), (3, 3)]
    assert isinstance(again["images"], np.memmap)
    assert again["images"].tolist() == first["images"].tolist() == np.arange(24).reshape(2, 3, 2, 2).tolist()
    assert again["labels"].tolist() == [4, 5, 6]
    assert again.names == {"classes": ["a", "b"]}
    assert "coarse" not in again
    with pytest.raises(ValueError, match="read-only"):
        again["images"][0] = 0
    assert [p.name[:2] for p in (tmp_path / "cache").iterdir()] == ["s-"]


def test_another_source_option_or_name_is_another_conversion(source):
    calls = []
    cache.converted("s", [source], count_up(calls))
    cache.converted("s", [source], count_up(calls), options={"size": 3})
    cache.converted("t", [source], count_up(calls))
    os.utime(source, ns=(1, 1))
    cache.converted("s", [source], count_up(calls))
    source.write_bytes(b"12345")
    cache.converted("s", [source], count_up(calls))
    assert len(calls) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "images.npy").write_bytes((f / "images.npy").read_bytes()[:-1]),
        lambda f: (f / "images.npy").unlink(),
        lambda f: (f / "labels.npy").write_bytes(b""),
        lambda f: np.save(f / "labels.npy", np.zeros(3, np.int32)),
        lambda f: (f / "meta.json").write_text("{"),
        lambda f: (f / "meta.json").write_text(json.dumps({"arrays": {}, "names": {}})),
    ],
)
def test_a_damaged_conversion_is_made_again(source, tmp_path, damage):
    cache.converted("s", [source], count_up())
    damage(next((tmp_path / "cache").iterdir()))
    assert cache.converted("s", [source], count_up())["labels"].tolist() == [4, 5, 6]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_conversion_that_fails_leaves_nothing(source, tmp_path):
    def fails(writer):
        writer.save("images", np.zeros((2, 1), np.uint8))
        raise DataError("no")

    def short(writer):
        writer.save("images", iter([np.zeros((2, 1), np.uint8)]), 3)

    def full(writer):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataError, match="no"):
        cache.converted("s", [source], fails)
    with pytest.raises(DataError, match="2 rows where 3"):
        cache.converted("s", [source], short)
    with pytest.raises(DataError, match=r"No space left.*HEADSTART_CACHE"):
        cache.converted("s", [source], full)
    assert list((tmp_path / "cache").iterdir()) == []


def test_of_two_conversions_at_once_one_is_kept_and_both_get_it(source, tmp_path):
    meet, found = threading.Barrier(2), []

    def convert(writer):
        meet.wait(10)
        count_up()(writer)

    def work():
        found.append(cache.converted("s", [source], convert)["labels"].tolist())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[4, 5, 6]] * 2
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_killed_conversion_is_no_conversion(source, tmp_path):
    code = (
        "import os, sys, numpy as np\nfrom pathlib import Path\nfrom headstart.bench.tasks.data import cache\n"
        "def convert(writer):\n    writer.save('images', np.zeros((2, 1), np.uint8))\n    os._exit(9)\n"
        "cache.converted('s', [Path(sys.argv[1])], convert)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(source)], check=False).returncode == 9
    assert cache.converted("s", [source], count_up())["labels"].tolist() == [4, 5, 6]


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("HEADSTART_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / "headstart"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_root().parts[-2:] == (".cache", "headstart")


def test_a_task_from_the_cache_is_the_task_that_was_converted(root, publish, gray):
    for file, content in gray[1].items():
        publish(f"MNIST/raw/{file}", content)
    seen = []
    first = load_task("mnist", root=root, progress=lambda done, count: seen.append((done, count)))
    assert (60, 60) in seen
    count = len(seen)
    again = load_task("mnist", root=root, progress=lambda done, count: seen.append((done, count)))
    assert len(seen) == count
    assert first.fingerprint() == again.fingerprint()
