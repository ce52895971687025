import json
import re

import numpy as np
import pytest

from headstart.bench import Store
from headstart.bench.report.overview import combine
from headstart.bench.report.overview_page import as_dict, markdown, overview_sheet, render, write_overview
from headstart.bench.statistics.verdicts import Verdict
from headstart.cli.main import main
from headstart.errors import HeadstartError

HOSTILE = "<script>alert('x')</script>&\"|$\\frac{1}{0}$ ]]> -->\x07{{ 7*7 }}"


@pytest.fixture
def experiment(tmp_path, fill_store, make_result):
    """Write an experiment: ``{arm: mean}`` or ``{arm: results}``, and a default at 90 %; returns its folder."""

    def write(name, arms, task="digits", model="headstart:cnn", n=8, spread=0.1, **plan):
        def noisy(mean, seed):
            draws = np.random.default_rng(seed).normal(mean, spread, n)
            return {i: make_result(float(a)) for i, a in enumerate(draws)}

        results = {"default": noisy(90, 0)}
        for index, (label, found) in enumerate(arms.items(), 1):
            results[label] = found if isinstance(found, dict) else noisy(found, index)
        plan = {"methods": {label: [f"Method({label})"] for label in arms}, **plan}
        fill_store(
            Store(tmp_path / name),
            results,
            task={"name": task, "description": f"{task}: 10 classes", "classes": 10, "folder": name},
            model={"name": model, "parameters": 5},
            **plan,
        )
        return tmp_path / name

    return write


def test_rows_are_grouped_by_method_in_the_order_of_the_experiments(experiment):
    found = combine([experiment("a", {"one": 93, "two": 90}), experiment("b", {"two": 88}, task="birds")])
    assert [part.title for part in found.parts] == ["1. digits · cnn", "2. birds · cnn"]
    assert [(m.label, [row.part.number for row in m.rows]) for m in found.methods] == [("one", [1]), ("two", [1, 2])]
    assert found.methods[0].overall is None
    assert found.heading() == "one and two in 2 experiments"
    assert [row.comparison.verdict for row in found.methods[1].rows] == [Verdict.NO_CLEAR_DIFFERENCE, Verdict.HURTS]
    assert "“hurts” in 1, “no clear difference” in 1" in found.methods[1].sentence()


def test_many_methods_are_counted_in_the_heading(experiment):
    arms = {f"m{i}": 90 for i in range(5)}
    assert combine([experiment("a", arms), experiment("b", arms, task="t")]).heading() == "5 methods in 2 experiments"


def test_a_few_experiments_have_a_median_and_no_mean(experiment):
    found = combine([experiment("a", {"one": 93}), experiment("b", {"one": 91}, task="birds", n=4)]).methods[0]
    means = [row.comparison.mean for row in found.rows]
    assert found.overall.effects is None
    assert found.overall.median == pytest.approx(np.median(means))
    assert found.sentence().endswith("median +2.0. A statement on other tasks needs five tasks.")


def test_five_experiments_have_a_mean_a_verdict_and_a_range_for_a_new_one(experiment):
    folders = [experiment(f"e{i}", {"one": 92 + i / 2, "two": 90}, task=f"t{i}") for i in range(5)]
    one, two = (method.overall for method in combine(folders).methods)
    assert one.verdict is Verdict.HELPS
    assert one.effects.prediction.low < one.effects.interval.low < one.effects.mean
    assert two.verdict is Verdict.NO_CLEAR_DIFFERENCE
    assert "over 5 tasks: helps, +3.0 on average" in combine(folders).methods[0].sentence()


def test_a_declared_question_is_judged_first_and_the_others_behind_it(experiment):
    """Alone at the full level; the other's p is no less than its own, and no longer doubled."""

    def folders(**plan):
        tag = "".join(plan.values()) or "none"
        means = ({"one": 90.6 + 0.5 * (i % 3), "two": 93 + i / 5} for i in range(5))
        return [experiment(f"{tag}{i}", arms, task=f"t{i}", **plan) for i, arms in enumerate(means)]

    plain, asked = combine(folders()), combine(folders(primary="one"))
    assert [m.label for m in asked.methods] == ["one", "two"]
    one, two = (m.overall for m in asked.methods)
    assert one.adjusted_p == pytest.approx(one.effects.p)
    assert two.adjusted_p == pytest.approx(max(one.effects.p, two.effects.p))
    assert {m.label: m.overall.adjusted_p for m in plain.methods}["one"] >= one.adjusted_p
    assert asked.methods[0].sentence().startswith("The question that was declared: one, 5 experiments")
    assert "one was declared as the question before the experiments ran." in markdown(asked)
    assert "question" not in markdown(plain)
    later = combine([part.folder for part in plain.parts], "two")
    assert [m.label for m in later.methods] == ["two", "one"]
    assert "two was named as the question when this page was made" in later.rules()[-1]
    with pytest.raises(HeadstartError, match="method to judge first"):
        combine([part.folder for part in plain.parts], "three")


