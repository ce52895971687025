"""Methods of installed packages: found by their entry points, loaded once, never in the way of the others."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.cli.main import main
from headstart.engine import registry
from headstart.engine.plugins import Plugins

METHOD = """
from dataclasses import dataclass

import torch
import headstart as hs


@hs.register({name!r}, summary="all {value}", reference="", scope="all layers", needs_data=False, cost="")
@dataclass(frozen=True)
class Filled(hs.Method):
    value: float = {value}

    def before(self, visit):
        visit.write(torch.full(visit.layer.shape, self.value))
"""


def method(name, value=0.5):
    return METHOD.format(name=name, value=value)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(package, entries, **modules)`` puts a package on the path; what was read is forgotten."""
    own = dict(registry._METHODS)
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        monkeypatch.syspath_prepend(tmp_path / folder)
    packages = set()

    def put(package, entries, folder="one", **modules):
        place = tmp_path / folder
        packages.add(package)
        (place / package).mkdir()
        (place / package / "__init__.py").touch()
        for name, code in modules.items():
            (place / package / f"{name}.py").write_text(dedent(code))
        info = place / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[headstart.methods]\n" + entries)
        forget()
        return place

    def forget():
        monkeypatch.setattr(registry, "_METHODS", dict(own))
        monkeypatch.setattr(registry, "_PLUGINS", Plugins())
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]

    yield put
    forget()


def test_a_method_of_a_package_works_by_its_name(install):
    install("my_package", "filled = my_package.filled\n", filled=method("filled"))
    model = nn.Linear(3, 2)
    assert hs.initialize(model, method="filled:value=2").changed == [""]
    assert model.weight.tolist() == [[2.0] * 3] * 2
    assert "filled" in hs.list_methods()
    assert registry.plugin_problems() == []


def test_an_entry_may_name_the_class(install):
    install("my_package", "filled = my_package.filled:Filled\n", filled=method("filled"))
    assert hs.describe("filled").startswith("filled: all 0.5")


def test_it_is_imported_when_it_is_asked_for_and_not_before(install):
    install("my_package", "filled = my_package.filled\n", filled=method("filled"))
    hs.initialize(nn.Linear(3, 2), method="orthogonal")
    assert "my_package" not in sys.modules
    hs.list_methods()
    assert "my_package.filled" in sys.modules


def test_it_is_imported_once(install):
    install("my_package", "filled = my_package.filled\n", filled=method("filled") + "print('imported')\n")
    hs.list_methods()
    del sys.modules["my_package.filled"]
    hs.list_methods()
    with pytest.raises(hs.UnknownNameError):
        registry.get("unheard")
    assert "my_package.filled" not in sys.modules


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'."),
        ("raise ValueError('two\\nlines')", "ValueError: two lines."),
        ("raise SystemExit", "SystemExit."),
        ("import warnings; warnings.warn('old')", "UserWarning: old."),  # where warnings are errors
        (method("prewarm"), "HeadstartError: The method name 'prewarm' is taken by PreWarm."),
        (method("half") + "1 / 0", "ZeroDivisionError: division by zero."),
    ],
)
def test_one_that_fails_is_named_and_stands_in_nobodys_way(install, code, told):
    install("broken", "bad = broken.bad\n", bad=code)
    install("my_package", "filled = my_package.filled\n", "other", filled=method("filled"))
    assert "filled" in hs.list_methods()
    assert registry.get("prewarm") is hs.PreWarm
    with pytest.raises(hs.UnknownNameError) as caught:
        hs.initialize(nn.Linear(3, 2), method="half")
    problem = f"The plug-in 'bad' (broken 1.0: broken.bad) could not be loaded: {told}"
    assert caught.value.message == f"There is no method 'half'. {problem}"
    assert registry.plugin_problems() == [problem]


