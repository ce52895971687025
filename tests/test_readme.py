import csv
import re
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loader = torch.utils.data.DataLoader(torch.rand(64, 3, 32, 32), batch_size=32)
    names = {"loader": loader, "print": lambda *_: None}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    assert names["report"].changed == ["0"]
    assert (tmp_path / "init.safetensors").is_file()


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_table_of_methods_and_tasks_is_that_of_the_trials():
    """Every gain in the table is the mean paired difference of the committed trials."""
    table = README.split("<!-- tables -->")[1].split("<!-- end -->")[0].strip()
    page = (ROOT / "docs" / "results" / "starts.md").read_text()
    assert table in page
    found = {}
    with (ROOT / "docs" / "results" / "starts.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["network"], row["arm"]), {})[row["seed"]] = float(row["test_accuracy"])
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    networks = list(dict.fromkeys(network for network, _ in found))
    gains = 0
    for network, (_, base, *cells) in zip(networks, rows, strict=False):
        default = found[network, "default"]
        assert base == f"{sum(default.values()) / len(default):.1f} %"
        for arm, cell in zip(head[2:], cells, strict=True):
            if (network, arm) in found:
                pairs = [found[network, arm][seed] - default[seed] for seed in default]
                gain = f"{sum(pairs) / len(pairs):+.2f}".replace("-", "\N{MINUS SIGN}")
                assert cell.strip("*").startswith(f"{gain} ("), (network, arm)
                gains += 1
    assert gains == len(found) - len(networks) > 20
