import sys

import numpy as np
import pytest

NET = """
from torch import nn

def build(in_channels=1, width=4):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(3),
    )

def tied():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36))
    model[3].weight = model[1].weight
    return model
"""

# Reads the start without torch, so that a run takes no longer than Python does. Its score is a hash of the start's
# bytes, the seed and the steps: the same for the same trial, and another for another.
TRAIN = """
import hashlib, json, os, sys, time
start, seed, out, extra = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
mode = sys.argv[5] if len(sys.argv) > 5 else ""
content = open(start, "rb").read()
size = int.from_bytes(content[:8], "little")
names = sorted(name for name in json.loads(content[8 : 8 + size]) if name != "__metadata__")
digest = hashlib.sha256(content[8 + size :] + bytes([seed % 256])).digest()
score = 0.5 + digest[0] / 1024 + extra / 1e6
print("names:", *names)
if mode == "fail" and seed == 1:
    print("loading", file=sys.stderr)
    print("token", os.environ.get("MY_API_TOKEN"))
    sys.exit("there is no such layer")
if mode == "slow":
    time.sleep(60)
if mode == "folder":
    assert os.listdir(sys.argv[6]) == []
    out = sys.argv[6] + "/results.json"
if mode == "print":
    print(f"accuracy: {score}")
elif mode == "csv":
    with open(out, "w") as file:
        file.write("step,accuracy\\n" + "".join(f"{i},{score - (5 - i) / 100}\\n" for i in range(1, 6)))
elif mode != "silent":
    assert not os.path.exists(out)
    with open(out, "w") as file:
        json.dump({"accuracy": score, "seed": seed, "extra": extra, "steps": 1000}, file)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a model, images, and a script that trains."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "train.py").write_text(TRAIN)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    return tmp_path


@pytest.fixture
def command(folder):
    """The command line of the script; what is given stands at its end."""

    def make(*more, extra="{extra}"):
        return " ".join([f"{sys.executable} -S train.py {{start}} {{seed}} {{out}} {extra}", *more])

    return make
