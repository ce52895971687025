"""The page of the judgement says of finished cells what their trials say, and waits for the others."""

import pytest

from headstart.bench import Store

GAINS = {"one": 2.0, "two": 1.0, "three": -1.0}


@pytest.fixture
def stores(tmp_path, fill_store, make_result):
    """Cells in which the default ends at 50 % after 20 steps, and auto is ahead by the gain in each of 8 seeds."""

    def end(accuracy):
        return make_result(accuracy, (10.0, accuracy - 20, accuracy))

    return {
        name: fill_store(
            Store(tmp_path / name),
            {
                "default": {seed: end(50.0 + 0.1 * seed) for seed in range(8)},
                "auto": {seed: end(50.0 + 0.1 * seed + gain) for seed in range(8)},
            },
            task={"name": name, "description": name, "classes": 10, "test_images": 1000},
        ).folder
        for name, gain in GAINS.items()
    }


def test_the_page_waits_for_all_cells_and_then_judges_the_goals(page, stores, tmp_path, monkeypatch):
    from evidence import cells
    from pages import judged

    listed = [type("Cell", (), {"name": name}) for name in GAINS]
    monkeypatch.setattr(cells, "CORE", listed)
    assert judged.page(tmp_path)["cells"] == ["No judged trial was run yet."]
    page.write(tmp_path, judged.STEM, {name: stores[name] for name in ("one", "two")})
    begun = judged.page(tmp_path)
    assert "Not run yet: `three`." in begun["cells"]
    assert begun["goals"] == ["The goals are judged once all cells are there."]
    page.write(tmp_path, judged.STEM, {"three": stores["three"]})
    made = judged.page(tmp_path)
    first = next(line for line in made["cells"] if "`one`" in line)
    assert "| 50.4 | +2.00 (+2.00 to +2.00) | 8/8 | 0.0078 |" in first
    assert "| median of the cells' means | +1.00 |" in made["over-cells"]
    assert "| cells ahead / behind | 2 / 1 |" in made["over-cells"]
    goals = {line.split(" | ")[0]: line for line in made["goals"]}
    assert goals["| points on the median cell"].endswith("| +1.00 | yes |")
    assert goals["| cells whose whole interval lies below −0.30"].endswith("| none | 1 | no |")
    # Straight from about 30 to 50 % in the second half; auto of cell two is one point ahead: 97.5 %.
    assert goals["| steps to the default's end, median cell"].endswith("| 98 % | no |")


def test_steps_are_a_share_of_those_that_the_default_takes_itself(page, stores, tmp_path):
    from pages import judged, trials

    page.write(tmp_path, judged.STEM, {name: stores[name] for name in ("one", "three")})
    found = trials.read(tmp_path, judged.STEM)
    assert judged.steps_share(found["one"]) == pytest.approx(100 * 19 / 20)  # from 32.4 to 52.4 %; 50.4 is the target
    assert judged.steps_share(found["three"]) is None
