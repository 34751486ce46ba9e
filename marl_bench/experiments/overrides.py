"""The override grammar: `env.dilemma_strength=0.1,0.25`, `learner.hidden_sizes=(96,)`, `seeds=195:225`.

A value is a comma-separated list of items; each item is a literal (`3`, `0.5`, `true`, `none`, `torus`,
`'quoted text'`, `(64, 64)`), `range(start,stop,step)` or `choice(a,b,c)`. More than one value is a sweep.
Literals go through `ast.literal_eval`, nothing is ever executed. Values are then checked against the type
annotation of the dataclass field they are meant for. Ranges of *values* are the dataclass's own business.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import decimal
import math
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from marl_bench.errors import UsageError
from marl_bench.naming import nearest

MAX_VALUES = 1_000_000
"""Largest number of values that one override, or one sweep, may expand to."""

KEYS = ("env", "learner", "dataset", "dataset_shards", "seeds", "steps", "log_every", "evaluations")
"""Keys of a configuration besides the dotted `env.FIELD` and `learner.FIELD`."""

_MAX_TEXT = 1_000_000
_MAX_SEED = 2**32
_CALL = re.compile(r"(range|choice)\s*\((.*)\)", re.DOTALL)
_WORDS = {"none": None, "null": None, "true": True, "false": False}
_NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "-infinity"}


def parse_tokens(tokens: Iterable[str]) -> dict[str, str]:
    """Split `KEY=VALUE` tokens into a dict of value texts.

    Raises:
      UsageError: for a token without `=`, an unknown key (with the nearest one) or a key given twice.
    """
    texts: dict[str, str] = {}
    for token in tokens:
        key, equals, text = token.partition("=")
        if not equals:
            raise UsageError(f"{token!r}: expected KEY=VALUE, such as env=NAME or learner.FIELD=1,2,3")
        key = key.strip()
        check_key(key)
        if key in texts:
            raise UsageError(f"{key} is given twice; list its values with commas: {key}={texts[key]},{text}")
        texts[key] = text.strip()
    return texts


def check_key(key: str) -> None:
    """Refuse a key that is neither one of `KEYS` nor `env.FIELD` / `learner.FIELD` (UsageError)."""
    head, dot, field = key.partition(".")
    if key in KEYS or (head in ("env", "learner") and dot and field):
        return
    hint = "; did you mean 'env'?" if head.startswith("env") else nearest(head, KEYS)
    raise UsageError(f"unknown key {key!r}{hint} (known: {', '.join(KEYS)}, env.FIELD, learner.FIELD)")


# --- values ----------------------------------------------------------------------------------------


def parse_values(path: str, text: str) -> list[Any]:
    """Expand the value text of one override.

    Args:
      path: dotted path, for messages.
      text: for example `0.1,0.25`, `range(0.1,0.8,0.1)`, `choice((96,),(64,64))`.
    Returns:
      values: int, float, bool, str, None or tuples of them; at least one, at most `MAX_VALUES`.
    Raises:
      UsageError: for text outside the grammar.
    """
    if len(text) > _MAX_TEXT:
        raise UsageError(f"{path}: value of {len(text)} characters; at most {_MAX_TEXT} are read")
    values: list[Any] = []
    for item in _split(path, text):
        call = _CALL.fullmatch(item)
        if call is None:
            values.append(parse_item(path, item))
        elif call[1] == "range":
            values.extend(_range(path, item, _split(path, call[2])))
        else:
            values.extend(parse_item(path, choice) for choice in _split(path, call[2]))
        if len(values) > MAX_VALUES:
            raise UsageError(f"{path}: more than {MAX_VALUES} values; sweep fewer")
    return values


def _split(path: str, text: str) -> list[str]:
    """Split at the commas that stand outside quotes and brackets."""
    items, start, depth, quote = [], 0, 0, ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            items.append(text[start:position].strip())
            start = position + 1
        if depth < 0:
            break
    if quote or depth:
        raise UsageError(f"{path}={_shown(text)}: unbalanced quotes or brackets")
    items.append(text[start:].strip())
    if not all(items):
        raise UsageError(f"{path}={_shown(text)}: a value is missing (write '' for an empty text)")
    return items


def parse_item(path: str, text: str) -> Any:
    """Read one literal: number, boolean, none, text (bare or quoted) or a tuple of literals.

    Raises:
      UsageError: for anything else.
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if re.search(r"[()\[\]{}'\"=\\]", text):
            raise UsageError(
                f"{path}={_shown(text)}: cannot be read; use a number, text, none, true, false or a tuple such as (96,)"
            ) from None
        return text
    if not is_plain(value):
        raise UsageError(f"{path}={_shown(text)}: must be a number, text, none, true, false or a tuple of these")
    return value


