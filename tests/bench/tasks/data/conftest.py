import hashlib
import struct

import numpy as np
import pytest

from headstart.bench.tasks.data import files


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HEADSTART_DATA_ROOT", raising=False)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "sets").mkdir()
    return tmp_path / "sets"


@pytest.fixture
def publish(root, monkeypatch):
    """Write a file and declare its checksum the published one."""

    def write(name, content, published=None):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        monkeypatch.setitem(files.MD5, published or name, hashlib.md5(content).hexdigest())
        return path

    return write


def idx_bytes(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def gray():
    """Small gray images and labels by part, and their IDX files' contents by name."""
    rng = np.random.default_rng(0)
    arrays, contents = {}, {}
    for part, stem, count in (("train", "train", 60), ("test", "t10k", 20)):
        images, labels = rng.integers(0, 256, (count, 5, 4), np.uint8), (np.arange(count) % 10).astype(np.uint8)
        arrays[part] = images, labels
        contents[f"{stem}-images-idx3-ubyte"] = idx_bytes(images)
        contents[f"{stem}-labels-idx1-ubyte"] = idx_bytes(labels)
    return arrays, contents
