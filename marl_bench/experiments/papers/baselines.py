"""One engine for the tables of baselines: a study is data, and this trains, evaluates, judges and reports it.

A `Study` lists its `Entry`s (a world, a learner, its settings, seeds) at three scales, its claims and the published numbers that
stand beside ours. Every entry is one sweep over seeds, evaluated at regular times; its score is the absolute metric
(`marl_bench.absolute_metric`): the policy of the best evaluation, judged by fresh episodes. Tables give the mean and the
interquartile mean over seeds with 95% bootstrap intervals (stratified by world where worlds are pooled).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench import registry
from marl_bench.experiments.cells import SweepConfig
from marl_bench.experiments.papers import reporting
from marl_bench.report.figures import Runs, save_figure, training_curves
from marl_bench.report.resampling import MIN_SEEDS, Interval
from marl_bench.report.results import load_metrics, load_results
from marl_bench.report.statistics import bootstrap_interval, difference_interval, iqm, stratified_bootstrap_interval
from marl_bench.report.tables import Column, Table
from marl_bench.report.verdicts import Expected, Verdict, judge, unmeasured, verdict_table

Results = dict[tuple[str, str], Any]
"""(world, label) -> DataFrame with one row a seed."""

TRAINED = "trained"
"""Label of a claim about every learner of a world: the best of their means counts."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a study's table: a learner in a world.

    Attributes:
      world: its name in tables and figures.
      label: the learner's.
      config: what to run.
      per: what returns are divided by to give scores (steps of an episode, say).
    """

    world: str
    label: str
    config: SweepConfig
    per: float = 1.0

    @property
    def run(self) -> str:
        """Folder of the run directory."""
        return f"{self.world}+{self.label}".replace(" ", "_")


@dataclasses.dataclass(frozen=True)
class Published:
    """A number to stand beside ours.

    Attributes:
      world: as in `Entry`.
      label: as in `Entry`, or a policy that is not trained, such as random play.
      value: in the unit of the scores.
      source: where it stands, with UNVERIFIED where that could not be read.
    """

    world: str
    label: str
    value: float
    source: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim about scores of one world, as data: label minus other, or label minus a number.

    Attributes:
      name: short name.
      statement: in words.
      world: of the entry that it is about.
      label: of the entry, or `TRAINED`.
      expected: of the difference, see `marl_bench.report.verdicts.decide`.
      other: label of the entry to compare with; None for `target`.
      target: number to compare with.
      practical: smallest difference that matters.
      column: of the results; "score", or a measure.
      source: where the claim is published.
      note: what a reader must know.
    """

    name: str
    statement: str
    world: str
    label: str
    expected: Expected
    other: str | None = None
    target: float = 0.0
    practical: float = 0.0
    column: str = "score"
    source: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
    """A reproduction.

    Attributes:
      name: on the command line.
      title: of its tables.
      entries: scale -> what to run.
      claims: judged in this order; those whose entries a scale leaves out are reported as not measured.
      published: numbers to stand beside ours.
      column: of the results that scores come from.
      unit: of the scores.
      measures: column of the results -> heading, further columns of the second table.
      pooled: scores of all worlds are on one scale, so that learners can be compared over all of them.
      best: a score is that of the best evaluation's policy (the absolute metric); False for that of the last policy, where the
        question is what training ends with.
      remark: what a reader must know about all of it.
    """

    name: str
    title: str
    entries: Callable[[str], list[Entry]]
    claims: tuple[Claim, ...]
    published: tuple[Published, ...] = ()
    column: str = "return_sum"
    unit: str = "return of the team"
    measures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pooled: bool = False
    best: bool = True
    remark: str = ""

    @property
    def judged(self) -> str:
        """Which policy a score is of, in words."""
        return "the best evaluation's policy" if self.best else "the last policy"

    @property
    def prefix(self) -> str:
        """Of the columns of the results that are about that policy."""
        return "absolute_" if self.best else ""


