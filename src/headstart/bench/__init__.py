"""The benchmark: does a start help, on this model and this data?

An `Experiment` is task × model × arms × seeds. `run` trains what its `Store` does not hold yet, `analyse`
turns the store into verdicts, and `write_report` into a page. The command line is ``headstart compare``.

Imports the front door and what lies below it. The command line alone may import it.
"""

from headstart.bench.analysis.analysis import Analysis, analyse
from headstart.bench.analysis.judgement import Judgement, judge
from headstart.bench.models.builders import ModelBuilder, resolve_model
from headstart.bench.runs.experiment import Experiment
from headstart.bench.runs.run import run
from headstart.bench.store.store import Store
from headstart.bench.tasks.arrays import from_arrays
from headstart.bench.tasks.loading import load_task
from headstart.bench.tasks.task import Task
from headstart.bench.trials.arms import Arm, parse_arm, with_controls
from headstart.bench.trials.training import Training

__all__ = [
    "Analysis",
    "Arm",
    "Experiment",
    "Judgement",
    "ModelBuilder",
    "Store",
    "Task",
    "Training",
    "analyse",
    "from_arrays",
    "judge",
    "load_task",
    "parse_arm",
    "resolve_model",
    "run",
    "with_controls",
]
