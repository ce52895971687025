"""Time series that aeon ships, through the real package."""

import pytest

from headstart.bench import load_task
from headstart.cli.main import main
from headstart.errors import UnknownNameError

pytest.importorskip("aeon", reason="aeon is not installed: make test-host-aeon, or the extra 'series'")

SETS = {
    "BasicMotions": "4 classes, 6×100, 56 train / 8 validation / 16 test",
    "ItalyPowerDemand": "2 classes, 1×24, 767 train / 110 validation / 219 test",
    "JapaneseVowels": "9 classes, 12×25, 448 train / 63 validation / 129 test",  # in the form with equal lengths
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_that_aeon_ships_is_a_task_of_signals(name):
    assert load_task(f"series:{name}").describe() == f"series:{name}: {SETS[name]}"


def test_a_set_that_aeon_does_not_ship_is_not_downloaded():
    with pytest.raises(UnknownNameError, match=r"no time series that aeon ships: 'ECG200'.*Known: .*GunPoint"):
        load_task("series:ECG200")


def test_starts_are_compared_on_time_series(tmp_path, capsys):
    how = ["--steps", "12", "--batch-size", "16", "--seeds", "2", "--exploratory", "--no-controls", "--quiet"]
    command = ["compare", "--task", "series:BasicMotions", "--model", "headstart:signal-cnn:width=8", "--arms", "lsuv"]
    assert main([*command, *how, "--out", str(tmp_path / "runs")]) == 0
    assert "lsuv" in capsys.readouterr().out
