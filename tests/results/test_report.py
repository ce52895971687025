"""Reports and saved initializations."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import headstart as hs
from headstart.results.report import Row


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


@pytest.fixture
def report(model):
    return hs.initialize(model, randn(20, 1, 8, 8), "within-layer", seed=7, exclude="3")


def test_to_dict_is_strict_json(model, report):
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["seed"] == 7
    assert [r["name"] for r in data["rows"]] == ["0", "3"]
    assert data["rows"][0]["output_std"] == pytest.approx(1, abs=1e-3)
    one = hs.initialize(nn.Linear(4, 2), randn(1, 4), "kaiming")
    assert json.loads(json.dumps(one.to_dict(), allow_nan=False))["rows"][0]["across_sample_std"] is None


def test_rows_by_name(report):
    assert report.row("3").notes == ["excluded"]
    with pytest.raises(KeyError):
        report.row("4")
    assert report.changed == ["0"]


def test_text_shows_every_layer_and_finding(report):
    text = str(report)
    for word in ("within-layer", "Conv2d", "Linear", "excluded", "4×1×3×3"):
        assert word in text
    report.findings.append("[bold]not markup[/bold]")
    assert "[bold]not markup[/bold]" in str(report)


def test_html_escapes_every_name(report):
    report.rows[0].name = "<script>alert(1)</script>"
    report.findings.append("<img src=x>")
    report.title = "<b>"
    html = report.to_html()
    assert html == report._repr_html_()
    assert "<script>" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


def test_filters_before_and_after(model):
    before = model[0].weight.detach().clone()
    report = hs.initialize(model, randn(20, 1, 8, 8), "kaiming", seed=1)
    old, new = report.filters
    assert torch.equal(old, before)
    assert torch.equal(new, model[0].weight)
    model[0].weight.data.zero_()
    assert new.abs().sum() > 0, "the report holds copies"
    with pytest.raises(hs.HeadstartError, match="no filters to plot"):
        hs.initialize(nn.Linear(2, 2), method="kaiming").plot_filters()


class TestFile:
    def test_a_round_trip_keeps_values_dtypes_and_provenance(self, model, tmp_path):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            init = hs.compute(model.to(dtype), randn(20, 1, 8, 8), "within-layer", seed=3)
            init.save(tmp_path / "x.safetensors")
            loaded = hs.Init.load(tmp_path / "x.safetensors")
            assert loaded.provenance == init.provenance
            assert loaded.provenance["seed"] == 3
            assert loaded.provenance["methods"] == [repr(hs.WithinLayer())]
            assert {k: v.dtype for k, v in loaded.tensors.items()} == dict.fromkeys(init.tensors, dtype)
            assert all(torch.equal(v, init.tensors[k]) for k, v in loaded.tensors.items())

    def test_channels_last_and_tied_weights_can_be_saved(self, tmp_path):
        model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)).to(memory_format=torch.channels_last)
        model[1].weight = model[0].weight
        init = hs.compute(model, method="kaiming")
        init.save(tmp_path / "x.safetensors")
        hs.apply(model, hs.Init.load(str(tmp_path / "x.safetensors")))
        assert torch.equal(model[1].weight, init.tensors["0.weight"])

    def test_the_fingerprint_tells_data_apart(self, model):
        prints = [
            hs.compute(model, x, "lsuv").provenance["data"]
            for x in (randn(20, 1, 8, 8), randn(20, 1, 8, 8), randn(20, 1, 8, 8) * 2)
        ]
        assert prints[0] == prints[1] != prints[2]
        assert hs.compute(model, method="kaiming").provenance["data"] is None

    def test_what_is_no_initialization_is_told(self, model, tmp_path):
        path = tmp_path / "x.safetensors"
        with pytest.raises(hs.HeadstartError, match="no file"):
            hs.Init.load(path)
        path.write_bytes(b"not safetensors at all")
        with pytest.raises(hs.HeadstartError, match="cannot be read"):
            hs.Init.load(path)
        save_file({"a": torch.zeros(1)}, path)
        with pytest.raises(hs.HeadstartError, match=r"not an initialization.*load_state_dict"):
            hs.Init.load(path)
        hs.compute(model, method="kaiming").save(path)
        view = path.read_bytes()
        for size in (4, 100, len(view) - 10):
            path.write_bytes(view[:size])
            with pytest.raises(hs.HeadstartError, match="cannot be read"):
                hs.Init.load(path)
        save_file({"a": torch.zeros(1)}, path, metadata={"format": "headstart-init-1", "provenance": "{"})
        with pytest.raises(hs.HeadstartError, match="cannot be read"):
            hs.Init.load(path)


def test_every_field_of_a_row_is_set_by_a_call(report):
    optional = [field for field in dataclasses.fields(Row) if field.default is not dataclasses.MISSING]
    optional += [field for field in dataclasses.fields(Row) if field.default_factory is not dataclasses.MISSING]
    assert len(optional) == 9
    for field in optional:
        assert any(getattr(row, field.name) not in (field.default, []) for row in report.rows), field.name
