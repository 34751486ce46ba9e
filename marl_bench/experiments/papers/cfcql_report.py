"""Tables and figures of the study `cfcql`, from the tables of scores that `cfcql_claims` describes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from marl_bench.experiments.papers.cfcql_claims import tuned
from marl_bench.report.figures import Curve, curves_with_bands, save_figure
from marl_bench.report.resampling import MIN_SEEDS, Interval
from marl_bench.report.statistics import bootstrap_interval
from marl_bench.report.tables import Column, Table

_LATER = "table of a later paper (CoFlow, arXiv 2605.01457)"
_NOTE = "third-party note on SPaCQL (AAAI 2026)"

_TABLE = {
    "omar_spread": {
        "omar": (114.9, 47.9, 37.9, 34.4),
        "td3_bc": (108.3, 39.4, 15.4, 9.8),
        "bc": (35.0, 31.6, 10.0, -0.5),
    },
    "omar_tag": {"omar": (123.9, 66.7, 47.1, 11.1), "td3_bc": (115.2, 65.1, 28.7, 6.0), "bc": (40.0, 22.5, 0.9, 1.2)},
    "omar_world": {"omar": (110.4, 74.6, 42.9, 5.9), "td3_bc": (110.3, 73.4, 17.4, 2.8), "bc": (33.0, 25.3, 2.3, -2.4)},
}
"""World -> learner -> scores on expert, medium, medium-replay and random data."""

PUBLISHED: dict[tuple[str, str, str], tuple[float, str]] = {
    **{
        (world, tier, learner): (value, _LATER)
        for world, by_learner in _TABLE.items()
        for learner, values in by_learner.items()
        for tier, value in zip(("expert", "medium", "medium-replay", "random"), values, strict=True)
    },
    ("omar_spread", "expert", "cfcql_continuous"): (112.0, _NOTE),
    ("omar_spread", "medium-replay", "cfcql_continuous"): (52.2, _NOTE),
    ("omar_spread", "random", "cfcql_continuous"): (62.2, _NOTE),
    ("omar_tag", "medium-replay", "cfcql_continuous"): (71.1, _NOTE),
    ("omar_world", "expert", "cfcql_continuous"): (119.7, _NOTE),
    ("omar_world", "medium-replay", "cfcql_continuous"): (73.4, _NOTE),
    ("omar_world", "random", "cfcql_continuous"): (68.0, _NOTE),
    ("omar_spread", "expert", "macql_continuous"): (12.2, _NOTE),
    ("omar_spread", "medium-replay", "macql_continuous"): (25.5, _NOTE),
    ("omar_spread", "random", "macql_continuous"): (45.6, _NOTE),
    ("omar_tag", "medium-replay", "macql_continuous"): (11.9, _NOTE),
    ("omar_tag", "random", "macql_continuous"): (25.2, _NOTE),
    ("omar_world", "medium-replay", "macql_continuous"): (13.2, _NOTE),
    ("omar_world", "random", "macql_continuous"): (11.7, _NOTE),
}
"""(world, tier, learner) -> normalised score as published, on other data; only cells that a second source confirms.

Random play on tag, where sources disagree about cfcql, is left out."""


def _mean(values: pd.Series) -> Interval:
    if values.isna().all():  # no score without data of an expert
        return Interval(np.nan, np.nan, np.nan, len(values))
    return bootstrap_interval(values.to_numpy(np.float64))


def _range(values: pd.Series) -> str:
    """The weights that were chosen, e.g. "5-50"."""
    low, high = values.min(), values.max()
    return "" if np.isnan(low) else f"{low:g}" if low == high else f"{low:g}-{high:g}"


def _marked(rows: Sequence[tuple], column: int) -> frozenset[int]:
    return frozenset(index for index, row in enumerate(rows) if row[column] < MIN_SEEDS)


def line_table(scores: pd.DataFrame) -> Table:
    """Returns in equal_line by data, number of agents and learner, weights tuned at each place."""
    rows = []
    chosen = pd.concat([tuned(scores, ["data", "players", "learner"]), scores[scores["weight"] == 0]])
    for (data, players, learner, control), group in chosen.assign(control=chosen["weight"] == 0).groupby(
        ["data", "players", "learner", "control"], sort=False
    ):
        ratio = group["value"] / group["behaviour"]
        weight = "0" if control else _range(group["weight"])
        means = group["behaviour"].mean(), _mean(group["value"]), _mean(ratio)
        rows.append(
            (data, players, learner, weight, *means, group["log_d_cf"].mean(), group["log_d_ma"].mean(), len(group))
        )
    columns = (
        *(
            Column("data"),
            Column("n", format="d"),
            Column("learner"),
            Column("weight"),
            Column("data's return", "", ".3g"),
        ),
        *(Column("return", "", ".3g"), Column("return / data's", "", ".3g")),
        *(Column("log D_CF", "", ".3g"), Column("log D_MA", "", ".3g"), Column("seeds", format="d")),
    )
    notes = (
        "Weight: the conservative weight that was best for the other seeds (their range); 0 is the control. Brackets: 95% "
        "bootstrap intervals over seeds, each with a data set of its own. D_CF and D_MA: mean chi-square divergence of the learned "
        "agents' softmax policies from the model of the data, one agent at a time and jointly.",
    )
    return Table("equal_line: from few agents to many", columns, tuple(rows), _marked(rows, -1), notes)


def weights_table(scores: pd.DataFrame, by: Sequence[str], column: str, title: str) -> Table:
    """The whole curve over weights, untuned."""
    rows = []
    for key, group in scores.dropna(subset=["weight"]).groupby([*by, "learner", "weight"], sort=False):
        rows.append((*key, _mean(group[column]), len(group)))
    columns = (*(Column(name) for name in by), Column("learner"), Column("weight", format="g"))
    return Table(
        title, (*columns, Column(column, "", ".3g"), Column("seeds", format="d")), tuple(rows), _marked(rows, -1)
    )


def ablation_table(scores: pd.DataFrame) -> Table:
    """How the agents' weights are made: temperature and sign."""
    rows = [
        (f"{temperature:g}", f"{sign:+g}", _mean(group["ratio"]), group["largest_weight"].mean(), len(group))
        for (temperature, sign), group in scores.groupby(["temperature", "sign"])
    ]
    columns = (Column("temperature"), Column("sign"), Column("return / data's", "", ".3g"))
    more = (Column("largest weight", "", ".3g"), Column("seeds", format="d"))
    return Table("Weights of the agents (lambda)", (*columns, *more), tuple(rows), _marked(rows, -1))


