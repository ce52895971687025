import os

import pytest

from headstart.cli.main import main


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.setenv("HEADSTART_DATA_ROOT", "elsewhere")


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "--task", "svhn"],
        ["diagnose", "headstart:prewarm-cnn", "--data", "svhn"],
        ["init", "headstart:prewarm-cnn", "--data", "svhn", "--method", "lsuv", "--out", "o.safetensors"],
    ],
)
def test_data_root_says_where_data_sets_lie(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--data-root", str(tmp_path / "sets")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "its files are not in" in said
    assert "sets" in said
    assert "elsewhere" not in said
    assert os.environ["HEADSTART_DATA_ROOT"] == str(tmp_path / "sets")


def test_download_fetches_before_anything_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []

    def load_task(spec, split_seed, **options):
        asked.append((spec, options))
        raise KeyboardInterrupt

    monkeypatch.setattr("headstart.bench.tasks.loading.load_task", load_task)
    assert main(["compare", "--task", "svhn", "--download", "--out", "runs"]) == 130
    assert asked == [("svhn", {"download": True})]
    assert not (tmp_path / "runs").exists()
