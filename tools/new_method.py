"""Begin a method: ``python tools/new_method.py NAME`` writes its file, test and page, and adds it to the package.

What it writes runs and keeps the contract, and says TODO where your part is. Its test fails until it has an oracle.
"""

from __future__ import annotations

import argparse
import ast
import keyword
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "headstart"
METHODS = PACKAGE / "methods" / "__init__.py"
FRONT = PACKAGE / "__init__.py"
LONGEST = 30

METHOD = '''"""{title}: TODO one line, and the source (TODO authors and year)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headstart.engine.method import Method
from headstart.engine.registry import register
from headstart.engine.visit import Visit


@register(
    "{name}",
    summary="TODO what it writes, in one line",
    reference="TODO authors, year, title",
    scope="all layers",
    needs_data=False,
    cost="TODO forward passes and memory",
    deviations=("TODO what differs from the source, a sentence each.",),
)
@dataclass(frozen=True)
class {cls}(Method):
    """TODO one line.

    The idea: TODO, with the equations.

    Args:
        scale: TODO the standard deviation of the weights, default 0.1.

    Raises:
        HeadstartError: An option is out of range.

    Example:
        >>> import torch, headstart as hs
        >>> hs.initialize(torch.nn.Linear(20, 10), method="{name}", seed=0).changed
        ['']
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        self.check(0 < self.scale < math.inf, f"scale={{self.scale!r}} is not a positive number", "Pass such as 0.1")

    def before(self, visit: Visit) -> None:
        """TODO fill the layer from its input, its weights and its own random streams."""
        visit.write(self.scale * visit.normal(*visit.layer.shape))
'''

TEST = '''"""{title} against TODO an oracle that shares no code with it."""

from __future__ import annotations

import pytest
from torch import nn

import headstart as hs
from headstart.conformance import CHECKS, Check

# The default, by its name, is held to the contract with all others in tests/conformance. Here: what differs from it.
CONFIGURED = [hs.{cls}(scale=0.5)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("method", CONFIGURED, ids=repr)
def test_keeps_the_contract(method: hs.{cls}, check: Check) -> None:
    check(method)


def test_against_an_oracle() -> None:
    layer = nn.Linear(20, 10)
    hs.initialize(layer, method=hs.{cls}(), seed=0)
    pytest.fail(
        "{cls} has no oracle yet. Compute the weights again without the method's code, by a "
        "plain loop, numpy, scikit-learn or the authors' loop run to its end, and compare; then test what the "
        "source promises."
    )


def test_an_option_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(hs.HeadstartError, match="{name}: scale=0 is not a positive number"):
        hs.{cls}(scale=0)
'''

PAGE = """# {title}

TODO what it writes, in one line.

**The idea.** TODO

## Equations

TODO

## Use

```python
hs.initialize(model, images, "{name}")
hs.initialize(model, images, hs.{cls}(scale=0.5))
```

```sh
headstart init net.py:build_model --method {name} --out start.safetensors
```

## Options and source

<!-- registry: {name} -->
<!-- end -->

## What to expect

TODO figures, each with its source.
"""

Key = Callable[[str], tuple[int, str]]


class RefusedError(Exception):
    """The name cannot be taken; nothing was written."""


def kind(name: str) -> int:
    """Constants come first, then classes, then the rest: the order that the linter keeps."""
    return 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2


def imported(name: str) -> tuple[int, str]:
    """Where a name stands in an import."""
    return kind(name), name.lower()


def exported(name: str) -> tuple[int, str]:
    """Where a name stands in ``__all__``."""
    return kind(name), name


def insert(text: str, present: list[tuple[str, int, int]], name: str, line: str, key: Key) -> str:
    """Put a line before the first entry that comes after it.

    Args:
        text: The text of the file.
        present: Sorted entries, with their first and last line, counted from 1.
        name: The name of the new entry.
        line: What to write.
        key: Orders names.
    """
    lines = text.splitlines(keepends=True)
    place = next((first - 1 for other, first, _ in present if key(other) > key(name)), present[-1][2])
    return "".join([*lines[:place], f"{line}\n", *lines[place:]])