def test_without_a_mean_the_others_stand_behind_the_question_on_every_task(experiment):
    folders = [experiment(f"e{i}", {"two": 93, **({"one": 90.0} if i < 2 else {})}, task=f"t{i}") for i in range(5)]
    two = {m.label: m.overall for m in combine(folders, "one").methods}["two"]
    assert two.verdict is Verdict.NOT_SETTLED
    assert two.effects.p < 0.01


def test_p_is_adjusted_over_all_rows_and_verdicts_stay(experiment):
    folders = [experiment(f"e{i}", {"one": 93}, task=f"t{i}") for i in range(10)]
    found = combine(folders)
    rows = found.methods[0].rows
    assert {row.comparison.test.p for row in rows} == {2 / 2**8}
    assert [row.p for row in rows] == pytest.approx([10 * 2 / 2**8] * 10)
    assert {row.comparison.verdict for row in rows} == {Verdict.HELPS}


def test_rows_of_an_experiment_that_never_differ_count_once_over_all_rows(experiment, make_result):
    same = {i: make_result(93 + i / 10) for i in range(8)}
    folders = [experiment("a", {"one": same, "two": 94, "twin": same}), experiment("b", {"one": same}, task="t")]
    found = [row.p for method in combine(folders).methods for row in method.rows]
    assert found == pytest.approx([3 * 2 / 2**8] * 4)


def test_a_method_is_told_apart_by_its_configuration_not_by_its_name(experiment):
    a = experiment("a", {"mine": 93}, methods={"mine": ["PreWarm(fraction=0.5)"]})
    b = experiment("b", {"other": 93}, task="birds", methods={"other": ["PreWarm(fraction=0.5)"]})
    c = experiment("c", {"mine": 93}, task="cars", methods={"mine": ["PreWarm(fraction=0.25)"]})
    found = combine([a, b, c])
    assert [[row.arm.label for row in method.rows] for method in found.methods] == [["mine", "other"], ["mine"]]
    assert len({method.label for method in found.methods}) == 2


def test_a_searched_method_is_one_whatever_was_chosen_and_not_the_one_without_a_search(experiment):
    chosen = {
        "selection": {"axes": [{"name": "lr", "key": "lr", "values": [1, 2]}], "seeds": 1, "budget": 1, "arms": []}
    }
    a = experiment("a", {"one": 93}, methods={"one": ["One(x=1)"]}, **chosen)
    b = experiment("b", {"one": 92}, task="birds", methods={"one": ["One(x=2)"]}, **chosen)
    c = experiment("c", {"one": 91}, task="cars", methods={"one": ["One(x=1)"]})
    found = combine([a, b, c]).methods
    assert [(m.label, [row.part.number for row in m.rows]) for m in found] == [("one (searched)", [1, 2]), ("one", [3])]
    assert "; searched: lr" in markdown(combine([a, b]))
    assert found[0].configurations == ("1. One(x=1)", "2. One(x=2)")


def test_names_are_short_and_told_apart_by_their_folder(experiment):
    folders = [
        experiment("a", {"one": 93}, task="/d/data.py:load"),
        experiment("b", {"one": 93}, task="folder:/d/birds:size=64", model="timm:resnet18"),
        experiment("c", {"two": 93}, task="data.py:load"),
    ]
    names = [part.name for part in combine(folders).parts]
    assert names == ["data.py:load · cnn (a)", "folder:birds:size=64 · timm:resnet18", "data.py:load · cnn (c)"]


def test_a_trial_that_two_folders_hold_counts_once(tmp_path, experiment):
    a = experiment("a", {"one": 93})
    b = experiment("b", {"one": 93, "two": 92})
    found = combine([a, b])
    assert [[row.part.number for row in method.rows] for method in found.methods] == [[1], [2]]
    assert found.notes == (
        "2. digits · cnn (b) and 1. digits · cnn (a) share trials of one, which count only in the latter.",
    )
    with pytest.raises(HeadstartError, match="given 2 times"):
        combine([a, tmp_path / "x" / ".." / "a"])


