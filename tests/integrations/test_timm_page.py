"""The lines that the page for users of timm shows."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "with-timm.md"


def test_the_page(timm, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = {"images": torch.randn(8, 3, 32, 32)}
    exec(block, names)
    assert names["report"].changed
    assert "conv1" in capsys.readouterr().out
