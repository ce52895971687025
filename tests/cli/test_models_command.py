import pytest

from headstart.bench.models import zoo
from headstart.bench.models.builders import parameter_count, resolve_model


def test_lists_every_model(headstart):
    code, out, _ = headstart("models", "--input", "1,28,28", "--classes", "10")
    assert code == 0
    found = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert set(zoo.ZOO) <= set(found)
    assert "0.82 M" in found["prewarm-cnn"]
    assert "depth=20, width=32" in found["plain-cnn"]
    assert "≥ 39 px" in found["caffenet"]
    assert "Parameters at 1×28×28 and 10 classes" in out


@pytest.mark.parametrize("name", ["plain-cnn:depth=3", "cifar-resnet20", "mobilenet-v3-small"])
def test_parameters_are_those_of_the_model_that_is_built(result, name):
    model = resolve_model(f"headstart:{name}")(3, 7, (32, 32))
    for asked in (name, f"headstart:{name}"):
        found = result("models", asked, "--input", "3,32,32", "--classes", "7")
        assert (found["name"], found["parameters"]) == (f"headstart:{name}", parameter_count(model))


def test_describes_one(headstart):
    code, out, _ = headstart("models", "caffenet", "--input", "3,20,20")
    assert code == 0
    assert "takes no inputs of 3×20×20" in out
    assert "of at least 39×39" in out
    assert "stride=4 (1 to 4)" in out
    assert "of at least 18×18" in headstart("models", "caffenet:stride=1")[1]


def test_a_model_of_the_users_is_counted(headstart, result):
    assert result("models", "net.py:build_model", "--input", "1,10,10", "--classes", "3")["parameters"] == 691
    assert headstart("models", "net.py:build_model", "--input", "1,10,10", "--classes", "3")[1].startswith("net.py:")


def test_json(result):
    assert [model["name"] for model in result("models")] == [f"headstart:{name}" for name in zoo.ZOO]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["resnet19"], "Did you mean 'headstart:resnet18'"),
        (["plain-cnn:dept=3"], "Did you mean 'depth'"),
        (["--input", "3x32"], "Write channels,height,width"),
        (["--classes", "0"], "not at least 1"),
        (["net.py:not_a_model"], "returned int"),
    ],
)
def test_what_cannot_be_is_refused(refused, arguments, match):
    assert match in refused("models", *arguments)
