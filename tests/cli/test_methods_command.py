import headstart as hs


def test_lists_every_method(headstart):
    code, out, _ = headstart("methods")
    assert code == 0
    listed = [line.split()[0] for line in out.splitlines() if line and not line.startswith((" ", "method", "A ", "'"))]
    assert listed == hs.list_methods()


def test_describes_one(headstart):
    code, out, _ = headstart("methods", "prewarm")
    assert code == 0
    assert out.strip() == hs.describe("prewarm")


def test_json(result):
    assert [m["name"] for m in result("methods")] == hs.list_methods()
    one = result("methods", "prewarm")
    assert one["options"]["fraction"] == "0.5"
    assert "paper" in one["presets"]


def test_unknown(refused):
    assert "Did you mean 'prewarm'" in refused("methods", "prewram")
