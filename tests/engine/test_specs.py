"""The grammar of names with options: what is written reads back, and separators inside values are no separators."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.engine import specs

TEXTS = st.text("ab1e+-,:='\"()[]{}\\ .", max_size=8)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS,
    st.tuples(TEXTS, st.integers()),
)  # fmt: skip
OPTIONS = st.dictionaries(st.sampled_from(["of", "std", "k"]), VALUES)


@given(st.lists(st.tuples(st.sampled_from(["prewarm", "plain-cnn"]), OPTIONS), min_size=1, max_size=3))
def test_what_is_written_reads_back(written):
    text = "+".join(specs.write(name, options) for name, options in written)
    read = [specs.head(part) for part in specs.split(text, "+")]
    assert [(name, {i.key: specs.literal(i.value) for i in specs.items(rest)}) for name, rest in read] == written


@pytest.mark.parametrize(
    ("text", "separator", "parts"),
    [
        ("a,b", ",", ["a", "b"]),
        ("", ",", [""]),
        ("a,,b,", ",", ["a", "", "b", ""]),
        ("a=(1,2),b=[3,(4,5)]", ",", ["a=(1,2)", "b=[3,(4,5)]"]),
        ("a='x,y',b=\"z,'\",c", ",", ["a='x,y'", 'b="z,\'"', "c"]),
        (r"a='it\'s, so',b", ",", [r"a='it\'s, so'", "b"]),
        (r"a='\\',b", ",", [r"a='\\'", "b"]),
        ("a='(',b=')'", ",", ["a='('", "b=')'"]),
        ("std=1e+2+zero", "+", ["std=1e+2", "zero"]),
        ("base+zero", "+", ["base", "zero"]),
    ],
)
def test_a_separator_inside_brackets_or_quotes_parts_nothing(text, separator, parts):
    assert specs.split(text, separator) == parts


def test_words_and_options_are_told_apart():
    found = specs.items(" paper , scale = match, of='a=b', empty= ")
    assert found == [("paper", None), ("scale", "match"), ("of", "'a=b'"), ("empty", "")]
    assert [str(each) for each in found] == ["paper", "scale=match", "of='a=b'", "empty="]
    assert specs.items("  ") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lsuv", ("lsuv", "lsuv")),
        (" mine = lsuv:std=2 ", ("mine", "lsuv:std=2")),
        ("lsuv:std=2", ("lsuv:std=2", "lsuv:std=2")),
        ("a+b:c=2", ("a+b:c=2", "a+b:c=2")),
        ("a=b=c", ("a", "b=c")),
        ("=lsuv", ("", "lsuv")),
    ],
)
def test_a_label_ends_at_the_first_equals_sign(text, expected):
    assert specs.labelled(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cats", ("cats", "")),
        ("C:/a:b:size=64", ("C:/a:b", "size=64")),
        ("a:size=64,train=1e3", ("a", "size=64,train=1e3")),
        ("a=b:size", ("a=b:size", "")),
        ("a:size=6:4", ("a:size=6:4", "")),
        ("a\nb:size=1", ("a\nb", "size=1")),
    ],
)
def test_a_path_may_hold_what_parts_options(text, expected):
    assert specs.path_and_options(text) == expected
