"""Tables and status: what they say is what the store holds, finished or not."""

from __future__ import annotations

import csv
import io
import json
import os
import sys

import pytest

from headstart.bench import Arm, Store, run
from headstart.bench.runs.executors.base import Silent
from headstart.bench.store import export
from headstart.bench.store.claims import LIMIT, Claims
from headstart.bench.store.status import status
from headstart.bench.store.store import Record
from headstart.cli.main import main
from headstart.errors import HeadstartError, MissingExtraError


@pytest.fixture
def finished(make_experiment, store):
    """A store of six finished trials."""
    run(make_experiment(), store)
    return store


def cells(store):
    return store.read_experiment()["trials"]


class Peek(Silent):
    """Looks at the status while trials are at work."""

    def __init__(self, store):
        self.store = store
        self.seen = []

    def working(self, trials):
        self.seen.append(status(self.store))


def test_a_row_per_trial_says_what_is_stored(finished):
    rows = export.trials(finished)
    assert [(row["arm"], row["seed"], row["key"]) for row in rows] == [
        (cell["arm"], cell["seed"], cell["key"]) for cell in cells(finished)
    ]
    for row in rows:
        result = finished.get(row["key"]).result
        assert tuple(row) == export.TRIALS
        assert row["test_accuracy"] == result["test_accuracy"]
        assert row["status"] == "done"
    assert [row["control"] for row in rows[:3]] == [None, None, "null"]


def test_a_row_per_point_of_a_curve(finished):
    rows = export.curves(finished)
    assert len(rows) == sum(len(finished.get(cell["key"]).result["curve"]) for cell in cells(finished)) == 24
    assert tuple(rows[0]) == export.CURVES
    assert [row["step"] for row in rows[:4]] == [0, 2, 4, 6]
    assert rows[0]["train_loss"] is None


def test_csv_reads_back_to_the_same_numbers(finished):
    rows = export.trials(finished)
    back = list(csv.DictReader(io.StringIO(export.to_csv(rows, export.TRIALS))))
    assert len(back) == len(rows) == 6
    for row, text in zip(rows, back, strict=True):
        assert float(text["test_loss"]) == row["test_loss"]
        assert int(text["seed"]) == row["seed"]
        assert text["reason"] == ""


def test_hostile_names_stay_in_their_cell(make_experiment, store):
    label = 'a,"b"\n<script>; d'
    run(make_experiment(arms=(Arm("default"), Arm(label, "lsuv")), seeds=(0,)), store)
    back = list(csv.DictReader(io.StringIO(export.to_csv(export.trials(store), export.TRIALS))))
    assert [row["arm"] for row in back] == ["default", label]


@pytest.mark.parametrize("command", ["status", "report", "export"])
def test_an_experiment_of_another_version_is_refused_by_every_reader(store, capsys, command):
    store.write_experiment({"format": "headstart-experiment-99"})
    assert main([command, str(store.folder)]) == 2
    assert "of format 'headstart-experiment-99'" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_name_from_a_path_that_is_not_utf_8_can_be_written(make_experiment, store, tmp_path, suffix):
    run(make_experiment(arms=(Arm("default"), Arm("caf\udce9", "lsuv")), seeds=(0,)), store)
    rows = export.trials(store)
    assert [row["arm"] for row in rows] == ["default", "caf?"]
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="the extra export is not installed")
    assert export.save(rows, export.TRIALS, tmp_path / f"table.{suffix}").stat().st_size > 0


@pytest.mark.parametrize("curves", [False, True])
def test_parquet_reads_back_to_the_same_rows(finished, tmp_path, curves):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra export is not installed")
    rows, columns = (export.curves(finished), export.CURVES) if curves else (export.trials(finished), export.TRIALS)
    path = export.save(rows, columns, tmp_path / "table.parquet")
    table = parquet.read_table(path)
    assert table.to_pylist() == rows
    assert [str(table.schema.field(name).type) for name in ("arm", "seed")] == ["string", "int64"]


def test_parquet_without_its_package_names_the_extra(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"headstart\[export\]"):
        export.save(export.trials(finished), export.TRIALS, tmp_path / "table.parquet")
    assert list(tmp_path.glob("table*")) == []