def is_plain(value: Any) -> bool:
    """Can a configuration hold this value: None, a boolean, number of 64 bits, text, or a tuple of these?"""
    if isinstance(value, tuple):
        return all(is_plain(entry) for entry in value)
    if isinstance(value, int):
        return value.bit_length() <= 64
    return value is None or isinstance(value, (float, str))


def _range(path: str, text: str, arguments: Sequence[str]) -> list[int | float]:
    """Expand `range(start,stop,step)`; decimal arithmetic, so that 0.1 + 0.2 is 0.3 and the stop stays out."""
    numbers = [parse_item(path, argument) for argument in arguments]
    if len(numbers) not in (2, 3) or any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        raise UsageError(f"{path}={_shown(text)}: write range(start,stop,step) with three numbers")
    if not all(math.isfinite(n) for n in numbers):
        raise UsageError(f"{path}={_shown(text)}: start, stop and step must be finite")
    start, stop, step = (decimal.Decimal(repr(n)) for n in (*numbers, 1)[:3])
    if step == 0:
        raise UsageError(f"{path}={_shown(text)}: the step must not be 0")
    steps = (stop - start) / step
    if steps > MAX_VALUES:
        raise UsageError(f"{path}={_shown(text)}: more than {MAX_VALUES} values; use a larger step")
    count = math.ceil(steps - decimal.Decimal("1e-9"))
    if count <= 0:
        raise UsageError(f"{path}={_shown(text)}: the range is empty")
    cast = int if all(isinstance(n, int) for n in numbers) else _rounded
    return [cast(start + index * step) for index in range(count)]


def _rounded(value: decimal.Decimal) -> float:
    return float(f"{value:.12g}")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# --- fields and their types ------------------------------------------------------------------------


def field_types(cls: type) -> dict[str, Any]:
    """Type annotation of each constructor field of a dataclass, with text annotations resolved.

    An annotation that cannot be resolved (a name imported for type checkers only) becomes the type of the
    field's default, or `Any`. A class that is no dataclass has no fields.
    """
    if not dataclasses.is_dataclass(cls):
        return {}
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError, AttributeError):
        hints = {}
    fields = [field for field in dataclasses.fields(cls) if field.init]
    return {field.name: hints.get(field.name, _type_of_default(field)) for field in fields}


def _type_of_default(field: dataclasses.Field[Any]) -> Any:
    default = field.default
    return type(default) if isinstance(default, (bool, int, float, str)) else Any


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(inner for member in typing.get_args(annotation) for inner in _members(member))
    if annotation in (None, type(None)):
        return (type(None),)
    return (annotation,)


def describe(annotation: Any) -> str:
    """Say in words which values a field of this type takes, for messages and for `marl-bench list`."""
    return " or ".join(dict.fromkeys(_describe_member(member) for member in _members(annotation)))


def _describe_member(member: Any) -> str:
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "none"}
    if member in words:
        return words[member]
    origin = typing.get_origin(member)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(member))
    if member is tuple or origin is tuple:
        inner = [argument for argument in typing.get_args(member) if argument is not Ellipsis]
        names = {int: "integers", float: "numbers", str: "texts"}
        kind = names.get(inner[0], "values") if inner else "values"
        example = "('a', 'b')" if kind == "texts" else "(96,)"
        return f"a tuple of {kind} such as {example}"
    return "any value" if member is Any else "a number"


def coerce(path: str, value: Any, annotation: Any) -> Any:
    """Check `value` against the type of the field at `path`; an integer given for a float becomes one.

    Raises:
      UsageError: naming the path, what was given and what is allowed.
    """
    members = _members(annotation)
    for member in sorted(members, key=_strictness):
        accepted, result = _fit(value, member)
        if accepted:
            return result
    if isinstance(value, str) and str not in members and value.lower() in _NOT_FINITE and float in members:
        return float(value)
    raise UsageError(f"{path}={_shown(value)}: must be {describe(annotation)}")