def particle_tables(scores: pd.DataFrame) -> dict[str, Table]:
    """Raw returns, normalised scores, and those beside published ones: never mixed."""
    best = tuned(scores, ["world", "data", "learner"])
    rows, beside = [], []
    for (world, data, learner), group in best.groupby(["world", "data", "learner"], sort=False):
        normalised = _mean(group["normalised"])
        own = group["behaviour"].mean(), round(group["data_normalised"].mean(), 4) + 0.0
        rows.append(
            (
                world,
                data,
                learner,
                _range(group["weight"]),
                own[0],
                _mean(group["value"]),
                own[1],
                normalised,
                len(group),
            )
        )
        if (world, data, learner) in PUBLISHED:
            value, source = PUBLISHED[world, data, learner]
            beside.append((world, data, learner, value, normalised, source))
    columns = (
        *(Column("world"), Column("data"), Column("learner"), Column("weight")),
        *(Column("data's return", "raw", ".4g"), Column("return", "raw", ".4g")),
        *(
            Column("data's score", "normalised", ".3g"),
            Column("score", "normalised", ".3g"),
            Column("seeds", format="d"),
        ),
    )
    notes = (
        "Raw: return of an agent, mean over agents, of the last policy in fresh episodes. Normalised: 100 (R - R_random) / (R_expert - "
        "R_random) with the mean returns of our own random and expert data. Weight: as in the table of equal_line.",
    )
    published = (
        *(Column("world"), Column("data"), Column("learner"), Column("published", "normalised", ".3g")),
        *(Column("ours", "normalised", ".3g"), Column("source of the published one")),
    )
    remark = (
        "Published scores are of other data and of 5 data sets with a long schedule; only relations can be compared.",
    )
    return {
        "particles": Table("Particle worlds", columns, tuple(rows), _marked(rows, -1), notes),
        "published": Table("Published scores beside ours", published, tuple(beside), notes=remark),
    }


def line_figures(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Ratio to the data over the number of agents, the two divergences, and return over weights."""
    drawn = []
    for data in dict.fromkeys(scores["data"]):
        rows = tuned(scores[scores["data"] == data], ["players", "learner"])
        rows = rows.assign(ratio=rows["value"] / rows["behaviour"])
        curves = [
            _curve(learner, rows[rows["learner"] == learner], "players", "ratio")
            for learner in dict.fromkeys(rows["learner"])
        ]
        figure = curves_with_bands(
            curves,
            title=f"equal_line, data {data}",
            x_title="agents n",
            y_title="return / return of the data (95% band)",
        )
        drawn.append(save_figure(figure, folder, f"line_{data}")[1])
    logged = tuned(scores[scores["learner"] == "cfcql"], ["data", "players"]).dropna(subset=["log_d_cf"])
    curves = [
        _curve(f"{label}, {data}", logged[logged["data"] == data], "players", column)
        for data in dict.fromkeys(logged["data"])
        for label, column in (("joint", "log_d_ma"), ("one agent at a time", "log_d_cf"))
    ]
    if curves:
        title = "Divergence of the learned policies from the data's"
        figure = curves_with_bands(curves, title=title, x_title="agents n", y_title="log D (95% band)")
        drawn.append(save_figure(figure, folder, "divergences")[1])
    return drawn


def _curve(label: str, rows: pd.DataFrame, x: str, y: str) -> Curve:
    groups = [(place, _mean(group[y])) for place, group in rows.groupby(x)]
    places = [place for place, _ in groups]
    return Curve(label, places, *([getattr(i, name) for _, i in groups] for name in ("estimate", "low", "high")))
