"""Schelling diagrams: is a world a social dilemma for a given pair of policies, and of which kind?

With l cooperators among the *other* N - 1 agents, R_C(l) and R_D(l) are the mean returns of a cooperator and of a
defector. A social dilemma (Hughes et al. 2018, after Macy and Flache 2002) has

  1. R_C(N - 1) > R_D(0): all cooperating beats all defecting;
  2. R_C(N - 1) > R_C(0): a cooperator wants the others to cooperate;
  3. fear, R_D(0) > R_C(0), or greed, R_D(N - 1) > R_C(N - 1): somebody is better off defecting.

Each is judged by bootstrapping episodes. The answer is about these two policies, not about all that could be learned.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from marl_bench.report.canvas import PALETTE, STYLE, label_axes, new_figure, set_title
from marl_bench.report.resampling import Floats, Interval, check_settings, cluster_weights, percentile_interval

DILEMMA, NO_DILEMMA, UNDECIDED = "social dilemma", "no social dilemma", "undecided"
"""The three verdicts."""

_KINDS = {
    (True, True): "prisoner's dilemma",
    (False, True): "chicken",
    (True, False): "stag hunt",
    (False, False): "harmony",
}
"""By (fear, greed); for two agents the classes of symmetric 2 x 2 games."""


class Diagnosis(NamedTuple):
    """What a Schelling diagram shows, with bootstrap intervals over episodes.

    Attributes:
      cooperator: N intervals, R_C(l) for l = 0 ... N - 1 other cooperators, in units of return.
      defector: N intervals, R_D(l).
      group: N + 1 intervals, return of all agents with m = 0 ... N cooperators.
      gain: R_C(N - 1) - R_D(0).
      benefit: R_C(N - 1) - R_C(0).
      fear: R_D(0) - R_C(0).
      greed: R_D(N - 1) - R_C(N - 1).
      probability: share of resamples in which all three conditions hold.
      verdict: `DILEMMA`, `NO_DILEMMA` or `UNDECIDED`.
      kind: game of the point estimates: prisoner's dilemma (fear and greed), stag hunt (fear), chicken (greed),
        harmony (neither), or deadlock (fear and greed, but all defecting is no worse than all cooperating).
      crossings: numbers of other cooperators, interpolated, at which R_D - R_C changes its sign.
      tipping: number of cooperators with the largest return of the group.
    """

    cooperator: tuple[Interval, ...]
    defector: tuple[Interval, ...]
    group: tuple[Interval, ...]
    gain: Interval
    benefit: Interval
    fear: Interval
    greed: Interval
    probability: float
    verdict: str
    kind: str
    crossings: tuple[float, ...]
    tipping: int


def _checked(values: ArrayLike, name: str, missing: int | None) -> Floats:
    """[N + 1, E] finite values; row `missing` is ignored and set to 0."""
    array = np.array(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < 3 or array.shape[1] < 2:
        raise ValueError(f"{name} has shape {array.shape}: need [N + 1, E] with N >= 2 agents and E >= 2 episodes")
    if missing is not None:
        array[missing] = 0.0
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds non-finite returns")
    return array


def diagnose(
    cooperators: ArrayLike,
    defectors: ArrayLike,
    group: ArrayLike,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Diagnosis:
    """Judge the returns of E episodes of each composition; row m has m cooperators among N agents.

    The verdict is `DILEMMA` (`NO_DILEMMA`) if the three conditions hold in at least (at most) the share
    (1 + confidence) / 2 (its complement) of the resamples. Differences below a millionth of the largest return are rounding.

    Args:
      cooperators: [N + 1, E] mean return of the cooperators; row 0 is not looked at.
      defectors: [N + 1, E] mean return of the defectors; row N is not looked at.
      group: [N + 1, E] return of all agents.
      resamples: bootstrap samples of the episodes of every composition.
      confidence: coverage of the intervals, in (0, 1).
      seed: of the bootstrap.
    Raises:
      ValueError: for unequal shapes, fewer than 2 agents or episodes, non-finite returns, or a setting out of range.
    """
    check_settings(resamples, confidence)
    paid_c, paid_d = _checked(cooperators, "cooperators", 0), _checked(defectors, "defectors", -1)
    paid = _checked(group, "group", None)
    if not paid_c.shape == paid_d.shape == paid.shape:
        raise ValueError(f"shapes differ: cooperators {paid_c.shape}, defectors {paid_d.shape}, group {paid.shape}")
    agents, episodes = paid.shape[0] - 1, paid.shape[1]
    data = np.stack([paid_c, paid_d, paid])
    drawn = _resampled(data, resamples, seed)
    mean = data.mean(axis=-1)

    def interval(samples: Floats, estimate: float) -> Interval:
        return percentile_interval(samples, estimate, confidence, [episodes])

    def curve(which: int, rows: range) -> tuple[Interval, ...]:
        return tuple(interval(drawn[:, which, m], mean[which, m]) for m in rows)

    resampled, estimated = _differences(drawn), _differences(mean[None])
    noise = 1e-6 * max(1e-12, float(np.abs(mean).max()))
    holds = (resampled[:, 0] > noise) & (resampled[:, 1] > noise) & (resampled[:, 2:] > noise).any(axis=1)
    probability, bar = float(holds.mean()), (1 + confidence) / 2
    verdict = DILEMMA if probability >= bar else NO_DILEMMA if probability <= 1 - bar else UNDECIDED
    gain, benefit, fear, greed = (interval(resampled[:, i], estimated[0, i]) for i in range(4))
    return Diagnosis(
        cooperator=curve(0, range(1, agents + 1)),
        defector=curve(1, range(agents)),
        group=curve(2, range(agents + 1)),
        gain=gain,
        benefit=benefit,
        fear=fear,
        greed=greed,
        probability=probability,
        verdict=verdict,
        kind=_kind(estimated[0], noise),
        crossings=_crossings(mean[1, :-1] - mean[0, 1:]),
        tipping=int(np.argmax(mean[2])),
    )


def _resampled(data: Floats, resamples: int, seed: int) -> Floats:
    """[R, 3, N + 1] means of bootstrap samples of the episodes of every composition; `data` [3, N + 1, E]."""
    episodes = data.shape[-1]
    generator = np.random.default_rng(seed)
    drawn = np.empty((resamples, *data.shape[:2]))
    for m in range(data.shape[1]):
        drawn[:, :, m] = cluster_weights(generator, resamples, episodes) @ data[:, m].T / episodes
    return drawn


def _kind(differences: Floats, noise: float) -> str:
    """Name of the game of gain, benefit, fear and greed [4]."""
    gain, _, fear, greed = differences
    kind = _KINDS[bool(fear > noise), bool(greed > noise)]
    return "deadlock" if kind == "prisoner's dilemma" and gain <= noise else kind


def _differences(means: Floats) -> Floats:
    """[R, 4]: gain, benefit, fear, greed of means [R, 3, N + 1] (cooperators, defectors, group)."""
    all_cooperate, lone_cooperator = means[:, 0, -1], means[:, 0, 1]
    all_defect, lone_defector = means[:, 1, 0], means[:, 1, -2]
    return np.stack(
        [
            all_cooperate - all_defect,
            all_cooperate - lone_cooperator,
            all_defect - lone_cooperator,
            lone_defector - all_cooperate,
        ],
        axis=1,
    )


def _crossings(difference: Floats) -> tuple[float, ...]:
    """Interpolated places between integers at which `difference` [N] changes its sign; a touch at 0 counts once."""
    found = []
    for left in range(len(difference) - 1):
        a, b = difference[left], difference[left + 1]
        if a * b < 0:
            found.append(float(left + a / (a - b)))
        elif b == 0 and a != 0:
            found.append(float(left + 1))
    return tuple(found)


def schelling_diagram(diagnosis: Diagnosis, world: str, unit: str = "return per episode") -> Figure:
    """Draw R_C and R_D against the number of other cooperators, and the group's return against all cooperators.

    Args:
      diagnosis: from `diagnose`. world: name in the title. unit: of the returns.
    """
    agents = len(diagnosis.cooperator)
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = new_figure(8.6, 3.7, 2)
        choices = (
            ("a defector, R_D", diagnosis.defector, 1, "s--"),
            ("a cooperator, R_C", diagnosis.cooperator, 0, "o-"),
        )
        for label, intervals, colour, style in choices:
            _draw(left, range(agents), intervals, label, PALETTE[colour], style)
        for place in diagnosis.crossings:
            left.axvline(place, color="0.6", linewidth=0.8, linestyle=":")
        label_axes(left, "other agents that cooperate", f"{unit} of ...")
        left.legend(fontsize=8.5, handlelength=2.6)
        _draw(right, range(agents + 1), diagnosis.group, "", PALETTE[2], "^-")
        right.axvline(diagnosis.tipping, color="0.6", linewidth=0.8, linestyle=":")
        label_axes(right, "agents that cooperate", f"{unit} of the group")
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        set_title(figure, f"{world}: {diagnosis.verdict} ({diagnosis.kind}); bars are 95 % bootstrap intervals")
    return figure


def _draw(axes, places, intervals, label, colour, style) -> None:  # pyright: ignore[reportMissingParameterType]
    estimate, low, high, _ = np.array(intervals, dtype=np.float64).T
    errors = np.stack([estimate - low, high - estimate])
    axes.errorbar(places, estimate, errors, fmt=style, label=label or None, color=colour, capsize=3, markersize=5)