def entry(
    world: str,
    label: str,
    environment: str,
    learner: str,
    steps: int,
    seeds: int,
    evaluations: int,
    environment_fields: Mapping[str, Any] | None = None,
    learner_fields: Mapping[str, Any] | None = None,
    per: float = 1.0,
) -> Entry:
    """An `Entry` whose steps are rounded up to a whole number of evaluations.

    Args:
      world: see `Entry`. label: see `Entry`.
      environment: registered name. learner: registered name.
      steps: environment steps of a seed, at least.
      seeds: number of seeds, from 0.
      evaluations: during training.
      environment_fields: of the world. learner_fields: of the learner.
      per: see `Entry`.
    """
    settings = dict(learner_fields or {})
    unit = evaluations * registry.make_learner(learner, **settings).update_steps
    config = SweepConfig(
        environment=environment,
        learner=learner,
        environment_fields={name: [value] for name, value in (environment_fields or {}).items()},
        learner_fields={name: [value] for name, value in settings.items()},
        seeds=list(range(seeds)),
        steps=-(-steps // unit) * unit,
        evaluations=evaluations,
    )
    return Entry(world, label, config, per)


# --- running ----------------------------------------------------------------------------------------------------


def reproduce(study: Study, scale: str, out: Path | str, *, resume: bool = True, wandb: str = "offline") -> int:
    """Train, evaluate and report one scale of a study.

    Args:
      study: what to do. scale: "smoke", "reduced" or "paper".
      out: folder for run directories (`runs/NAME`), `tables`, `figures`, `verdicts.json` and `report.md`.
      resume: continue what an interrupted reproduction left; finished runs are never trained again.
      wandb: "offline", "online" or "disabled".
    Returns:
      0; a claim that fails is a finding, not an error.
    Raises:
      UsageError: for an unknown scale. RunError: when a run fails.
    """
    reporting.check_scale(scale)
    folder = Path(out)
    runs = [(one.run, f"{one.world}: {one.label}", one.config) for one in study.entries(scale)]
    reporting.train(runs, folder, resume=resume, wandb=wandb)
    report(study, scale, folder)
    return 0


def report(study: Study, scale: str, folder: Path | str) -> list[Verdict]:
    """Write and print tables, figures and verdicts from the run directories in `folder`/runs.

    Raises:
      FileNotFoundError: when a run of the scale is missing.
    """
    folder = Path(folder)
    entries = study.entries(scale)
    results = load(study, entries, folder)
    runs = reporting.summaries(folder, [one.run for one in entries])
    found = tables(study, entries, results, runs)
    verdicts = [verdict(claim, results) for claim in study.claims]
    judged = verdict_table(verdicts, f"Claims at scale {scale}")
    pictures = figures(study, entries, folder)
    reporting.write(folder, study.name, scale, found, judged, verdicts, pictures, runs, study.remark)
    reporting.show((*found.values(), judged), f"report:  {folder / 'report.md'}")
    return verdicts


def load(study: Study, entries: Sequence[Entry], folder: Path) -> Results:
    """Results of every entry, with the columns `score` and `last` (the last policy), in units of the scores."""
    found = {}
    for one in entries:
        frame = load_results(folder / "runs" / one.run)
        score, last = (frame[f"{prefix}{study.column}"] / one.per for prefix in (study.prefix, ""))
        frame = frame.assign(score=score, last=last)
        # 0 stands for an episode in which nobody was paid: the mean is over the others, NaN if there are none.
        sustained, defined = (f"{study.prefix}social/sustainability{end}" for end in ("", "_defined"))
        if defined in frame:
            frame[sustained] /= frame[defined].where(frame[defined] > 0)
        found[one.world, one.label] = frame
    return found


# --- claims -----------------------------------------------------------------------------------------------------


def verdict(claim: Claim, results: Results) -> Verdict:
    """What the results say about one claim; undecided where an entry that it needs is missing."""
    label = claim.label
    if label == TRAINED:
        label = best_label(claim, results)
    names = [label] if claim.other is None else [label, claim.other]
    if not all((claim.world, name) in results for name in names):
        return unmeasured(claim.name, claim.statement, note="its runs are not part of this scale", source=claim.source)
    samples = [results[claim.world, name][claim.column].to_numpy(np.float64) for name in names]
    against = f"minus {claim.target:g}" if claim.other is None else f"minus {claim.other}"
    if claim.other is None:
        interval = bootstrap_interval(samples[0] - claim.target)
    else:
        interval = difference_interval(samples[0], samples[1])
    return judge(
        interval,
        claim=claim.name,
        statement=claim.statement,
        effect=f"{claim.column} in {claim.world}, {label} {against}",
        expected=claim.expected,
        practical=claim.practical,
        note=claim.note,
        source=claim.source,
    )


def best_label(claim: Claim, results: Results) -> str:
    """The learner with the largest mean in the claim's world; empty if there is none."""
    means = {
        label: float(frame[claim.column].mean()) for (world, label), frame in results.items() if world == claim.world
    }
    return max(means, key=lambda label: means[label], default="")


# --- tables and figures -----------------------------------------------------------------------------------------


def tables(
    study: Study, entries: Sequence[Entry], results: Results, runs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Table]:
    """Every table of the study by file name."""
    found = {"scores": _scores(study, entries, results, runs)}
    if study.pooled:
        found["learners"] = _pooled(study, results)
    if study.measures:
        found["measures"] = _measures(study, results)
    if study.published:
        found["published"] = _published(study, results)
    return found


def _marked(sizes: Sequence[int]) -> frozenset[int]:
    return frozenset(index for index, size in enumerate(sizes) if size < MIN_SEEDS)


def _scores(study: Study, entries: Sequence[Entry], results: Results, runs: Mapping[str, Any]) -> Table:
    columns = (
        *(Column("world"), Column("learner"), Column("score", study.unit, ".3f"), Column("IQM", "", ".3f")),
        *(Column("last policy", "", ".3f"), Column("best after", "steps", ".3s"), Column("seeds", format="d")),
        *(Column("steps", "a seed", "d"), Column("training", "s", ".0f"), Column("compiling", "s", ".0f")),
    )
    rows = []
    for one in entries:
        frame, run = results[one.world, one.label], runs[one.run]
        scores = frame["score"].to_numpy(np.float64)
        mean, middle = bootstrap_interval(scores), stratified_bootstrap_interval([scores])
        times = float(run["run_seconds"]), float(run["compile_seconds"]) + float(run["lower_seconds"])
        best = f"{frame['best_env_steps'].mean():,.0f}"
        steps = int(frame["env_steps"].iloc[0])
        rows.append((one.world, one.label, mean, middle, float(frame["last"].mean()), best, len(scores), steps, *times))
    notes = (
        f"Score: {study.unit} of {study.judged} in fresh episodes, mean over seeds; IQM: interquartile mean. "
        "Brackets: 95% bootstrap intervals over seeds. Seconds are for all seeds together, trained side by side.",
    )
    return Table(study.title, columns, tuple(rows), _marked([row[6] for row in rows]), notes)


def _pooled(study: Study, results: Results) -> Table:
    """Learners that were trained in every world, over all of them."""
    worlds = list(dict.fromkeys(world for world, _ in results))
    labels = dict.fromkeys(label for _, label in results if all((world, label) in results for world in worlds))
    rows = []
    for label in labels:
        scores = [results[world, label]["score"].to_numpy(np.float64) for world in worlds]
        intervals = [stratified_bootstrap_interval(scores, statistic) for statistic in (np.mean, iqm)]
        rows.append((label, *intervals, len(worlds), min(map(len, scores))))
    columns = (
        *(Column("learner"), Column("mean", study.unit, ".3f"), Column("IQM", study.unit, ".3f")),
        *(Column("worlds", format="d"), Column("seeds", "a world", "d")),
    )
    note = f"Over {', '.join(worlds)}. Brackets: 95% bootstrap intervals, seeds resampled within each world."
    return Table("Learners over all worlds", columns, tuple(rows), _marked([row[4] for row in rows]), (note,))


def _measures(study: Study, results: Results) -> Table:
    """Means over seeds of further columns of the best policy's evaluation."""
    rows = []
    for (world, label), frame in results.items():
        cells = [_measured(frame, study.prefix + column) for column in study.measures]
        rows.append((world, label, *cells, len(frame)))
    columns = (
        *(Column("world"), Column("learner")),
        *(Column(heading, format=".3g") for heading in study.measures.values()),
        Column("seeds", format="d"),
    )
    note = f"Of {study.judged} in fresh episodes. Brackets: 95% bootstrap intervals over seeds."
    return Table(f"{study.title}: further measures", columns, tuple(rows), _marked([row[-1] for row in rows]), (note,))


def _measured(frame: Any, column: str) -> Interval | None:
    if column not in frame.columns:
        return None
    values = frame[column].to_numpy(np.float64)
    return bootstrap_interval(values) if np.isfinite(values).all() else None


def _published(study: Study, results: Results) -> Table:
    rows = []
    for number in study.published:
        frame = results.get((number.world, number.label))
        ours = None if frame is None else bootstrap_interval(frame["score"].to_numpy(np.float64))
        rows.append((number.world, number.label, number.value, ours, number.source))
    columns = (
        *(Column("world"), Column("policy"), Column("published", study.unit, ".3f")),
        *(Column("ours", study.unit, ".3f"), Column("source")),
    )
    return Table("Published numbers beside ours", columns, tuple(rows))


def figures(study: Study, entries: Sequence[Entry], folder: Path) -> list[Path]:
    """Draw the evaluations during training of every world into `folder`/figures; returns the PNG files."""
    drawn = []
    for world in dict.fromkeys(one.world for one in entries):
        lines = []
        for one in (one for one in entries if one.world == world):
            column = f"eval_{study.column}"
            curves = load_metrics(folder / "runs" / one.run, ["cell", "env_steps", column])
            wide = curves.pivot(index="cell", columns="env_steps", values=column)
            lines.append(Runs(one.label, wide.columns.to_numpy(), wide.to_numpy() / one.per))
        figure = training_curves(lines, title=f"{study.title}: {world}", y_title=f"{study.unit} (evaluation)")
        drawn.append(save_figure(figure, folder / "figures", re.sub(r"[^\w.-]", "_", world))[1])
    return drawn
