"""A claim's verdict: does the stored evidence support it, contradict it, or leave it open?

A verdict is read off the interval of one effect. "Undecided" is an outcome in its own right: it means that the
interval allows both answers at this number of seeds, not that the claim is wrong.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

from marl_bench.naming import nearest
from marl_bench.report.resampling import MIN_SEEDS, Interval
from marl_bench.report.tables import Column, Table

Outcome = Literal["holds", "fails", "undecided"]
Expected = Literal["positive", "negative", "different", "equivalent"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the results say about one claim.

    Attributes:
      claim: short name, e.g. "X1".
      statement: the claim in words.
      outcome: "holds", "fails" or "undecided".
      effect: what was measured, in words, e.g. "collapsed fraction at B 0.62 minus at B 0.12".
      estimate: effect size in `unit`; NaN when there is none.
      low: lower end of its interval; NaN when it cannot be estimated.
      high: upper end of its interval.
      unit: unit of the effect, empty for a pure number.
      n: number of independent units (seeds of the smallest group, cells or clusters).
      note: what a reader must know: the margin used, missing runs, a shortened protocol.
      source: where the claim is published.
    """

    claim: str
    statement: str
    outcome: Outcome
    effect: str
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    n: int = 0
    note: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Check the outcome and the order of the interval."""
        _choice("outcome", self.outcome, get_args(Outcome))
        if self.low > self.high:
            raise ValueError(
                f"low={self.low!r} is above high={self.high!r}: swap them (field of Verdict {self.claim!r})"
            )

    def record(self) -> dict[str, Any]:
        """The fields as plain values for JSON; a number that does not exist is None."""
        fields = dataclasses.asdict(self)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(choices)}{nearest(str(value), choices)}")


def decide(estimate: float, low: float, high: float, *, expected: Expected, practical: float = 0.0) -> Outcome:
    """Read an outcome off an interval.

    With the margin m = `practical`, effects in [-m, m] count as equivalent to none:

    | expected   | holds when            | fails when                  |
    |------------|-----------------------|-----------------------------|
    | positive   | low > m               | high < 0, or high <= m, m > 0 |
    | negative   | high < -m             | low > 0, or low >= -m, m > 0  |
    | different  | low > m or high < -m  | [low, high] in [-m, m], m > 0 |
    | equivalent | [low, high] in [-m, m] | low > m or high < -m        |

    Everything else is undecided; so is an interval of NaN (a single seed, a constant outcome). An interval that is
    exactly [0, 0] fails a directed claim only if a margin is stated.

    Args:
      estimate: effect size; it must lie in the interval.
      low: lower end of the interval.
      high: upper end of the interval.
      expected: what the claim says about the effect.
      practical: smallest effect that matters, in the unit of the estimate, >= 0; "equivalent" needs one above 0.
    Raises:
      ValueError: for an unknown `expected`, a negative or missing margin, or an estimate outside its interval.
    """
    _choice("expected", expected, get_args(Expected))
    if not (math.isfinite(practical) and practical >= 0.0):
        raise ValueError(f"practical={practical!r}: must be a finite number >= 0")
    if expected == "equivalent" and practical == 0.0:
        raise ValueError("practical=0: a claim of equivalence needs the largest difference that still counts as none")
    if math.isnan(estimate) or math.isnan(low) or math.isnan(high):
        return "undecided"
    if not low <= estimate <= high:
        raise ValueError(f"estimate={estimate!r} lies outside its interval [{low!r}, {high!r}]")
    if expected == "negative":
        return decide(-estimate, -high, -low, expected="positive", practical=practical)
    inside = practical > 0.0 and -practical <= low and high <= practical
    outside = low > practical or high < -practical
    if expected == "positive":
        holds, fails = low > practical, high < 0.0 or (practical > 0.0 and high <= practical)
    elif expected == "different":
        holds, fails = outside, inside
    else:
        holds, fails = inside, outside
    return "holds" if holds else "fails" if fails else "undecided"


def judge(
    interval: Interval,
    *,
    claim: str,
    statement: str,
    effect: str,
    expected: Expected,
    practical: float = 0.0,
    unit: str = "",
    note: str = "",
    source: str = "",
) -> Verdict:
    """Make the `Verdict` of a claim from the interval of its effect.

    Args:
      interval: effect with its interval.
      claim: short name.
      statement: the claim in words.
      effect: what was measured.
      expected: what the claim says about the effect, see `decide`.
      practical: smallest effect that matters, see `decide`; a margin above 0 is added to the note.
      unit: unit of the effect.
      note: further remarks.
      source: where the claim is published.
    Raises:
      ValueError: as for `decide`.
    """
    outcome = decide(interval.estimate, interval.low, interval.high, expected=expected, practical=practical)
    margin = f"margin {practical:g}{' ' + unit if unit else ''}" if practical > 0.0 else ""
    return Verdict(
        claim=claim,
        statement=statement,
        outcome=outcome,
        effect=effect,
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        unit=unit,
        n=interval.n,
        note="; ".join(part for part in (note, margin) if part),
        source=source,
    )


def unmeasured(claim: str, statement: str, *, note: str, source: str = "") -> Verdict:
    """Make the `Verdict` of a claim for which there is no result, or whose original gives no readable number.

    Args:
      claim: short name.
      statement: the claim in words.
      note: why it was not measured.
      source: where the claim is published.
    """
    return Verdict(claim, statement, "undecided", "not measured", note=note, source=source)


def verdict_table(verdicts: Iterable[Verdict], title: str = "Verdicts") -> Table:
    """Table of verdicts; the ones measured on fewer than `MIN_SEEDS` units are marked.

    Args:
      verdicts: in the order of the rows.
      title: of the table.
    """
    listed = list(verdicts)
    columns = (
        Column("claim"),
        Column("outcome", styles={"holds": "bold green", "fails": "bold red", "undecided": "bold yellow"}),
        Column("statement"),
        Column("effect"),
        Column("estimate", format=".3g"),
        Column("unit"),
        Column("n", format="d"),
        Column("note"),
        Column("source"),
    )
    rows = tuple(
        (
            v.claim,
            v.outcome,
            v.statement,
            v.effect,
            Interval(v.estimate, v.low, v.high, v.n),
            v.unit,
            v.n,
            v.note,
            v.source,
        )
        for v in listed
    )
    marked = frozenset(index for index, v in enumerate(listed) if 0 < v.n < MIN_SEEDS)
    return Table(title, columns, rows, marked)
