"""What benchmarks/page.py writes from a store holds all that its page shows."""

import numpy as np
import pytest

from headstart.bench import Store, analyse


@pytest.fixture
def store(tmp_path, fill_store, make_result):
    def noisy(mean, seed, **changes):
        draws = np.random.default_rng(seed).normal(mean, 0.3, 8)
        return {i: make_result(float(a), (10.0, float(a) - 5, float(a)), **changes) for i, a in enumerate(draws)}

    tried = [{"values": {"lr": lr}, "accuracies": [80.0, 81.0], "mean": 80.5, "refusal": ""} for lr in (0.1, 0.2)]
    return fill_store(
        Store(tmp_path / "runs"),
        {
            "default": noisy(90, 0),
            "one": noisy(91, 1, init_seconds=0.05),
            "control": noisy(90, 2),
            "no": {i: {"status": "refused", "reason": "no convolution"} for i in range(8)},
        },
        controls={"control": ("equal-steps", "one")},
        changes={"one": [["lr", 0.2]], "control": [["steps", 25]]},
        task={"name": "bands", "description": "b", "classes": 10, "test_images": 500},
        selection={"axes": [], "seeds": 2, "budget": 2, "arms": [{"arm": "one", "tried": tried, "chosen": 1}]},
    )


def test_what_is_read_back_is_what_the_store_shows(page, store, tmp_path):
    from pages import rates, tables, trials

    (tmp_path / "bands-stated.csv").write_text("network,arm,rate,start_steps\n")
    page.write(tmp_path, "bands", {"first": store.folder, "never run": tmp_path / "nowhere"})
    whole, (name, found) = analyse(store), *trials.read(tmp_path, "bands").items()
    assert name == "first"
    for ours, theirs in zip(whole.arms, found.analysis.arms, strict=True):
        assert theirs.comparison == ours.comparison
        assert (theirs.speed, theirs.area_difference) == (ours.speed, ours.area_difference)
        assert (theirs.init_seconds, theirs.init_steps, theirs.refusal) == (
            ours.init_seconds,
            ours.init_steps,
            ours.refusal,
        )
    assert found.analysis.beyond == whole.beyond
    text = "\n".join([tables.facts(found), *tables.arms(found)])
    assert tables.DAGGER not in text
    assert "20 steps of 8, 8 paired seeds, bands; 32 trials with those of the search" in text
    assert "| one | 0.2 |" in text
    assert text.count("0.05 s = 5 steps") == 1
    assert "| no | 0.1 | did not run |" in text
    assert not (tmp_path / "bands-stated.csv").exists()
    assert rates.searched(tmp_path, "bands/first") == ({"one": {0.1: [80.0, 81.0], 0.2: [80.0, 81.0]}}, False)


def test_a_comparison_that_is_not_finished_here_keeps_its_rows(page, store, tmp_path, capsys):
    from pages import trials

    first, second = {"first": store.folder}, {"second": store.folder}
    page.write(tmp_path, "bands", second)
    page.write(tmp_path, "bands", {**first, "second": tmp_path / "nowhere"})
    assert list(trials.read(tmp_path, "bands")) == ["first", "second"]
    next(iter(sorted((store.folder / "trials").glob("*.json")))).unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("bands*")}
    page.write(tmp_path, "bands", {**first, **second})
    assert {path.name: path.read_bytes() for path in tmp_path.glob("bands*")} == before
    assert "first: 1 of 32 trials are missing" in capsys.readouterr().err
