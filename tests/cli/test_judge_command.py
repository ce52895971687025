import json

import pytest

from headstart.cli.main import main

ROWS = [(arm, s, 90 + s % 3 + gain + s * gain / 50) for arm, gain in (("sgd", 0), ("adam", 2)) for s in range(8)]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("arm,seed,score\n" + "".join(f"{arm},{s},{score}\n" for arm, s, score in ROWS))
    return path


def test_verdicts_on_the_terminal_and_as_files(table, tmp_path, capsys):
    page, text = tmp_path / "v.html", tmp_path / "v.md"
    assert main(["judge", str(table), "--out", str(page), str(text)]) == 0
    out = capsys.readouterr().out
    assert "adam helps against sgd" in " ".join(out.split())
    assert "| adam | 8 |" in text.read_text()
    html = page.read_text()
    assert "<details><summary>How it was decided</summary>" in html
    assert "<script" not in html


def test_json_is_the_dictionary(table, capsys):
    assert main(["judge", str(table), "--json", "--baseline", "adam", "--margin", "0.2", "--primary", "sgd"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(row["arm"], row["verdict"]) for row in data["arms"]] == [("sgd", "hurts")]
    assert (data["margin"], data["files"]) == (0.2, [])


def test_losses_are_better_below(table, capsys):
    assert main(["judge", str(table), "--lower-is-better", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arms"][0]["verdict"] == "hurts"


@pytest.mark.parametrize(
    ("more", "message"), [(["--out", "x.pdf"], "neither .html nor .md"), (["--baseline", "x"], "no arm")]
)
def test_what_cannot_be_is_explained(table, capsys, more, message):
    assert main(["judge", str(table), *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
