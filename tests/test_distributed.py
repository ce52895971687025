"""Two processes of a gloo group: equal bits on all ranks, equal errors on all ranks, and no hang."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import headstart as hs

sys.path.insert(0, str(Path(__file__).parent))
import distributed_worker

WORLD = 2
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch has no gloo here")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank returned, by scenario. A hang ends with a timeout, which fails."""
    folder = tmp_path_factory.mktemp("group")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch, distributed_worker\n"
        "if __name__ == '__main__':\n"
        f"    torch.multiprocessing.spawn(distributed_worker.work, ({WORLD}, {str(folder)!r}), nprocs={WORLD})\n"
    )
    script = folder / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(WORLD)]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_ranks_are_bitwise_equal_and_equal_to_one_process(ranks):
    (first, changed, rows), (second, changed_too, rows_too) = (rank["equal_bits"] for rank in ranks)
    assert same(first, second)
    alone = distributed_worker.model(0)
    assert not same(first, alone.state_dict())
    report = hs.initialize(alone, distributed_worker.images(), "prewarm+within-layer", seed=3)
    assert same(first, alone.state_dict())
    assert changed == changed_too == report.changed
    assert rows == rows_too


def test_a_start_by_training_is_the_same_on_all_ranks_and_in_one_process(ranks):
    first, second = (rank["trained"] for rank in ranks)
    assert same(first, second)
    alone = distributed_worker.model(0)
    method = hs.SmartInit(fractions=(0.25, 0.5), epochs=2, batch_size=8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks have: sums in another order are other sums
    try:
        hs.initialize(alone, (distributed_worker.images(), torch.arange(64) % 3), method, seed=3)
    finally:
        torch.set_num_threads(threads)
    assert same(first, alone.state_dict())


def test_another_rank_can_compute(ranks):
    first, second = (rank["another_source"] for rank in ranks)
    assert same(first, second)
    alone = distributed_worker.model(1)
    hs.initialize(alone, distributed_worker.images(), "prewarm")
    assert same(first, alone.state_dict())


def test_a_generator_advances_on_every_rank(ranks):
    (first, state), (second, state_too) = (rank["generator"] for rank in ranks)
    assert same(first, second)
    assert torch.equal(state, state_too)
    assert not torch.equal(state, torch.Generator().manual_seed(7).get_state())


def test_training_in_parallel_starts_from_it(ranks):
    first, second = (rank["ddp"] for rank in ranks)
    assert torch.equal(first, second)
    assert first.abs().sum() > 0


def test_shards_make_up_what_was_initialized(ranks):
    if ranks[0]["fsdp"] is None:
        pytest.skip("fully_shard is public from torch 2.6 on")
    (before, after, kinds), (before_too, after_too, _) = (rank["fsdp"] for rank in ranks)
    assert kinds == {"DTensor"}
    assert same(before, after)
    assert same(before_too, after_too)
    assert same(before, before_too)


@pytest.mark.parametrize(
    ("scenario", "kind", "message"),
    [
        ("constant_data", "DataError", ""),
        ("unknown_method", "UnknownNameError", "Did you mean 'prewarm'"),
        ("python_error", "", "No such file or directory"),
        ("odd_error", "", "1 and 2"),
        ("wrapped_already", "ModelError", "wrapped in DistributedDataParallel"),
    ],
)
def test_an_error_is_the_same_on_every_rank_and_changes_nothing(ranks, scenario, kind, message):
    (first, unchanged), (second, unchanged_too) = (rank[scenario] for rank in ranks)
    assert first is not None
    assert first == second
    assert unchanged
    assert unchanged_too
    assert message in first[1]
    assert first[0] == (kind or first[0])


def test_lazy_models_are_refused_on_every_rank(ranks):
    first, second = (rank["lazy"] for rank in ranks)
    assert first == second
    assert "Run one batch through it on every rank first" in first


def test_a_rank_with_another_model_says_so_and_keeps_it(ranks):
    (error, _), (error_too, unchanged) = (rank["other_model"] for rank in ranks)
    assert error is None
    assert error_too[0] == "ModelError"
    assert (
        "Rank 1 has '0.bias' as (9, torch.float32), the rank that computed has it as (8, torch.float32)"
        in (error_too[1])
    )
    assert unchanged


def test_a_process_outside_of_the_group_is_told(ranks):
    assert ranks[0]["outsider"] == ["0"]
    assert "not in the group" in ranks[1]["outsider"]


def test_without_a_group_it_is_the_plain_call():
    one, other = distributed_worker.model(0), distributed_worker.model(0)
    report = hs.distributed.initialize(one, distributed_worker.images(), "prewarm", seed=5)
    hs.initialize(other, distributed_worker.images(), "prewarm", seed=5)
    assert same(one.state_dict(), other.state_dict())
    assert report.changed == ["0"]


@pytest.mark.parametrize(
    "error",
    [
        hs.MissingExtraError(package="pyarrow", extra="export", what="A file"),
        hs.DataError("No.", remedy="Do."),
        ValueError("x", 3),
    ],
)
def test_errors_survive_the_way(error):
    from headstart.distributed import _pack, _unpack

    back = _unpack(pickle.loads(pickle.dumps(_pack(error))))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_every_recipe_of_the_page_initializes_before_it_wraps():
    page = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text(encoding="utf-8")
    recipes = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(recipes) == 5
    for recipe in recipes:
        compile(recipe, "distributed.md", "exec")
        if "hs.apply(model, init)" not in recipe:  # onto shards: computed before, on a copy
            assert 'hs.distributed.initialize(model, loader, "prewarm")\n' in recipe