def test_a_file_that_is_there_stays_unless_forced(finished, tmp_path, capsys):
    path = tmp_path / "trials.csv"
    assert main(["export", str(finished.folder), "--out", str(path)]) == 0
    assert "Wrote 6 rows" in capsys.readouterr().out
    path.write_text("mine")
    assert main(["export", str(finished.folder), "--out", str(path)]) == 2
    assert "exists" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["export", str(finished.folder), "--out", str(path), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 6
    assert len(path.read_text().splitlines()) == 7


def test_export_to_standard_output(finished, capsys):
    assert main(["export", str(finished.folder), "--curves"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 25
    assert main(["export", str(finished.folder), "--json"]) == 0
    assert [row["seed"] for row in json.loads(capsys.readouterr().out)] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", ["trials.txt", "trials"])
def test_another_ending_is_refused(finished, tmp_path, name):
    with pytest.raises(HeadstartError, match=r"neither \.csv nor \.parquet"):
        export.save([], export.TRIALS, tmp_path / name)


def test_a_table_that_cannot_be_written_says_so(finished, tmp_path):
    with pytest.raises(HeadstartError, match="could not be written"):
        export.save([], export.TRIALS, tmp_path / "nowhere" / "trials.csv")


def test_status_counts_what_is_there(finished):
    found = status(finished)
    assert (found.total, found.done, found.missing, found.refused) == (6, 6, 0, 0)
    assert found.eta == 0
    assert found.trial_seconds > 0
    assert [(arm.label, arm.done) for arm in found.arms] == [("default", (0, 1)), ("prewarm", (0, 1)), ("null", (0, 1))]


def test_trials_that_two_arms_share_count_once(make_experiment, store):
    longer = (("steps", 7),)
    controls = [Arm(f"longer {of}", control="equal-steps", of=of, changes=longer) for of in ("a", "b")]
    run(make_experiment(arms=(Arm("default"), Arm("a", "prewarm"), Arm("b", "lsuv"), *controls)), store)
    found = status(store)
    assert (found.total, found.done, found.missing) == (8, 8, 0)
    assert [arm.done for arm in found.arms] == [(0, 1)] * 5
    assert [(row["arm"], row["changes"]) for row in export.trials(store)][-3:] == [
        ("b", None),
        ("longer a", "steps=7"),
        ("longer b", "steps=7"),
    ]


def test_status_works_while_a_run_goes_on(make_experiment, store):
    peek = Peek(store)
    run(make_experiment(), store, peek)
    done = [found.done for found in peek.seen]
    assert done[0] == 0
    assert done == sorted(done)
    assert [(trial.arm, trial.seed) for trial in peek.seen[0].running] == [("default", 0)]
    assert peek.seen[0].eta is None
    assert status(store).running == ()


def test_missing_damaged_and_refused_are_told_apart(finished):
    keys = {(cell["arm"], cell["seed"]): cell["key"] for cell in cells(finished)}
    (finished.trials / f"{keys['default', 0]}.json").unlink()
    victim = finished.trials / f"{keys['null', 1]}.json"
    victim.write_bytes(victim.read_bytes()[:-30])
    path = finished.trials / f"{keys['prewarm', 1]}.json"
    record = finished.get(keys["prewarm", 1])
    path.unlink()
    finished.put(Record(record.determinants, {"status": "refused", "reason": "no"}))
    found = status(finished)
    assert (found.done, found.missing, found.refused) == (3, 2, 1)
    assert [arm.missing for arm in found.arms] == [(0,), (), (1,)]
    assert found.arms[1].refused == (1,)
    assert [damage.file for damage in found.damaged] == [victim.name]
    rows = {(row["arm"], row["seed"]): row for row in export.trials(finished)}
    assert len(rows) == 4
    assert rows["prewarm", 1]["reason"] == "no"
    assert rows["prewarm", 1]["test_accuracy"] is None


def test_the_time_to_go_follows_the_pace_without_breaks(finished):
    keys = [cell["key"] for cell in cells(finished)]
    (finished.trials / f"{keys[5]}.json").unlink()
    for key, at in zip(keys, (0, 20, 40, 100_000, 100_020), strict=False):
        os.utime(finished.trials / f"{key}.json", (at, at))
    assert status(finished).eta == pytest.approx(20)


def test_an_abandoned_claim_is_not_running(finished):
    key = cells(finished)[0]["key"]
    (finished.trials / f"{key}.json").unlink()
    with Claims(finished.claims) as claims:
        claims.take(key)
        assert [trial.seed for trial in status(finished).running] == [0]
        path = finished.claims / f"{key}.json"
        old = path.stat().st_mtime - 2 * LIMIT
        os.utime(path, (old, old))
        assert status(finished).running == ()
        path.write_text("{")
        assert status(finished).running == ()


def test_the_status_command(finished, capsys):
    keys = [cell["key"] for cell in cells(finished)]
    (finished.trials / f"{keys[5]}.json").unlink()
    (finished.trials / "notes.txt").write_text("")
    before = sorted(finished.folder.rglob("*"))
    assert main(["status", str(finished.folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "5 of 6 trials done, 0 running, 1 missing. About" in out
    assert "notes.txt does not have the name of a trial" in out
    assert main(["status", str(finished.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arms"][2]["missing"] == [1]
    assert sorted(finished.folder.rglob("*")) == before


@pytest.mark.parametrize("command", ["status", "export"])
def test_no_folder_is_code_2(tmp_path, capsys, command):
    assert main([command, str(tmp_path / "nowhere")]) == 2
    assert "no experiment in" in capsys.readouterr().err
    assert Store(tmp_path / "nowhere").damaged() == []
