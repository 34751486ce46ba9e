"""The override grammar: what it reads, and the one sentence for what it does not."""

from __future__ import annotations

import dataclasses
import math
import typing

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.errors import UsageError
from marl_bench.experiments import overrides


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3", [3]),
        ("-0.5", [-0.5]),
        ("1e-3", [0.001]),
        ("1,2,3", [1, 2, 3]),
        (" 1 , 2.5 ", [1, 2.5]),
        ("true,False,NONE,null", [True, False, None, None]),
        ("torus", ["torus"]),
        ("a-b.c/d:e", ["a-b.c/d:e"]),
        ("'none'", ["none"]),
        ('"a,b",c', ["a,b", "c"]),
        ("(96,)", [(96,)]),
        ("(64, 64),(96,)", [(64, 64), (96,)]),
        ("choice((96,),(64,64))", [(96,), (64, 64)]),
        ("choice(a, 'b,c')", ["a", "b,c"]),
        ("range(0,5)", [0, 1, 2, 3, 4]),
        ("range(5,0,-2)", [5, 3, 1]),
        ("range(0.1,0.8,0.1)", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ("range(0.10,0.41,0.01)", [round(0.1 + 0.01 * i, 12) for i in range(31)]),
        ("0.127,range(1,2,0.5),choice(7)", [0.127, 1.0, 1.5, 7]),
        ("''", [""]),
    ],
)
def test_values(text, values):
    found = overrides.parse_values("env.x", text)
    assert found == values
    assert [type(v) for v in found] == [type(v) for v in values]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,,2",
        "1,",
        "(1,2",
        "1)",
        "'a",
        "range(1)",
        "range(1,2,0)",
        "range(2,1)",
        "range(a,b)",
        "range(0,1e9)",
        "range(0,1,1e-300)",
        "range(0,1e999)",
        "range(true,3)",
        "[1,2]",
        "{1: 2}",
        "1+2j",
        "b'x'",
        "__import__('os')",
        "print(1)",
        "0x" + "f" * 5000,
        "(" * 500 + ")" * 500,
        "choice()",
    ],
)
def test_refused_values_name_the_path(text):
    with pytest.raises(UsageError, match=r"^env\.x"):
        overrides.parse_values("env.x", text)


def test_expansion_is_bounded():
    assert len(overrides.parse_values("p", "range(0,1000000)")) == overrides.MAX_VALUES
    with pytest.raises(UsageError, match="more than 1000000"):
        overrides.parse_values("p", "range(0,1000000),1")
    with pytest.raises(UsageError, match="characters"):
        overrides.parse_values("p", "1" * 1_000_001)


@settings(max_examples=60, deadline=None)
@given(st.integers(-500, 500), st.integers(1, 200), st.integers(1, 60))
def test_ranges_of_hundredths_are_exact(start, step, count):
    text = f"range({start / 100},{(start + step * count) / 100},{step / 100})"
    expected = [(start + step * index) / 100 for index in range(count)]
    assert overrides.parse_values("p", text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        values = overrides.parse_values("p", text)
    except UsageError:
        return
    assert values and all(overrides.is_plain(value) for value in values)


def test_tokens():
    assert overrides.parse_tokens(["env=a", "env.x=1,2", "learner.y=z=1"]) == {
        "env": "a",
        "env.x": "1,2",
        "learner.y": "z=1",
    }
    for token, words in [
        ("side", "expected KEY=VALUE"),
        ("enviroment=x", "did you mean 'env'"),
        ("lerner.rate=1", "did you mean 'learner'"),
        ("seed=1", "did you mean 'seeds'"),
        ("env.=1", "unknown key"),
        ("steps.x=1", "unknown key"),
    ]:
        with pytest.raises(UsageError, match=words):
            overrides.parse_tokens([token])
    with pytest.raises(UsageError, match="given twice"):
        overrides.parse_tokens(["env.x=1", "env.x=2"])


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        (3, float, 3.0),
        (3, int | float, 3),
        (True, bool, True),
        (None, float | None, None),
        ("nan", float, math.nan),
        ("-inf", float | None, -math.inf),
        ("nan", str | float, "nan"),
        ([64, 64], tuple[int, ...], (64, 64)),
        ((), tuple[int, ...], ()),
        ((1, 2), tuple[float, ...], (1.0, 2.0)),
        ((1, "a"), tuple[int, str], (1, "a")),
        ("a", typing.Literal["a", "b"], "a"),
        (3, jax.Array, 3.0),
        (3, typing.Any, 3),
        (0.5, typing.Optional[typing.Union[float, jax.Array]], 0.5),  # noqa: UP007, UP045
    ],
)
def test_coerce(value, annotation, result):
    found = overrides.coerce("env.x", value, annotation)
    assert type(found) is type(result)
    np.testing.assert_equal(found, result)


@pytest.mark.parametrize(
    ("value", "annotation", "allowed"),
    [
        (1.5, int, "an integer"),
        (True, int, "an integer"),
        (True, float, "a number"),
        ("fast", float, "a number"),
        (1, bool, "true or false"),
        (1, str, "text"),
        (None, int, "an integer"),
        (96, tuple[int, ...], "a tuple of integers such as (96,)"),
        ((1.5,), tuple[int, ...], "a tuple of integers"),
        ((1, 2, 3), tuple[int, int], "a tuple of integers"),
        ("c", typing.Literal["a", "b"], "one of a, b"),
        ("x", float | None, "a number or none"),
        (2**2000, float, "a number"),
    ],
)
def test_wrong_types_name_path_and_remedy(value, annotation, allowed):
    with pytest.raises(UsageError) as caught:
        overrides.coerce("env.x", value, annotation)
    assert str(caught.value).startswith("env.x=") and allowed in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Configured:
    side: int = 3
    rate: float | jax.Array = 0.1
    kind: Missing = "a"  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
    derived: int = dataclasses.field(default=0, init=False)


def test_field_types_survive_an_annotation_that_cannot_be_resolved():
    assert overrides.field_types(Configured) == {"side": int, "rate": float, "kind": str}
    assert overrides.field_types(int) == {}


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        ("5", [0, 1, 2, 3, 4]),
        (2, [0, 1]),
        ("195:198", [195, 196, 197]),
        ("3,7,9", [3, 7, 9]),
        ("7,", [7]),
        ("0:2, 10:12", [0, 1, 10, 11]),
        ([4294967295], [4294967295]),
    ],
)
def test_seeds(value, seeds):
    assert overrides.parse_seeds(value) == seeds


@pytest.mark.parametrize(
    "value",
    [
        *("0", "-1", "", "5:5", "9:3", "1:2:3", "a", "1.5", "1,1", "4294967296,", str(2**63), "0:99999999", "9" * 5000),
        *(0, None, True, [], [-1], [True], [1.0], [1, 2, 1]),
    ],
)
def test_bad_seeds(value):
    with pytest.raises(UsageError, match=r"^seeds"):
        overrides.parse_seeds(value)


def test_counts():
    assert overrides.parse_count("steps", "1000") == 1000
    assert overrides.parse_count("steps", "1e5") == 100_000
    assert overrides.parse_count("steps", "none") is None
    for bad in ("0", "-1", "1.5", "many", True, 2**63, "inf"):
        with pytest.raises(UsageError, match=r"^steps="):
            overrides.parse_count("steps", bad)
