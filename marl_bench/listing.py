"""`marl-bench list`: every environment, learner and paper, with every field, its type, default, unit and meaning."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from marl_bench import presets, registry
from marl_bench.errors import UsageError
from marl_bench.experiments import overrides
from marl_bench.experiments.cells import default_of


class FieldRow(NamedTuple):
    """One field of a configuration, as text.

    Attributes:
      name: as in `env.NAME=` or `learner.NAME=`.
      type: which values it takes, in words.
      default: its default; "(required)" without one.
      unit: physical or game unit; empty if none.
      sweep: "leaf" if cells that differ in it share one compiled program, else "static".
      doc: meaning, legal range, symbol.
    """

    name: str
    type: str
    default: str
    unit: str
    sweep: str
    doc: str


def describe_fields(cls: type) -> list[FieldRow]:
    """The constructor fields of an environment or learner class, in order; empty if it is no dataclass."""
    annotations = overrides.field_types(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)} if annotations else {}
    return [_row(cls, fields[name], annotation) for name, annotation in annotations.items()]


def _row(cls: type, field: dataclasses.Field, annotation: object) -> FieldRow:
    default = default_of(cls, field.name)
    shown = "none" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
    return FieldRow(
        name=field.name,
        type=overrides.describe(annotation),
        default="(required)" if default is dataclasses.MISSING else shown,
        unit=field.metadata.get("unit", ""),
        sweep="leaf" if field.metadata.get("pytree_node", True) else "static",
        doc=" ".join(field.metadata.get("doc", "").split()),
    )


def summary_of(cls: type) -> str:
    """First line of a class's docstring; empty if it has none of its own."""
    text = inspect.cleandoc(cls.__doc__ or "")
    generated = text.startswith(f"{cls.__name__}(")
    return "" if generated or not text else text.splitlines()[0]


def print_classes(kind: str, stream: TextIO) -> None:
    """Print all environments or learners: tables on a terminal, plain lines otherwise.

    Args:
      kind: "environment" or "learner".
      stream: where to print.
    """
    names = registry.environments() if kind == "environment" else registry.learners()
    prefix = "env" if kind == "environment" else "learner"
    for name in names:
        try:
            cls = registry.resolve(name, kind)
        except Exception as error:
            # A broken plug-in must not hide the others.
            stream.write(f"{name}: cannot be imported ({type(error).__name__}: {error})\n\n")
            continue
        _print_table(f"{name}: {summary_of(cls)}".rstrip(": "), prefix, describe_fields(cls), stream)
        if kind == "environment":
            _print_presets(name, stream)


def _print_presets(name: str, stream: TextIO) -> None:
    """One line a preset of environment `name`, with the fields that it sets."""
    for preset, (base, fields) in presets.PRESETS.items():
        if base == name:
            stream.write(f"  preset {preset}: {', '.join(f'{key}={value}' for key, value in fields.items())}\n")
    stream.write("\n" if any(base == name for base, _ in presets.PRESETS.values()) else "")


def _print_table(title: str, prefix: str, rows: Sequence[FieldRow], stream: TextIO) -> None:
    if not stream.isatty():
        stream.write(title + "\n")
        for row in rows:
            unit = f" [{row.unit}]" if row.unit else ""
            stream.write(
                f"  {prefix}.{row.name}={row.default}{unit} ({row.type}; {row.sweep}) {row.doc}".rstrip() + "\n"
            )
        stream.write("\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*(name.capitalize() for name in FieldRow._fields), title=Text(title), title_justify="left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row._replace(name=f"{prefix}.{row.name}")))
    Console(file=stream).print(table)


def print_ids(scheme: str, stream: TextIO) -> None:
    """Print the names of another suite's environments, one a line.

    Args:
      scheme: one of `presets.SCHEMES`.
      stream: where to print.
    Raises:
      UsageError: where the suite is not installed, with the command that installs it.
    """
    adapter = importlib.import_module(presets.SCHEMES[scheme].partition(":")[0])
    try:
        ids = adapter.known_ids()
    except LookupError as error:
        raise UsageError(str(error)) from error
    stream.write("".join(f"{scheme}:{id}\n" for id in ids))


def print_papers(stream: TextIO) -> None:
    """Print the papers that `marl-bench reproduce` knows, one a line."""
    from marl_bench.experiments.papers import PAPERS

    for name, title in sorted(PAPERS.items()):
        stream.write(f"{name}: {title}\n")