def _strictness(member: Any) -> int:
    """Order in which the members of a union are tried: exact kinds before those that convert."""
    order = [type(None), bool, int, float, str]
    return order.index(member) if member in order else len(order)


def _fit(value: Any, member: Any) -> tuple[bool, Any]:
    origin = typing.get_origin(member)
    if member is tuple or origin is tuple:
        return _fit_tuple(value, typing.get_args(member))
    if origin is typing.Literal:
        return value in typing.get_args(member), value
    if member is Any:
        return True, value
    if member in (str, bool, type(None)):
        return isinstance(value, member), value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if member is int:
        return number and isinstance(value, int), value
    # What remains is float and the array types of leaves, which take plain numbers here.
    try:
        return number, float(value) if number else value
    except OverflowError:
        return False, value


def _fit_tuple(value: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, (tuple, list)):
        return False, value
    if not arguments:
        return True, tuple(value)
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        return False, value
    fits = [_fit(entry, kind) for entry, kind in zip(value, kinds, strict=True)]
    return all(accepted for accepted, _ in fits), tuple(result for _, result in fits)


# --- seeds and counts --------------------------------------------------------------------------------


def parse_seeds(value: Any) -> list[int]:
    """Expand `5` (0 ... 4), `195:225` (a range, end-exclusive), `3,7,9`, or a list of integers.

    Raises:
      UsageError: for no seed at all, a repeated one, or one outside 0 ... 2^32 - 1.
    """
    wanted = "write a count (seeds=5), a range (seeds=195:225) or a list (seeds=3,7,9)"
    if isinstance(value, str):
        items = [item for item in value.replace(" ", "").split(",") if item]
        if len(items) == 1 and "," not in value and ":" not in value:
            return parse_seeds(_seed(value, items[0], wanted))
        value = [seed for item in items for seed in _seed_range(value, item, wanted)]
    elif isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_VALUES:
            raise UsageError(f"seeds={value}: the number of seeds must be between 1 and {MAX_VALUES}")
        value = list(range(value))
    if not isinstance(value, list) or any(isinstance(s, bool) or not isinstance(s, int) for s in value):
        raise UsageError(f"seeds={_shown(value)}: {wanted}")
    if not value:
        raise UsageError("seeds: at least one is needed; " + wanted)
    for seed in value:
        if not 0 <= seed < _MAX_SEED:
            raise UsageError(f"seeds: {seed} is outside 0 ... {_MAX_SEED - 1}")
    if len(set(value)) != len(value):
        repeated = collections.Counter(value).most_common(1)[0][0]
        raise UsageError(f"seeds: {repeated} is repeated; name each seed once")
    return list(value)


def _seed(text: str, item: str, wanted: str) -> int:
    if not re.fullmatch(r"-?\d{1,20}", item):
        raise UsageError(f"seeds={_shown(text)}: {wanted}")
    return int(item)


def _seed_range(text: str, item: str, wanted: str) -> Iterable[int]:
    if ":" not in item:
        return [_seed(text, item, wanted)]
    ends = item.split(":")
    if len(ends) != 2:
        raise UsageError(f"seeds={_shown(text)}: {wanted}")
    start, stop = (_seed(text, end, wanted) for end in ends)
    if stop - start > MAX_VALUES:
        raise UsageError(f"seeds={_shown(text)}: more than {MAX_VALUES} seeds")
    return range(start, stop)


def parse_count(key: str, value: Any) -> int | None:
    """Read `steps`, `log_every` or `evaluations`: a positive integer, or none for the default.

    Raises:
      UsageError: for anything else.
    """
    if isinstance(value, str):
        value = parse_item(key, value)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        raise UsageError(f"{key}={_shown(value)}: must be an integer >= 1, or none")
    return value


def parse_paths(key: str, value: Any) -> list[str]:
    """Read `dataset`: paths separated by commas, or a list of them.

    Raises:
      UsageError: for anything else.
    """
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) and item.strip() for item in items):
        raise UsageError(f"{key}={_shown(value)}: must be paths separated by commas")
    paths = [item.strip() for item in items]
    if repeated := [path for path in paths if paths.count(path) > 1]:
        raise UsageError(f"{key}: {repeated[0]} is given twice")
    return paths
