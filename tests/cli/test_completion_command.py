"""The completion scripts, run by the shells that they are for."""

import shutil
import subprocess

import pytest

from headstart.cli.completion import SHELLS
from headstart.cli.main import main

pytest.importorskip("shtab", reason="completion scripts need shtab (extra completion)")

# What bash does when the tab key is pressed: it sets the words, calls the function, and reads COMPREPLY.
PRESS_TAB = """
source {script}
function=$(complete -p headstart | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=({words} ""); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMP_WORDS[$COMP_CWORD]='{begun}'
$function
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    for shell in SHELLS:
        with pytest.MonkeyPatch.context() as patch, open(folder / shell, "w") as file:
            patch.setattr("sys.stdout", file)
            assert main(["completion", shell]) == 0
    return folder


@pytest.mark.parametrize(
    ("words", "begun", "offered"),
    [
        ("headstart", "comp", ["compare", "completion"]),
        ("headstart", "--v", ["--version"]),
        ("headstart compare", "--batch", ["--batch-size"]),
        ("headstart compare --optimizer", "ad", ["adam", "adamw"]),
        ("headstart compare --arms auto", "pre", ["pretrained", "prewarm"]),
        ("headstart init --method", "kai", ["kaiming"]),
        ("headstart reproduce", "pre", ["pre-warm"]),
        ("headstart bank", "sh", ["show"]),
        ("headstart judge", "res", ["results.csv"]),
    ],
)
def test_bash_offers_what_goes_on_from_what_is_typed(scripts, tmp_path, words, begun, offered):
    (tmp_path / "results.csv").touch()
    script = PRESS_TAB.format(script=scripts / "bash", words=words, begun=begun)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_reads_its_script(scripts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", scripts / shell], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "compare" in (scripts / shell).read_text()


def test_another_shell_is_not_known(capsys):
    assert main(["completion", "bsh"]) == 2
    assert "There is no shell 'bsh'. Did you mean 'bash'" in " ".join(capsys.readouterr().err.split())