def names_in_all(text: str) -> list[tuple[str, int, int]]:
    """The entries of ``__all__``."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [(e.value, e.lineno, e.lineno) for e in node.value.elts]  # type: ignore[attr-defined]
    raise RefusedError("no __all__")


def with_method(text: str, module: str, cls: str) -> str:
    """``methods/__init__.py`` with one more method."""
    text = insert(text, names_in_all(text), cls, f'    "{cls}",', exported)
    own = "headstart.methods."
    imports = [n for n in ast.parse(text).body if isinstance(n, ast.ImportFrom) and (n.module or "").startswith(own)]
    present = [((n.module or "").removeprefix(own), n.lineno, n.end_lineno or n.lineno) for n in imports]
    return insert(text, present, module, f"from {own}{module} import {cls}", lambda name: (0, name))


def with_export(text: str, cls: str) -> str:
    """``headstart/__init__.py`` with one more method."""
    text = insert(text, names_in_all(text), cls, f'    "{cls}",', exported)
    (node,) = (n for n in ast.parse(text).body if isinstance(n, ast.ImportFrom) and n.module == "headstart.methods")
    present = [(alias.name, alias.lineno, alias.lineno) for alias in node.names]
    return insert(text, present, cls, f"    {cls},", imported)


def registered() -> Iterator[str]:
    """The names of all methods, as the sources give them."""
    for path in sorted((PACKAGE / "methods").rglob("*.py")):
        yield from re.findall(r'^@register\(\s*"([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)


def wanted(name: str) -> dict[Path, str]:
    """Every file that a new method takes, with its text.

    Raises:
        RefusedError: The name is no name, or something has it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST:
        shape = f"lower-case words joined by hyphens, {LONGEST} letters at most: my-method"
        raise RefusedError(f"{name!r} is no name for a method. Take {shape}.")
    words = name.split("-")
    module, cls, title = "_".join(words), "".join(w.capitalize() for w in words), " ".join(words).capitalize()
    if keyword.iskeyword(module):
        raise RefusedError(f"{name!r} is a word of Python. Take another name.")
    if name in registered():
        raise RefusedError(f"There is a method {name!r} already. Take another name.")
    front = FRONT.read_text(encoding="utf-8")
    if cls in {entry for entry, _, _ in names_in_all(front)}:
        raise RefusedError(f"headstart.{cls} is taken. Take another name.")
    texts = {
        PACKAGE / "methods" / f"{module}.py": METHOD,
        ROOT / "tests" / "methods" / f"test_{module}.py": TEST,
        ROOT / "docs" / "methods" / f"{module}.md": PAGE,
    }
    for path in [*texts, PACKAGE / "methods" / module]:
        if path.exists():
            raise RefusedError(f"{path.relative_to(ROOT)} exists. Take another name.")
    new = {path: text.format(name=name, cls=cls, title=title) for path, text in texts.items()}
    return {
        **new,
        METHODS: with_method(METHODS.read_text(encoding="utf-8"), module, cls),
        FRONT: with_export(front, cls),
    }


def main() -> int:
    """Write the files, then fill the page and the list of methods from the registry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="as in the registry: lower-case words joined by hyphens")
    try:
        files = wanted(parser.parse_args().name)
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 2
    for path, text in files.items():
        verb = "changed" if path.exists() else "wrote"
        path.write_text(text, encoding="utf-8")
        print(f"{verb} {path.relative_to(ROOT)}")
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, str(ROOT / "tools" / "method_pages.py")]
    if code := subprocess.run(command, env=environment, check=False).returncode:
        return code
    print("Now write what says TODO, and the oracle; then python tools/method_pages.py, and a line in CHANGELOG.md.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
