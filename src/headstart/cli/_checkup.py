"""The checks of ``headstart doctor``. Nothing is written, and nothing is sent."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

Line = tuple[str, str, str]
EXTRAS = {
    "bench": "headstart compare: training, the demo's digits, pages",
    "plot": "pictures: report.plot_filters(), headstart diagnose --html",
    "export": "headstart export to Parquet",
    "ray": "headstart compare --ray",
    "timm": "models as timm:NAME",
    "torchvision": "models as torchvision:NAME, downloads",
    "series": "tasks as series:NAME, the time series that come with aeon",
    "hf": "models from a config.json of Hugging Face",
    "completion": "headstart completion: the tab key in bash, zsh and fish",
}
_IMPORTED_AS = {"scikit-learn": "sklearn", "lightning-fabric": "lightning_fabric", "pillow": "PIL", "tomli": "tomllib"}
_FRAGILE = ("torchvision", "timm")  # built against one torch: installed does not mean that they import
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES")
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*(?:\[[^]]*\])?\s*\(?\s*((?:[<>=!~][^;)]*)?)\)?\s*(?:;(.*))?$")


@dataclass(frozen=True)
class Package:
    """A package that headstart or one of its extras needs.

    Args:
        name: Its name.
        wanted: The versions that are accepted.
        version: The installed version; None if there is none.
        problem: Why it cannot be used; empty if it can.
    """

    name: str
    wanted: str
    version: str | None
    problem: str = ""

    @property
    def state(self) -> str:
        """``ok``, ``missing`` or ``broken``."""
        return "missing" if self.version is None else "broken" if self.problem else "ok"


@dataclass(frozen=True)
class Checkup:
    """The result of all checks.

    Args:
        versions: The versions of Python, headstart, the system.
        core: Packages that headstart always needs.
        extras: Packages by extra.
        devices: The devices, each as ``(name, about)``.
        threads: Cores, torch's threads, and the environment variables that set them.
        folders: Caches and data, each with its path, whether it exists and can be written, and the free space.
        tasks: The state of each data set's files.
        advice: What to do, one sentence each; empty if all is well.
    """

    versions: Mapping[str, str]
    core: list[Package]
    extras: Mapping[str, list[Package]]
    devices: list[tuple[str, str]]
    threads: Mapping[str, Any]
    folders: list[dict[str, Any]]
    tasks: Mapping[str, str]
    advice: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        core = [{**asdict(package), "state": package.state} for package in self.core]
        extras = {
            name: [{**asdict(package), "state": package.state} for package in packages]
            for name, packages in self.extras.items()
        }
        return {**asdict(self), "core": core, "extras": extras}

    def sections(self) -> list[tuple[str, list[Line]]]:
        """Return headings, each with lines of state, name and text."""
        extras: list[Line] = []
        for name, packages in self.extras.items():
            worst = min((p.state for p in packages), key=("broken", "missing", "ok").index, default="ok")
            parts = ", ".join(f"{p.name} {p.version or 'missing'}" for p in packages)
            known = parts or "this installation does not know it: install headstart again"
            extras.append((worst if packages else "", name, f"{EXTRAS.get(name, '')} ({known})"))
        folders = [
            ("ok" if each["there"] else "", each["name"], f"{each['path']}{_about_folder(each)}")
            for each in self.folders
        ]
        there = [name for name, state in self.tasks.items() if state == "there"]
        partly = [f"{name} ({state})" for name, state in self.tasks.items() if state not in ("there", "missing")]
        return [
            ("Versions", [("", name, value) for name, value in self.versions.items()]),
            ("Needed", [(p.state, p.name, f"{p.version or 'not installed'} ({p.wanted})") for p in self.core]),
            ("Devices", [("ok", name, about) for name, about in self.devices]),
            ("Threads", [("", name, str(value)) for name, value in self.threads.items()]),
            ("Extras", extras),
            ("Folders", folders),
            ("Data sets", [("", "there", ", ".join([*there, *partly]) or "none")]),
        ]


def look() -> Checkup:
    """Run all checks."""
    core, extras = _packages()
    found = Checkup(_versions(), core, extras, _devices(), _threads(), _folders(), _tasks())
    found.advice.extend(_advice(found))
    return found


def _versions() -> dict[str, str]:
    from headstart.version import __version__

    return {
        "headstart": f"{__version__} in {Path(__file__).resolve().parents[1]}",
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "torch's build": (torch.version.cuda and f"CUDA {torch.version.cuda}") or torch.version.hip or "CPU",
    }


def _packages() -> tuple[list[Package], dict[str, list[Package]]]:
    """Look up every package that headstart requires."""
    try:
        told = metadata.requires("headstart") or []
    except metadata.PackageNotFoundError:  # run from its folder without being installed
        return [_package("torch", ""), _package("numpy", "")], {}
    core: list[Package] = []
    extras: dict[str, list[Package]] = {name: [] for name in EXTRAS}
    for text in told:
        match = _REQUIREMENT.match(text)
        if match is None or not _for_this_python(match[3] or ""):
            continue
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", match[3] or "")
        if extra is None:
            core.append(_package(match[1], match[2].strip()))
        elif extra[1] in extras and match[1] != "headstart":
            extras[extra[1]].append(_package(match[1], match[2].strip()))
    return core, extras


def _for_this_python(marker: str) -> bool:
    found = re.search(r"python_version\s*<\s*['\"](\d+)\.(\d+)['\"]", marker)
    return found is None or sys.version_info[:2] < (int(found[1]), int(found[2]))


def _package(name: str, wanted: str) -> Package:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Package(name, wanted, None, "not installed")
    least = re.search(r">=\s*([\d.]+)", wanted)
    if least and _numbers(version) < _numbers(least[1]):
        return Package(name, wanted, version, f"older than {least[1]}")
    module = _IMPORTED_AS.get(name, name.replace("-", "_"))
    if importlib.util.find_spec(module) is None:
        return Package(name, wanted, version, "installed, but its files are missing")
    return Package(name, wanted, version, _import_problem(module) if name in _FRAGILE else "")


def _import_problem(module: str) -> str:
    """Try the import in another process, where a failure does no harm; return the last line of its error."""
    tried = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)  # noqa: S603
    return f"does not import: {tried.stderr.strip().splitlines()[-1]}" if tried.returncode and tried.stderr else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _devices() -> list[tuple[str, str]]:
    from headstart.bench.trials.hardware import computes_bfloat16, provenance

    machine = provenance()["machine"]
    found = [("cpu", machine["processor"] + (", computes in bfloat16" if computes_bfloat16("cpu") else ""))]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    if torch.backends.mps.is_available():
        found.append(("mps", "Apple"))
    return found


def _threads() -> dict[str, Any]:
    from headstart.bench.runs.executors.processes import cores

    said = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return {"cores": cores(), "torch": torch.get_num_threads(), **said}


def _folders() -> list[dict[str, Any]]:
    from headstart.bench.tasks.data.cache import cache_root
    from headstart.bench.tasks.data.files import data_root

    return [
        _folder(name, path)
        for name, path in (("data (HEADSTART_DATA_ROOT)", data_root()), ("cache (HEADSTART_CACHE)", cache_root()))
    ]


def _folder(name: str, path: Path) -> dict[str, Any]:
    nearest = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    free = None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(nearest).free
    writable = os.access(nearest, os.W_OK)
    return {"name": name, "path": str(path), "there": path.is_dir(), "writable": writable, "free_bytes": free}


def _about_folder(found: Mapping[str, Any]) -> str:
    parts = [] if found["there"] else ["does not exist yet"]
    parts += [] if found["writable"] else ["cannot be written"]
    parts += [f"{found['free_bytes'] / 2**30:.0f} GiB free"] if found["free_bytes"] is not None else []
    return f" ({', '.join(parts)})" if parts else ""


def _tasks() -> dict[str, str]:
    from headstart.bench.tasks.data.catalogue import DATASETS
    from headstart.bench.tasks.data.listing import look_up

    return {name: look_up(name).state for name in DATASETS}


def _advice(found: Checkup) -> list[str]:
    said = [
        f"{p.name} {p.version or ''} {p.problem}: pip install '{p.name}{p.wanted}'".replace("  ", " ")
        for p in found.core
        if p.problem
    ]
    for name, packages in found.extras.items():
        absent = [p.name for p in packages if p.state == "missing"]
        if absent:
            said.append(f"For {EXTRAS[name]}: pip install 'headstart[{name}]' ({', '.join(absent)} missing)")
        said += [f"{p.name} {p.version} {p.problem}" for p in packages if p.state == "broken"]
    if any("does not import" in each for each in said):
        said.append(
            f"A package that cannot be imported was built for another torch than {torch.__version__}: install the"
            " matching release."
        )
    said += [
        f"'{each['path']}' cannot be written: choose another folder." for each in found.folders if not each["writable"]
    ]
    lacking = [name for name, state in found.tasks.items() if state == "incomplete"]
    said += [f"The data set {name} is not complete: headstart tasks {name}" for name in lacking]
    return list(dict.fromkeys(said))
