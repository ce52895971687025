"""Progress is told to whoever listens, drawn on a terminal after a while, and otherwise nothing."""

import sys

import torch

import headstart as hs
from headstart import progress


def test_a_start_by_training_tells_epoch_by_epoch():
    seen = []
    x = torch.randn(60, 4)
    with progress.report_progress_to(lambda *said: seen.append(said)):
        hs.initialize(
            torch.nn.Linear(4, 2), (x, (x[:, 0] > 0).long()), hs.SmartInit(fractions=(0.2, 0.5), epochs=2, batch_size=8)
        )
    first, second = ([said for said in seen if f"stage {n} of 2" in said[0]] for n in (1, 2))
    assert [(done, total) for _, done, total in first] == [(0, 2), (0, 2), (1, 2), (2, 2)]
    assert len(second) == 4


def test_nothing_is_drawn_where_there_is_no_terminal(capsys):
    with progress.progress_reporter() as tell:
        tell("epochs", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_drawn_on_a_terminal_if_it_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.progress_reporter() as tell:
        tell("epochs", 1, 2)
    assert "epochs" not in capsys.readouterr().err
    monkeypatch.setattr(progress, "_SOON", -1.0)
    with progress.progress_reporter() as tell:
        tell("epochs", 1, 2)
    assert "epochs" in capsys.readouterr().err
