"""A user's file with a model and data, and a way to run the command line in it."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest

from headstart.cli.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with ``net.py`` (models and data) and ``images.npy``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "net.py").write_text(
        textwrap.dedent(
            """
            import torch
            from torch import nn

            def build_model(in_channels=1, classes=3, width=8):
                return nn.Sequential(
                    nn.Conv2d(in_channels, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
                )

            def lazy():
                return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))

            def tied():
                model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
                model[2].weight = model[0].weight
                return model

            def needs_depth(depth):
                return nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))

            def deep():
                return nn.Sequential(*(m for i in range(16) for m in (nn.Linear(8, 8), nn.ReLU())))

            def leaves():
                raise SystemExit(3)

            def not_a_model():
                return 3

            def load():
                g = torch.Generator().manual_seed(0)
                return torch.randn(96, 1, 10, 10, generator=g), torch.arange(96) % 3

            def loader():
                return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*load()), batch_size=32)

            def vectors(seed):
                return torch.randn(64, 8, generator=torch.Generator().manual_seed(seed))
            """
        )
    )
    images = np.random.default_rng(0).integers(0, 256, (80, 10, 10), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    return tmp_path


@pytest.fixture
def headstart(folder, capsys):
    """Run a command; give its exit code, output and errors."""

    def call(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def result(headstart):
    """Run a command that succeeds, with ``--json``; give what it printed."""

    def call(*arguments):
        code, out, err = headstart(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def refused(headstart):
    """Run a command that fails; give its one line."""

    def call(*arguments):
        code, out, err = headstart(*arguments)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert "Traceback" not in err
        return err

    return call
