import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from headstart.bench.store.store import Record, Store, content_key
from headstart.errors import HeadstartError

RECORD = Record({"seed": 3, "lr": 0.1}, {"test_accuracy": 97.25, "curve": [1, 2.5]}, {"threads": 2})


def file_of(store, key):
    return store.trials / f"{key}.json"


def test_what_is_put_is_got(store):
    key = store.put(RECORD)
    assert store.get(key) == RECORD
    assert store.present([key, "0" * 32]) == {key: RECORD}
    assert [path.name for path in store.trials.iterdir()] == [f"{key}.json"]


def test_the_key_is_of_what_determines_the_trial_alone(store):
    assert Record(RECORD.determinants, {}, {}).key == RECORD.key
    assert Record({**RECORD.determinants, "seed": 4}, {}, {}).key != RECORD.key


def test_an_absent_trial_is_none(store):
    assert store.get("0" * 32) is None
    assert store.damaged() == []


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b", "", "A" * 32, "0" * 31])
def test_a_key_cannot_leave_the_folder(store, key):
    with pytest.raises(HeadstartError, match="not the key"):
        store.get(key)


def cut(text):
    return text[: len(text) // 2]


def change(text):
    return text.replace("97.25", "98.25")


def foreign(text):
    return json.dumps({"format": "something else", "key": 1})


def no_object(text):
    return "[1, 2]"


def deep(text):
    return "[" * 100_000


@pytest.mark.parametrize("harm", [cut, change, foreign, no_object, deep, lambda text: "", lambda text: "\0" * 50])
def test_a_damaged_file_is_not_trusted_and_found(store, harm):
    key = store.put(RECORD)
    path = file_of(store, key)
    path.write_text(harm(path.read_text()))
    assert store.get(key) is None
    assert [damage.file for damage in store.damaged()] == [path.name]
    store.put(RECORD)
    assert store.get(key) == RECORD
    assert store.damaged() == []


def test_a_trial_under_another_name_is_not_trusted(store):
    key = store.put(RECORD)
    other = "f" * 32
    file_of(store, key).rename(file_of(store, other))
    assert store.get(other) is None
    assert "a trial that does not match" in store.damaged()[0].reason


def test_files_of_others_are_named_and_left_alone(store):
    store.put(RECORD)
    (store.trials / "notes.txt").write_text("mine")
    assert [damage.file for damage in store.damaged()] == ["notes.txt"]
    assert (store.trials / "notes.txt").read_text() == "mine"


def test_a_link_is_not_followed(store, tmp_path):
    elsewhere = Store(tmp_path / "elsewhere")
    key = elsewhere.put(RECORD)
    store.trials.mkdir(parents=True)
    file_of(store, key).symlink_to(file_of(elsewhere, key))
    assert store.get(key) is None
    assert "link" in store.damaged()[0].reason
    store.put(RECORD)
    assert not file_of(store, key).is_symlink()


def test_a_finished_trial_is_never_rewritten(store, monkeypatch):
    key = store.put(RECORD)
    before = file_of(store, key).stat()
    store.put(Record(RECORD.determinants, {"test_accuracy": 0.0}))
    monkeypatch.setattr(Store, "get", lambda self, key: None)  # another process writes it between look and write
    monkeypatch.setattr(type(store.folder), "exists", lambda self: False)
    store.put(Record(RECORD.determinants, {"test_accuracy": 1.0}))
    monkeypatch.undo()
    assert store.get(key) == RECORD
    assert file_of(store, key).stat().st_mtime_ns == before.st_mtime_ns
    assert len(list(store.trials.iterdir())) == 1


def test_a_refusal_is_replaced(store):
    store.put(Record(RECORD.determinants, {"status": "refused"}))
    assert store.get(store.put(RECORD)) == RECORD


def test_a_file_system_without_hard_links_will_do(store, monkeypatch):
    def fail(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    assert store.get(store.put(RECORD)) == RECORD


def test_a_file_that_is_damaged_after_it_was_read_is_found(store):
    key = store.put(RECORD)
    assert store.get(key) == RECORD
    path = file_of(store, key)
    path.write_text(change(path.read_text()))
    assert [damage.file for damage in store.damaged()] == [path.name]


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_full_disk_leaves_nothing_of_a_new_file(store, monkeypatch, step):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(HeadstartError, match="No space left"):
        store.put(RECORD)
    assert list(store.trials.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_rest(store, monkeypatch, step):
    old = Record(RECORD.determinants, {"status": "refused"})
    key = store.put(old)

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(HeadstartError, match="No space left"):
        store.put(Record(RECORD.determinants, {"test_accuracy": 0.0}))
    monkeypatch.undo()
    assert store.get(key) == old
    assert len(list(store.trials.iterdir())) == 1


def test_a_number_that_is_not_finite_is_refused(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.put(Record({"seed": 0}, {"loss": float("nan")}))


WRITER = """
import sys
from headstart.bench.store.store import Record, Store
store = Store(sys.argv[1])
for seed in range(100_000):
    store.put(Record({"seed": seed % 50}, {"status": "refused", "filters": [seed / 7] * 5000}))
    if seed == 5:
        print("going", flush=True)
"""


def test_a_writer_killed_at_any_point_leaves_only_sound_files(store):
    with subprocess.Popen([sys.executable, "-c", WRITER, str(store.folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"going\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert len(list(store.trials.glob("*.json"))) > 5
    assert store.damaged() == []


def test_the_experiment_is_kept_and_checked(store):
    plan = {"format": "headstart-experiment-1", "arms": ["default"]}
    store.write_experiment(plan)
    assert store.read_experiment() == plan
    path = store.folder / "experiment.json"
    path.write_text(path.read_text().replace("default", "prewarm"))
    with pytest.raises(HeadstartError, match="changed after it was written"):
        store.read_experiment()
    path.write_text("{")
    with pytest.raises(HeadstartError, match="not complete JSON"):
        store.read_experiment()
    store.write_experiment({**plan, "format": "headstart-experiment-99"})
    with pytest.raises(HeadstartError, match="of format 'headstart-experiment-99', not 'headstart-experiment-1'"):
        store.read_experiment()
    path.unlink()
    with pytest.raises(HeadstartError, match="no experiment"):
        store.read_experiment()


QUESTION = {"what": "format", "task": "abc"}


def test_a_question_is_answered_once(store):
    assert store.measure_once(QUESTION, lambda: {"format": ("a", 1.5)}) == {"format": ["a", 1.5]}
    again = Store(store.folder)
    assert again.measure_once(QUESTION, lambda: pytest.fail("asked again")) == {"format": ["a", 1.5]}
    assert again.decided(QUESTION, lambda: pytest.fail("asked again")) == {"format": ["a", 1.5]}
    assert again.measure_once({**QUESTION, "task": "other"}, lambda: {"format": "b"}) == {"format": "b"}
    assert list(store.claims.glob("*.json")) == []


def test_reading_an_answer_writes_none(store):
    assert store.decided(QUESTION, lambda: {"format": "a"}) == {"format": "a"}
    assert not store.folder.exists()


def test_an_answer_that_fails_leaves_the_question_open(store):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.measure_once(QUESTION, fail)
    assert store.measure_once(QUESTION, lambda: {"format": "a"}) == {"format": "a"}


def test_of_many_that_ask_at_once_one_answers_and_all_get_its_answer(store):
    asked, got, gate = [], [], threading.Barrier(8)

    def ask(number):
        gate.wait()

        def answer():
            asked.append(number)
            time.sleep(0.05)
            return {"number": number}

        got.append(Store(store.folder).measure_once(QUESTION, answer)["number"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    assert got == asked * 8


@pytest.mark.parametrize("harm", [cut, no_object, lambda text: text.replace('"a"', '"b"'), lambda text: ""])
def test_a_damaged_answer_is_no_reason_to_choose_anew_unasked(store, harm):
    store.measure_once(QUESTION, lambda: {"format": "a"})
    (path,) = store.choices.iterdir()
    path.write_text(harm(path.read_text()))
    for ask in (store.measure_once, store.decided):
        with pytest.raises(HeadstartError, match="Remove it: the choice is then made again"):
            ask(QUESTION, lambda: {"format": "c"})
    path.unlink()
    assert store.measure_once(QUESTION, lambda: {"format": "c"}) == {"format": "c"}


def test_an_answer_to_another_question_is_not_taken(store):
    store.measure_once(QUESTION, lambda: {"format": "a"})
    (path,) = store.choices.iterdir()
    path.rename(path.with_stem(content_key({"what": "else"})))
    with pytest.raises(HeadstartError, match="a choice that does not match its name"):
        store.measure_once({"what": "else"}, dict)
