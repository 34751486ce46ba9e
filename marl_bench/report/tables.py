"""One table model and its three renderings: terminal (rich), Markdown, CSV.

Text in cells comes from names that users choose, so every renderer escapes what its format would interpret. CSV
carries full precision and one column for each end of an interval; the other two are for reading.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from marl_bench.naming import nearest
from marl_bench.report.resampling import MIN_SEEDS, Interval
from marl_bench.report.statistics import fraction_interval, normal_interval

if TYPE_CHECKING:
    import pandas
    import rich.table

DAGGER = "†"
FOOTNOTE = f"{DAGGER} fewer than {MIN_SEEDS} seeds: read the interval with care."
MISSING = "–"

_MARKDOWN = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {c: "\\" + c for c in "\\|[]*`~"})
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclasses.dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
      name: heading.
      unit: unit of its numbers, shown in the heading; empty for none.
      format: format specification for its numbers, e.g. ".3f"; "d" for counts.
      styles: rich style by cell text, for the terminal only.
    """

    name: str
    unit: str = ""
    format: str = ".4g"
    styles: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def heading(self) -> str:
        """Name with its unit."""
        return self.suffixed("")

    def suffixed(self, suffix: str) -> str:
        """Heading with `suffix` on the name, for the ends of an interval."""
        return f"{self.name}{suffix} ({self.unit})" if self.unit else f"{self.name}{suffix}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text, numbers and intervals.

    Attributes:
      title: what the table shows.
      columns: the columns.
      rows: one tuple a row: text, numbers, `Interval`s, or None for a missing entry.
      marked: indices of rows that rest on fewer than `MIN_SEEDS` seeds.
      notes: footnotes.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    marked: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that every row fits the columns."""
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {index} of table {self.title!r} has {len(row)} cells for {len(self.columns)} columns"
                )

    def text(self) -> list[list[str]]:
        """Cells as text, before escaping, with a dagger on the first cell of marked rows."""
        lines = [[_text(c, column.format) for c, column in zip(row, self.columns, strict=True)] for row in self.rows]
        for index in self.marked:
            lines[index][0] = f"{lines[index][0]} {DAGGER}"
        return lines

    def footnotes(self) -> tuple[str, ...]:
        """The notes, and the explanation of the dagger where one is used."""
        return self.notes + ((FOOTNOTE,) if self.marked else ())

    def is_numeric(self, index: int) -> bool:
        """Does column `index` hold only numbers and intervals (or nothing)?"""
        cells = [row[index] for row in self.rows if row[index] is not None]
        return bool(cells) and all(isinstance(cell, (numbers.Number, np.generic, Interval)) for cell in cells)

    def to_rich(self) -> rich.table.Table:
        """The table as a rich renderable; cell text is never read as markup."""
        from rich.table import Table as RichTable
        from rich.text import Text

        caption = Text("\n".join(map(_clean, self.footnotes())))
        table = RichTable(title=Text(_clean(self.title)), caption=caption, caption_justify="left")
        for index, column in enumerate(self.columns):
            justify = "right" if self.is_numeric(index) else "left"
            table.add_column(Text(_clean(column.heading)), justify=justify, overflow="fold")
        for line in self.text():
            cells = zip(line, self.columns, strict=True)
            table.add_row(*(Text(cell, style=column.styles.get(cell, "")) for cell, column in cells))
        return table

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, with its title as a bold line and footnotes below."""
        rules = ["---:" if self.is_numeric(index) else ":---" for index in range(len(self.columns))]
        headings = [_markdown(column.heading) for column in self.columns]
        body = [[_markdown(cell) for cell in line] for line in self.text()]
        grid = ["| " + " | ".join(line) + " |" for line in (headings, rules, *body)]
        notes = [line for note in self.footnotes() for line in ("", _markdown(note))]
        return "\n".join([f"**{_markdown(self.title)}**", "", *grid, *notes]) + "\n"

    def to_csv(self) -> str:
        """The table as CSV (RFC 4180 quoting, newline ends) at full precision.

        A column of intervals becomes three: the estimate, `_low` and `_high`. Text that a spreadsheet would run as a
        formula is prefixed with an apostrophe. Marked rows are not flagged: the table has its counts.
        """
        wide = [any(isinstance(row[index], Interval) for row in self.rows) for index in range(len(self.columns))]
        head: list[str] = []
        for column, is_wide in zip(self.columns, wide, strict=True):
            head += [column.suffixed(suffix) for suffix in (("", "_low", "_high") if is_wide else ("",))]
        lines = [
            [cell for c, is_wide in zip(row, wide, strict=True) for cell in _fields(c, is_wide)] for row in self.rows
        ]
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([[_csv_text(name) for name in head], *lines])
        return buffer.getvalue()


# --- cells --------------------------------------------------------------------------------------------------------


