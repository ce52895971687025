"""Files of weights appear complete or not at all, as readable as any other file."""

import os

import pytest
import torch

from headstart.errors import HeadstartError
from headstart.model import checkpoints
from headstart.results.report import Init
from headstart.results.whole_file import whole_file


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_round_trip_readable_by_others(tmp_path, suffix):
    path, plain = tmp_path / f"a{suffix}", tmp_path / "plain"
    tensors = {"x.weight": torch.randn(3, 2), "x.bias": torch.arange(3)}
    checkpoints.write(path, tensors, {"format": "pt", "note": "n"})
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    found, metadata = checkpoints.read_checkpoint(path)
    state, note = checkpoints.state_dict(found, path)
    assert {k: v.tolist() for k, v in state.items()} == {k: v.tolist() for k, v in tensors.items()}
    assert (metadata.get("note"), note) == ("n" if suffix == ".safetensors" else None, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "plain"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_failed_write_leaves_the_old_file(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a{suffix}"
    checkpoints.write(path, {"x": torch.zeros(2)}, {})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(HeadstartError, match=r"cannot be written: disk full"):
        checkpoints.write(path, {"x": torch.ones(2)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_done_to_find_the_state_dict(tmp_path):
    state, note = checkpoints.state_dict({"model": {"module.a": torch.zeros(1)}, "epoch": 1}, tmp_path)
    assert list(state) == ["a"]
    assert note == " under 'model', without the prefix 'module.'"
    for nothing in ([], {}, {"a": 1}, torch.zeros(2), None):
        with pytest.raises(HeadstartError, match="holds no state_dict"):
            checkpoints.state_dict(nothing, tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with whole_file(path) as part:
            part.write_text("half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_as_readable_as_any_other_whatever_fills_it(tmp_path):
    path, plain = tmp_path / "a.txt", tmp_path / "plain"
    plain.touch()
    with whole_file(path) as part:
        part.unlink()
        part.touch(mode=0o600)
    assert path.stat().st_mode == plain.stat().st_mode


def test_an_initialization_is_saved_whole_or_with_one_error(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    Init({"x": torch.zeros(2)}).save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(HeadstartError, match=r"a\.safetensors' cannot be written: disk full"):
        Init({"x": torch.ones(2)}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(HeadstartError, match=r"'.*no/a' cannot be written: No such file or directory\.$"):
        Init({"x": torch.ones(2)}).save(tmp_path / "no" / "a")
