"""Tables, figures and claims of the study `dec_pomfc` beyond the scores of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from marl_bench.experiments.papers import dec_pomfc_grid as grid
from marl_bench.report.figures import Curve, curves_with_bands, save_figure
from marl_bench.report.resampling import Interval
from marl_bench.report.statistics import bootstrap_interval, difference_interval
from marl_bench.report.tables import Column, Table
from marl_bench.report.trends import slope_interval
from marl_bench.report.verdicts import Expected, Verdict, judge, unmeasured

Frame = Any
"""A pandas DataFrame, of whose columns type checkers know too little."""

ABSTRACT = "Cui et al. 2024, abstract"
OURS = "specification of the reconstruction"

NULL = {"aggregation": "rest", "vicsek": "straight", "kuramoto": "straight"}
"""The scripted policy that does nothing."""


def tables(played: Frame, gradients: Frame) -> dict[str, Table]:
    """Tables of the experiments that only evaluate, by file name."""
    found = {
        "sizes": _by_size(played, "sizes", "E3: finite swarms, trained with 100 agents (CE-mode)", "world"),
        "protocols": _by_size(played, "protocols", "E5: ways to execute", "label"),
        "starts": _by_size(played, "starts", "E6: starts that were not trained with", "label"),
        "scripted": _by_size(played, "scripted", "Scripted policies", "label"),
    }
    title = "E12: local order after 100 steps, each agent with about 20 neighbours"
    note = "One episode of the first seed's policy, executed by act; and of agents that never turn."
    found["largest"] = _by_size(played, "largest", title, "label", note)
    if "transfer" in set(played["experiment"]):
        found["transfer"] = _by_size(
            played, "transfer", "E11: vicsek, trained and played with other numbers of agents", "trained"
        )
    columns = (
        Column("learner"),
        Column("agents", format="d"),
        Column("signal / noise", "", ".2e"),
        Column("seeds", format="d"),
    )
    rows = [
        (learner, int(agents), bootstrap_interval(group["value"].to_numpy()), len(group))
        for (learner, agents), group in gradients.groupby(["learner", "agents"], sort=False)
    ]
    note = "|mean|^2 over total variance of the actor's gradient for 8 episodes, at the parameters of the first update, in vicsek."
    found["gradients"] = Table("E10: signal of the policy gradient", columns, tuple(rows), frozenset(), (note,))
    return found


_RETURNS = "Returns of an agent, means over episodes and seeds; brackets: 95% bootstrap intervals over seeds."


def _by_size(played: Frame, experiment: str, title: str, row: str, note: str = _RETURNS) -> Table:
    """Mean returns over seeds, a row for each world and value of the column `row`, a column for each number of agents."""
    part = played[played["experiment"] == experiment]
    sizes = sorted(part["agents"].unique())
    keys = ["world"] if row == "world" else ["world", row]
    rows = []
    for key, group in part.groupby(keys, sort=False):
        by_size = {agents: bootstrap_interval(sample["value"].to_numpy()) for agents, sample in group.groupby("agents")}
        seeds = int(group.groupby("agents").size().min())
        rows.append((*map(str, key), *(by_size.get(agents) for agents in sizes), seeds))
    columns = (*map(Column, keys), *(Column(f"N={agents}", "", ".2f") for agents in sizes), Column("seeds", format="d"))
    return Table(title, columns, tuple(rows), frozenset(), (note,))


def figures(played: Frame, folder: Path) -> list[Path]:
    """E3 as a picture: the share of the gap between doing nothing and the best scripted policy, against the number of agents."""
    curves = []
    for world in grid.WORLDS:
        part = played[(played["experiment"] == "sizes") & (played["world"] == world)]
        sizes = sorted(part["agents"].unique())
        samples = [
            normalized(played, world, int(agents), part[part["agents"] == agents]["value"].to_numpy())
            for agents in sizes
        ]
        found = [bootstrap_interval(sample) for sample in samples]
        mean, low, high = ([getattr(one, name) for one in found] for name in ("estimate", "low", "high"))
        curves.append(Curve(world, np.log10(sizes), mean, low, high))
    figure = curves_with_bands(
        curves,
        title="Trained with 100 agents, played with N",
        x_title="log10 of the number of agents N",
        y_title="share of the gap from doing nothing to the best script\n(mean and 95% interval over seeds)",
    )
    return [save_figure(figure, folder, "sizes")[1]]


def normalized(played: Frame, world: str, agents: int, values: np.ndarray) -> np.ndarray:
    """(J - J_null) / (J_best - J_null) against the scripted policies with the same number of agents."""
    part = played[(played["experiment"] == "scripted") & (played["world"] == world) & (played["agents"] == agents)]
    by_name = part.set_index("label")["value"]
    null, best = float(by_name[NULL[world]]), float(by_name.max())
    return (values - null) / (best - null)


# --- claims -----------------------------------------------------------------------------------------------------


class _Judge:
    """Looks samples up and judges; a claim whose samples a scale leaves out is reported as not measured."""

    def __init__(self, scores: Frame, played: Frame, gradients: Frame) -> None:
        self.scores, self.played, self.gradients = scores, played, gradients
        self.verdicts: list[Verdict] = []

    def score(self, world: str, label: str, column: str = "value") -> np.ndarray:
        """[S] of a training run; empty if it is not part of the scale."""
        part = self.scores[(self.scores["world"] == world) & (self.scores["label"] == label)]
        return part[column].to_numpy(np.float64)

    def play(self, experiment: str, world: str, label: str, agents: int, trained: int | None = None) -> np.ndarray:
        """[S] of an evaluation; empty if it is not part of the scale."""
        part = self.played[
            (self.played["experiment"] == experiment)
            & (self.played["world"] == world)
            & (self.played["label"] == label)
            & (self.played["agents"] == agents)
        ]
        if trained is not None:
            part = part[part["trained"] == trained]
        return part["value"].to_numpy(np.float64)

    def share(self, world: str, agents: int, values: np.ndarray) -> np.ndarray:
        """Normalised scores; empty where the scripted ones are missing."""
        known = set(self.played[self.played["experiment"] == "scripted"]["agents"])
        return normalized(self.played, world, agents, values) if agents in known and values.size else np.empty(0)

    def claim(
        self,
        name: str,
        statement: str,
        samples: Sequence[np.ndarray],
        effect: str,
        expected: Expected,
        source: str,
        practical: float = 0.0,
        note: str = "",
    ) -> None:
        """Judge the mean of one sample [S] against 0, or the difference of the means of two; other arguments as for `judge`."""
        if any(not sample.size for sample in samples):
            self.verdicts.append(unmeasured(name, statement, note="its runs are not part of this scale", source=source))
            return
        interval = bootstrap_interval(samples[0]) if len(samples) == 1 else difference_interval(*samples)
        self.judge(name, statement, interval, effect, expected, source, practical, note)

    def judge(
        self,
        name: str,
        statement: str,
        interval: Interval,
        effect: str,
        expected: Expected,
        source: str,
        practical: float = 0.0,
        note: str = "",
    ) -> None:
        """Judge an interval."""
        self.verdicts.append(
            judge(
                interval,
                claim=name,
                statement=statement,
                effect=effect,
                expected=expected,
                practical=practical,
                note=note,
                source=source,
            )
        )


def verdicts(scores: Frame, played: Frame, gradients: Frame) -> list[Verdict]:
    """All claims of the study, in the order of the experiments."""
    court = _Judge(scores, played, gradients)
    _learning(court)
    _against_marl(court)
    _sizes(court)
    _kernels(court)
    _execution(court)
    _worlds_and_ablations(court)
    _gradients(court)
    return court.verdicts


def _learning(court: _Judge) -> None:
    for world, target in (("aggregation", 0.95), ("vicsek", 0.8), ("kuramoto", 0.8)):
        values = court.share(world, grid.SIZE, court.score(grid.sized(world, grid.SIZE), "dec_pomfc"))
        statement = f"dec_pomfc reaches {target} of the gap from doing nothing to the best script in {world}"
        court.claim(
            f"E1 {world}",
            statement,
            [values - target],
            f"share of the gap, N={grid.SIZE}, minus {target}",
            "positive",
            OURS,
        )
    for world, metric in (("vicsek", "polarisation"), ("kuramoto", "order")):
        values = court.score(grid.sized(world, grid.SIZE), "dec_pomfc", metric)
        court.claim(
            f"E1 order {world}",
            f"the order parameter of {world} is far above that of uncontrolled agents (0.09 for 100 random directions)",
            [values - 0.3] if values.size else [values],
            f"mean {metric} of an episode minus 0.3",
            "positive",
            ABSTRACT,
        )


def _against_marl(court: _Judge) -> None:
    pairs = [("vicsek", grid.SMALL, label, "") for label in grid.MARL]
    pairs += [("aggregation", grid.SMALL, label, "") for label in grid.MARL]
    pairs += [("kuramoto", grid.SMALL, "ippo", ""), ("vicsek", 5, "ippo", ""), ("vicsek", grid.SIZE, "ippo", " short")]
    for world, agents, label, suffix in pairs:
        name = grid.sized(world, agents) + suffix
        ours, theirs = (court.share(world, agents, court.score(name, one)) for one in ("dec_pomfc", label))
        court.claim(
            f"E2 {world} {agents} {label}",
            f"after as many environment steps dec_pomfc is on par with {label} in {world} with {agents} agents",
            [ours, theirs],
            f"share of the gap, dec_pomfc minus {label}",
            "equivalent",
            ABSTRACT,
            practical=0.1,
        )


def _sizes(court: _Judge) -> None:
    for world in grid.WORLDS:
        many, few = (
            court.share(world, agents, court.play("sizes", world, "CE-mode", agents)) for agents in (1000, grid.SIZE)
        )
        court.claim(
            f"E3 {world}",
            f"what was learned with {grid.SIZE} agents in {world} works with ten times as many",
            [many, few],
            f"share of the gap, N=1000 minus N={grid.SIZE}",
            "equivalent",
            OURS,
            practical=0.1,
        )
    for trained, agents in ((10, 300), (grid.SMALL, 300), (grid.SURFACE_SIZE, 300), (grid.SURFACE_SIZE, grid.SIZE)):
        there = court.play("transfer", "vicsek", "CE-mode", agents, trained)
        home = court.play("sizes", "vicsek", "CE-mode", agents, grid.SIZE)
        there, home = (court.share("vicsek", agents, values) for values in (there, home))
        court.claim(
            f"E11 {trained} to {agents}",
            f"a policy trained with {trained} agents plays as well with {agents} as one trained with {grid.SIZE}",
            [there, home],
            "share of the gap, difference",
            "equivalent",
            OURS,
            practical=0.05,
            note="equal environment steps only among those trained with less than 100 agents",
        )


def _kernels(court: _Judge) -> None:
    gaps = {}
    for dimensions in grid.DIMENSIONS:
        kernel, histogram = (court.score(grid.in_box(dimensions), rule) for rule in ("rbf", "hist"))
        gaps[dimensions] = (kernel, histogram)
        court.claim(
            f"E4 D={dimensions}",
            f"kernel rules return more than histogram rules with as many parameters, in {dimensions} dimensions",
            [kernel, histogram],
            "return, rbf minus hist, aggregation with 3 centres an axis",
            "positive",
            ABSTRACT,
        )
    name, statement = "E4 dimension", "the advantage of kernels grows with the dimension"
    if all(sample.size for pair in gaps.values() for sample in pair):
        rows = [(d, a - b, seed) for d, pair in gaps.items() for seed, (a, b) in enumerate(zip(*pair, strict=True))]
        x, y, seeds = (np.array(column) for column in zip(*rows, strict=True))
        court.judge(name, statement, slope_interval(x, y, seeds), "slope of rbf minus hist on D", "positive", OURS)
    else:
        court.claim(name, statement, [np.empty(0)], "", "positive", OURS)


def _execution(court: _Judge) -> None:
    for world in grid.WORLDS:
        at = {
            label: court.share(world, grid.SIZE, court.play("protocols", world, label, grid.SIZE))
            for label in ("CE", "CE-mode", "OL", "STAT")
        }
        court.claim(
            f"E5 mode {world}",
            f"the mode of the upper-level policy is no worse than its draws in {world}",
            [at["CE-mode"], at["CE"]],
            "share of the gap, CE-mode minus CE",
            "positive",
            OURS,
        )
        court.claim(
            f"E5 open loop {world}",
            f"open-loop execution loses nothing against knowing the mean field in {world}",
            [at["OL"], at["CE-mode"]],
            "share of the gap, OL minus CE-mode",
            "equivalent",
            "second-hand (open-loop policies were studied); the relation: " + OURS,
            practical=0.05,
        )
    for start in ("gauss", "two_clusters", "random_gauss"):
        feedback, blind = (
            court.play("starts", "aggregation", f"{label}, {start}", grid.SIZE) for label in ("CE-mode", "OL")
        )
        court.claim(
            f"E6 {start}",
            f"from {start} starts feedback returns more than the open-loop plan for the starts of training",
            [feedback, blind],
            "return, CE-mode minus OL, aggregation",
            "positive",
            OURS,
        )


def _worlds_and_ablations(court: _Judge) -> None:
    for surface in grid.SURFACES:
        values = court.score(f"vicsek {surface}", "dec_pomfc", "local_order")
        court.claim(
            f"E7 {surface}",
            f"agents align with their neighbours on {surface}",
            [values - 0.5] if values.size else [values],
            "mean local order of an episode minus 0.5",
            "positive",
            "remembered, unverified; " + OURS,
        )
    base = court.score(grid.sized("vicsek", grid.SMALL), "dec_pomfc")
    for label in grid.ABLATIONS:
        court.claim(
            f"E9 {label}",
            f"with {label} dec_pomfc is as good as with its defaults",
            [court.score(grid.sized("vicsek", grid.SMALL), label), base],
            "return, difference, vicsek with 25 agents",
            "equivalent",
            OURS,
            practical=4.0,
        )


def _gradients(court: _Judge) -> None:
    directions: dict[str, Literal["positive", "negative"]] = {"dec_pomfc": "positive", "ippo": "negative"}
    for learner, expected in directions.items():
        part = court.gradients[court.gradients["learner"] == learner]
        # Of the logarithm; an estimate below the noise counts as the noise's own.
        y = np.log10(np.maximum(part["value"].to_numpy(), 1e-3))
        interval = slope_interval(np.log10(part["agents"].to_numpy()), y, part["seed"].to_numpy())
        direction = "does not fall" if learner == "dec_pomfc" else "falls"
        court.judge(
            f"E10 {learner}",
            f"the signal-to-noise ratio of {learner}'s gradient {direction} with the number of agents",
            interval,
            "slope of log10 signal / noise on log10 N",
            expected,
            OURS,
            note="positive is asked for where 'does not fall' is claimed: a stricter relation"
            if learner == "dec_pomfc"
            else "",
        )
