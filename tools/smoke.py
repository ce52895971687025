"""Install the built wheel and the sdist into fresh environments, without extras, and run every command from outside.

    python tools/smoke.py dist                    both; needs what constraints.txt pins from an index
    python tools/smoke.py --here                  this environment's own installation, from an empty folder

Commands that the core runs alone must work; the others must name the extra that they need.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NET = """
import torch
from torch import nn
def build(in_channels=1, classes=4):
    layers = [nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
def load():
    return torch.randn(64, 1, 8, 8), torch.arange(64) % 4
"""
SCORES = "arm,seed,score\n" + "".join(f"{arm},{s},{s + (arm == 'b')}\n" for s in range(6) for arm in "ab")
ALONE = """
--version
methods
methods prewarm
tasks
models headstart:plain-cnn
protocols
doctor
init net.py:build --data net.py:load --method within-layer --out start.safetensors
diagnose net.py:build --data net.py:load --checkpoint start.safetensors
adapt net.py:build --checkpoint start.safetensors --in-channels 3 --out three.safetensors
bank info
bank build start.safetensors --pool --out bank.safetensors
bank merge bank.safetensors cifar10-resnets --out both.safetensors
judge scores.csv --out verdicts.md verdicts.html
diagnose net.py:build --data net.py:load --html page.html
compare --arms lsuv --write experiment.toml
""".strip().splitlines()
"""What the core does without any extra."""
NEEDS = {
    "compare --task net.py:load --model net.py:build --batch-size 16": "bench",
    "reproduce pre-warm --quiet": "bench",
    "bank show cifar10-resnets --out bank.png": "plot",
    "init net.py:build --data pictures --method lsuv --dry-run": "bench",
    "models timm:resnet18": "timm",
    "completion bash": "completion",
}
"""Commands with the extra that each of them must name."""


def run_all(python: str) -> list[str]:
    """Run every command in an empty folder.

    Returns:
        What went wrong, a sentence each.
    """
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "net.py").write_text(NET)
        Path(folder, "scores.csv").write_text(SCORES)
        Path(folder, "pictures").mkdir()
        Path(folder, "pictures", "a.png").touch()
        for line, extra in [*((line, "") for line in ALONE), *NEEDS.items()]:
            command = [python, "-I", "-m", "headstart_command", *shlex.split(line)]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            said = " ".join((done.stdout + done.stderr).split())
            if done.returncode != (2 if extra else 0) or (extra and f"headstart[{extra}]" not in said):
                wrong.append(f"headstart {line}: exit code {done.returncode}: {said[-300:]}")
    return wrong


def main(argument: str) -> int:
    """Run in this environment, or in a fresh one for each package of a folder."""
    if argument == "--here":
        wrong = run_all(sys.executable)
    else:
        wrong = []
        for package in sorted(Path(argument).resolve().glob("headstart-*")):
            with tempfile.TemporaryDirectory() as folder:
                venv.create(folder, with_pip=True)
                python = str(Path(folder, "bin", "python"))
                pip = [python, "-m", "pip", "--disable-pip-version-check", "-q", "install", "-c"]
                subprocess.run([*pip, ROOT / "constraints.txt", package], check=True, cwd=folder)
                found = run_all(python)
            print(f"{package.name}: {len(ALONE) + len(NEEDS)} commands, {len(found)} wrong")
            wrong += found
    print("\n".join(wrong) or "all commands do what they should")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
