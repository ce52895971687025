"""Facts about the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from headstart.errors import HeadstartError

_PACKAGES = ("headstart", "torch", "numpy", "scikit-learn", "scipy")


def choose_device(device: str) -> str:
    """Resolve ``"auto"`` to a GPU if there is one, and check any other name.

    Raises:
        HeadstartError: If the device is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).cpu()  # "meta" can be made but not read
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HeadstartError(f"The device '{device}' cannot be used: {reason}") from error
    return device


def computes_bfloat16(device: str) -> bool:
    """Tell whether a device computes natively in bfloat16, so that autocast to it can be faster.

    Example:
        >>> computes_bfloat16("meta")
        False
    """
    if device.startswith("cuda"):
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Describe what a result depends on besides its configuration.

    Returns:
        Versions, git commit of the working directory if it is a repository, machine, threads.
    """
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "commit": _commit(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "accelerator": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        },
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
