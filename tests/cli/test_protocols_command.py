from headstart.bench.papers.protocols import PROTOCOLS
from headstart.bench.settings.words import SETTINGS
from headstart.bench.specs.setting import TRAINER


def test_lists_every_protocol(headstart):
    code, out, _ = headstart("protocols")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.split()[:1] and line.split()[0] in PROTOCOLS] == [
        *PROTOCOLS
    ]


def test_describes_one_with_every_word_and_the_defects(headstart):
    code, out, _ = headstart("protocols", "prewarm-svhn-published")
    assert code == 0
    flat = " ".join(out.split())
    for said in ("lr = 0.0005", "patches=15", 'seeds = "42,7,13,99,2025,1,8,21"', "reproduced", "left out"):
        assert said in flat
    for word in [name for name, word in SETTINGS.items() if word.group != TRAINER and name != "out"]:
        assert f"{word} = " in flat or f"{word}=" in flat
    for note in PROTOCOLS["prewarm-svhn-published"].notes:
        assert note.why in flat


def test_what_is_left_to_the_user_and_variants_are_said(headstart, refused):
    out = headstart("protocols", "data-dependent-corrected")[1]
    assert "left to you task" in " ".join(out.split())
    assert "--task folder:PATH:size=227" in out
    assert "leaves the task to you" in refused("protocols", "data-dependent-corrected", "--write", "p.toml")


def test_json(result):
    assert [protocol["name"] for protocol in result("protocols")] == list(PROTOCOLS)
    one = result("protocols", "clusters-pairs-corrected")
    assert one["words"]["schedule"] == "plateau"
    assert {note["kind"] for note in one["notes"]} <= {"reproduced", "corrected", "left out", "differs"}


def test_writes_a_file_and_keeps_one_that_is_there(headstart, refused, folder):
    code, out, _ = headstart("protocols", "smart-init-cifar10-published", "--write", "smart.toml")
    assert (code, (folder / "smart.toml").is_file()) == (0, True)
    assert "headstart compare smart.toml" in out
    assert "exists" in refused("protocols", "smart-init-cifar10-published", "--write", "smart.toml")


def test_what_cannot_be_is_refused(refused):
    assert "Did you mean 'prewarm-svhn-published'" in refused("protocols", "prewarm-svhn-publishd")
    assert "needs the name" in refused("protocols", "--write", "p.toml")