def test_what_did_not_run_or_is_not_finished_is_said_and_counts_in_no_mean(experiment):
    refused = {i: {"status": "refused", "reason": "no convolution"} for i in range(8)}
    late = dict.fromkeys(range(8))
    folders = [
        experiment("a", {"one": 93}),
        experiment("b", {"one": refused}, task="birds"),
        experiment("c", {"one": late}, task="cars"),
    ]
    found = combine(folders)
    assert [row.state for row in found.methods[0].rows] == ["helps", "did not run", "not finished"]
    assert [row.p for row in found.methods[0].rows] == [found.methods[0].rows[0].comparison.test.p, None, None]
    assert found.methods[0].overall is None
    assert "3. cars · cnn: 8 trials are not finished." in found.notes
    assert "no convolution" in render(found)


def test_a_sequential_experiment_pays_for_its_looks(experiment):
    once = combine([experiment("a", {"one": 93})]).methods[0].rows[0].p
    often = combine([experiment("b", {"one": 93}, task="birds", looks=4, alpha=0.0125)]).methods[0].rows[0].p
    assert often == pytest.approx(4 * once)


def test_the_page_shows_every_row_and_asks_for_nothing(experiment, tmp_path):
    folders = [experiment("a", {"one": 93, HOSTILE: 90}), experiment("b", {"one": 91}, task=HOSTILE, margin=1.5)]
    found = combine(folders)
    html = render(found)
    assert html == render(combine(folders))
    assert "<script" not in html.lower()
    assert "\x07" not in html
    assert "{{ 7*7 }}" in html
    assert html.count('role="img"') == 2  # the forest and the profile
    assert html.count('class="under"') == 4  # three rows and a mean
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert str(tmp_path) not in html
    figure = re.search(r"<svg role.*?</svg>", html, flags=re.DOTALL)[0]
    assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", figure)) == set()
    assert "var(--good)" in figure


def test_the_markdown_twin_is_inert_and_whole(experiment):
    found = combine([experiment("a", {"one": 93, HOSTILE: 90}), experiment("b", {"one": 91}, task=HOSTILE)])
    text = markdown(found)
    assert "<script" not in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {len(overview_sheet(found).columns) + 1}
    assert len(table) == 1 + 2 + 3 + 1  # its head, two methods, three rows and a mean
    assert "a mean would say nothing about other experiments" in text


def test_plain_data_is_json_and_holds_each_experiment(experiment):
    found = combine([experiment("a", {"one": 93}), experiment("b", {"one": 91}, task="birds", n=3)])
    data = json.loads(json.dumps(as_dict(found), allow_nan=False))
    assert [e["name"] for e in data["experiments"]] == ["digits · cnn", "birds · cnn"]
    assert data["methods"][0]["overall"]["difference"] is None
    assert data["methods"][0]["overall"]["wins"] == 2
    assert data["methods"][0]["rows"][1]["experiment"] == 2
    assert data["experiments"][1]["arms"][1]["comparison"]["seeds"] == 3


def test_experiments_without_methods_have_a_page(experiment):
    found = combine([experiment("a", {}), experiment("b", {}, task="birds")])
    assert found.heading() == "No method in 2 experiments"
    assert "No experiment has a method under test." in render(found)


def test_pages_are_written_where_they_are_asked_for(experiment, tmp_path):
    page = write_overview(
        combine([experiment("a", {"one": 93}), experiment("b", {"one": 91}, task="t")]), tmp_path / "new"
    )
    assert page == tmp_path / "new" / "overview.html"
    assert (tmp_path / "new" / "overview.md").read_text().startswith("# one in 2 experiments")


def test_one_experiment_takes_no_question_afterwards(experiment, capsys):
    assert main(["report", str(experiment("a", {"one": 90})), "--primary", "one"]) == 2
    assert "--primary is for several experiments" in capsys.readouterr().err


def test_report_of_several_folders(experiment, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [str(experiment("a", {"one": 93})), str(experiment("b", {"one": 91}, task="birds"))]
    assert main(["report", *folders]) == 0
    out = capsys.readouterr().out
    assert "one in 2 experiments" in out
    assert "2. birds · cnn" in out
    assert (tmp_path / "runs" / "overview" / "overview.html").is_file()
    assert main(["report", *folders, "--out", "here", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["page"] == "here/overview.html"
    assert main(["report", folders[0], "--out", "there"]) == 0
    assert (tmp_path / "there" / "report.html").is_file()
    assert main(["report", folders[0], folders[0]]) == 2
    assert "Name each experiment once" in " ".join(capsys.readouterr().err.split())
