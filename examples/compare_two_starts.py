"""Ask whether a start helps: two of them, paired seeds, verdicts, a page. Tiny, so it cannot tell much.

Needs the extra "bench". A real comparison takes 8 seeds or more: `headstart compare --help`.

Run: python examples/compare_two_starts.py [FOLDER]
"""

import sys
import tempfile

from headstart.bench import Arm, Experiment, Store, Training, analyse, parse_arm, run
from headstart.bench.page import write_report

experiment = Experiment(
    # A real one: with_controls([parse_arm("prewarm")]) adds scale-matched, zero-mean and null arms.
    arms=(Arm("default"), parse_arm("prewarm")),
    seeds=(0, 1),
    task="mnist5k",
    training=Training(steps=15, batch_size=32, evaluations=1, calibration=64),
)

with tempfile.TemporaryDirectory() as folder:
    store = Store(sys.argv[1] if len(sys.argv) > 1 else folder)
    done = run(experiment, store)
    print(f"{done.ran} trials run, {done.kept} kept from before")  # the same folder again: none is run twice
    analysis = analyse(store)
    for arm in analysis.arms:
        print(f"{arm.label}: {arm.sentence()}")
    print("page:", write_report(store, analysis).name)