def test_an_entry_that_names_nothing_is_told(install):
    install("my_package", "wrong = my_package.filled\nnone = my_package.nothing\n", filled=method("filled"))
    assert "filled" in hs.list_methods()
    assert registry.plugin_problems() == [
        "The plug-in 'none' (my_package 1.0: my_package.nothing) could not be loaded: "
        "ModuleNotFoundError: No module named 'my_package.nothing'.",
        "The plug-in 'wrong' (my_package 1.0: my_package.filled) registers no method of that name.",
    ]


@pytest.mark.parametrize("first", ["one", "other"])
def test_of_two_with_one_name_the_same_wins_wherever_they_are_installed(install, first):
    second = {"one": "other", "other": "one"}[first]
    install("apple", "filled = apple.filled\n", first, filled=method("filled", 1.0))
    install("berry", "filled = berry.filled\n", second, filled=method("filled", 2.0))
    assert registry.parse("filled")[0].value == 1.0
    (problem,) = registry.plugin_problems()
    assert problem.startswith(
        "The plug-in 'filled' (berry 1.0: berry.filled) could not be loaded: HeadstartError: The "
    )


def test_metadata_that_cannot_be_read_is_told(install):
    install("my_package", "no line of an entry\n")
    assert "prewarm" in hs.list_methods()
    (problem,) = registry.plugin_problems()
    assert problem.startswith("The list of plug-ins could not be read: ")


def test_a_plugin_may_ask_the_registry_while_it_is_imported(install):
    code = "import headstart as hs\nknown = hs.list_methods()\n"
    install("my_package", "filled = my_package.filled\n", filled=code + method("filled"))
    assert "filled" in hs.list_methods()
    assert "prewarm" in sys.modules["my_package.filled"].known


def test_random_states_stay_as_they_were(install):
    code = "import random, torch\ntorch.manual_seed(0)\nrandom.seed(0)\n"
    install("my_package", "filled = my_package.filled\n", filled=code + method("filled"))
    before = torch.get_rng_state(), random.getstate()
    hs.list_methods()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_an_interrupt_goes_through_and_the_next_call_begins_again(install):
    install("my_package", "filled = my_package.filled\n", filled="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        hs.list_methods()
    with pytest.raises(KeyboardInterrupt):
        hs.list_methods()


def test_other_threads_wait_for_the_whole_list(install):
    code = "import time\ntime.sleep(0.3)\n"
    install("my_package", "filled = my_package.filled\n", filled=code + method("filled"))
    found = []
    threads = [threading.Thread(target=lambda: found.append("filled" in hs.list_methods())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_the_list_of_the_command_line_says_what_could_not_be_loaded(install, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    install("broken", "bad = broken.bad\n", bad="1 / 0")
    assert main(["methods"]) == 0
    assert "! The plug-in 'bad' (broken 1.0: broken.bad) could not be loaded: ZeroDiv" in capsys.readouterr().out


def test_a_fresh_process_knows_it_too(install):
    """Commands and worker processes import nothing but the package: the entry point is all that they need."""
    place = install("my_package", "filled = my_package.filled\n", filled=method("filled"))
    source = str(Path(hs.__file__).parents[1])
    code = (
        "import sys, headstart as hs\n"
        "assert 'my_package' not in sys.modules\n"
        "print(hs.describe('filled').splitlines()[0])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, str(place)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.stderr, done.stdout) == ("", "filled: all 0.5\n")


def test_the_package_that_the_page_shows_works(install):
    page = (Path(__file__).parents[2] / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    (group, name, value) = re.search(
        r'^\[project\.entry-points\."(.*)"\]\n(\S+) = "(\S+)"', page, re.MULTILINE
    ).groups()
    assert group == "headstart.methods"
    package, module = value.split(".")
    code = re.search(r"```python\n(.*?)\n\n\nhs\.initialize", page, re.DOTALL)[1]
    install(package, f"{name} = {value}\n", **{module: code})
    assert hs.initialize(nn.Linear(40, 2), method=f"{name}:inputs=8").changed == [""]
    assert registry.plugin_problems() == []
