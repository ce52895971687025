import json

import pytest
import torch


def test_weights_alone(result):
    found = result("diagnose", "net.py:build_model")
    assert [r["name"] for r in found["rows"]] == ["0", "2", "6"]
    assert found["rows"][0]["weight_std"] > 0
    assert found["rows"][0]["output_std"] is None
    assert found["findings"] == []


def test_with_data_finds_the_collapse(result):
    found = result("diagnose", "net.py:deep", "--data", "net.py:vectors")
    assert "signals lost" in [f["kind"] for f in found["findings"]]
    assert found["samples"] == 64


def test_tables_and_findings_are_printed(headstart):
    code, out, _ = headstart("diagnose", "net.py:deep", "--data", "net.py:vectors")
    assert code == 0
    assert "Signals are lost from" in out
    assert 'hs.initialize(model, data, "within-layer")' in out
    assert "across samples" in out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_the_terminal_and_lose_no_column(headstart, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = headstart("diagnose", "net.py:build_model", "--data", "net.py:load")
    assert all(len(line) <= width for line in out.splitlines())
    words = out.split()
    for word in ("grad/weight", "sparse", "entropy", "orthogonal", "type", "gain"):
        assert word in words, word


def test_check_turns_findings_into_the_exit_code(headstart):
    assert headstart("diagnose", "net.py:deep", "--data", "net.py:vectors", "--check")[0] == 1
    assert headstart("diagnose", "net.py:build_model", "--check")[0] == 0


def test_a_mended_checkpoint_has_no_finding(headstart, result):
    arguments = ("net.py:deep", "--data", "net.py:vectors")
    result("init", *arguments, "--method", "within-layer", "--out", "mended.safetensors")
    assert result("diagnose", *arguments, "--checkpoint", "mended.safetensors")["findings"] == []


def test_page(folder, headstart):
    code, out, _ = headstart("diagnose", "net.py:deep", "--data", "net.py:vectors", "--html", "d.html")
    assert code == 0
    assert "Wrote 'd.html'." in out
    page = (folder / "d.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "Signals are lost" in page
    assert page.count("<tr>") == 2 + 1 + 2 * 16  # headings, input, layers in both tables
    assert "http" not in page  # nothing is fetched


def test_json_stays_json_where_values_are_not_finite(folder, headstart):
    torch.save({"0.weight": torch.full((8, 8), torch.nan), "0.bias": torch.zeros(8)}, "nan.pt")
    (folder / "one.py").write_text("import torch\ndef build(): return torch.nn.Sequential(torch.nn.Linear(8, 8))\n")
    code, out, _ = headstart("diagnose", "one.py:build", "--data", "net.py:vectors", "--checkpoint", "nan.pt", "--json")
    assert code == 0
    found = json.loads(out, parse_constant=pytest.fail)
    assert found["rows"][0]["output_std"] == "nan"
    assert found["findings"][0]["kind"] == "not finite"


def test_errors_are_one_line(folder, refused):
    assert "does not end in .html" in refused("diagnose", "net.py:build_model", "--html", "d.txt")
    (folder / "dir.html").mkdir()
    assert "'dir.html' is a folder" in refused("diagnose", "net.py:build_model", "--html", "dir.html")
    name = "x" * 300 + ".html"  # longer than a file system takes
    assert f"'{name}' cannot be written: " in refused("diagnose", "net.py:build_model", "--html", name)
    for option in ("--samples", "--resize"):
        assert f"{option} 0 is not positive" in refused(
            "diagnose", "net.py:deep", "--data", "net.py:vectors", option, 0
        )
    line = refused("diagnose", "net.py:build_model", "--data", "net.py:vectors")
    assert "forward failed" in line