def _clean(text: str) -> str:
    """One line without control characters, which a terminal could obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _number(value: Any, spec: str) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if isinstance(value, (numbers.Integral, np.integer)) and not spec.endswith("f"):
        return str(int(value))
    whole = float(value).is_integer()
    text = format(int(value) if spec == "d" and whole else float(value), spec if spec != "d" or whole else ".4g")
    return text.removeprefix("-") if set(text) <= set("-0.") else text


def _text(cell: Any, spec: str) -> str:
    if cell is None:
        return MISSING
    if isinstance(cell, Interval):
        estimate = _number(cell.estimate, spec)
        if math.isnan(cell.low) or math.isnan(cell.high):
            return estimate
        return f"{estimate} [{_number(cell.low, spec)}, {_number(cell.high, spec)}]"
    if isinstance(cell, (numbers.Real, np.generic)) and not isinstance(cell, (str, bytes)):
        return _number(cell, spec)
    return _clean(str(cell))


def _markdown(text: str) -> str:
    return _clean(text).translate(_MARKDOWN)


def _csv_text(text: str) -> str:
    text = _clean(text)
    return "'" + text if text.startswith(_FORMULA) else text


def _csv_cell(cell: Any) -> Any:
    if cell is None or (isinstance(cell, (float, np.floating)) and math.isnan(cell)):
        return ""
    if isinstance(cell, str):
        return _csv_text(cell)
    return cell.item() if isinstance(cell, np.generic) else cell


def _fields(cell: Any, wide: bool) -> list[Any]:
    if isinstance(cell, Interval):
        return [_csv_cell(value) for value in cell[:3]]
    return [_csv_cell(cell), "", ""] if wide else [_csv_cell(cell)]


# --- group by -----------------------------------------------------------------------------------------------------


def _require(frame: pandas.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in frame.columns:
            known = [str(column) for column in frame.columns]
            raise LookupError(
                f"the results have no column {name!r}{nearest(name, known)} (columns: {', '.join(known)})"
            )


def aggregate(
    frame: pandas.DataFrame, by: Sequence[str], value: str = "cooperation_rate", *, collapse_below: float = 0.5
) -> pandas.DataFrame:
    """Summarise an outcome over seeds within each condition.

    Args:
      frame: one row a cell, as from `load_results`.
      by: columns that define a condition.
      value: outcome column.
      collapse_below: a run below this counts as collapsed.
    Returns:
      one row a condition, sorted by it: the columns of `by`; `mean`, `low`, `high` (1.96 standard errors); `collapsed`,
      `collapsed_low`, `collapsed_high` (fraction with its Wilson interval); `n` runs used; `missing` runs without a
      finite outcome. A condition without any finite outcome has NaN and n = 0.
    Raises:
      LookupError: for an unknown column, with the nearest name. ValueError: when `by` is empty.
    """
    import pandas

    keys = list(by)
    if not keys:
        raise ValueError("by is empty: name at least one column that defines a condition")
    _require(frame, [*keys, value])
    rows = []
    for condition, group in frame.groupby(keys, sort=True, dropna=False):
        outcomes = group[value].to_numpy(dtype=np.float64, na_value=np.nan)
        finite = outcomes[np.isfinite(outcomes)]
        nothing = Interval(math.nan, math.nan, math.nan, 0)
        mean = normal_interval(finite) if finite.size else nothing
        fraction = fraction_interval(finite, below=collapse_below) if finite.size else nothing
        rows.append(
            [*cast(tuple[Any, ...], condition), *mean[:3], *fraction[:3], finite.size, outcomes.size - finite.size]
        )
    names = ["mean", "low", "high", "collapsed", "collapsed_low", "collapsed_high", "n", "missing"]
    return pandas.DataFrame(rows, columns=[*keys, *names])


def aggregate_table(
    frame: pandas.DataFrame,
    by: Sequence[str],
    value: str = "cooperation_rate",
    *,
    title: str,
    unit: str = "",
    units: Mapping[str, str] | None = None,
    collapse_below: float = 0.5,
) -> Table:
    """`aggregate` as a `Table`; conditions with fewer than `MIN_SEEDS` runs are marked.

    Args:
      frame: one row a cell.
      by: columns that define a condition.
      value: outcome column.
      title: of the table.
      unit: unit of the outcome.
      units: unit of each condition column.
      collapse_below: a run below this counts as collapsed.
    Raises:
      LookupError: for an unknown column. ValueError: when `by` is empty.
    """
    summary = aggregate(frame, by, value, collapse_below=collapse_below)
    named = units or {}
    columns = (
        *(Column(name, named.get(name, "")) for name in by),
        Column(value, unit, ".3f"),
        Column(f"fraction below {collapse_below:g}", "", ".2f"),
        Column("n", "seeds", "d"),
        Column("missing", "seeds", "d"),
    )
    rows = []
    for line in summary.to_dict("records"):
        mean = Interval(line["mean"], line["low"], line["high"], line["n"])
        collapsed = Interval(line["collapsed"], line["collapsed_low"], line["collapsed_high"], line["n"])
        rows.append((*(line[name] for name in by), mean, collapsed, line["n"], line["missing"]))
    marked = frozenset(index for index, n in enumerate(summary["n"]) if n < MIN_SEEDS)
    note = "Brackets: mean ± 1.96 standard errors; for the fraction, Wilson's 95% interval."
    return Table(title, columns, tuple(rows), marked, (note,))
