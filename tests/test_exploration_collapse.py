"""The reproduction: its grid, its claims on synthetic outcomes, and the whole path on a tiny study."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest

from marl_bench.errors import UsageError
from marl_bench.experiments import bench
from marl_bench.experiments.papers import collapse_claims, collapse_features, collapse_grid, exploration_collapse
from marl_bench.experiments.papers.collapse_grid import STUDIED, exploration_intensity, runs


def test_published_exploration_intensities() -> None:
    """Spec section 4."""
    tau = [0.100, 0.127, 0.193, 0.260, 0.327, 0.393, 0.460, 0.527, 0.593, 0.660, 0.727, 0.793]
    b = [
        0.1,
        0.12025,
        0.16975,
        0.219999,
        0.270249,
        0.319748,
        0.369998,
        0.420248,
        0.469747,
        0.519997,
        0.570247,
        0.619746,
    ]
    np.testing.assert_allclose(exploration_intensity(np.array(tau)), b, atol=1e-6)


def cells(run: collapse_grid.Run) -> int:
    fields = (*run.config.environment_fields.values(), *run.config.learner_fields.values())
    return math.prod(map(len, fields)) * len(run.config.seeds)


def test_scales_hold_what_they_promise() -> None:
    smoke, reduced, paper = ({run.name: run for run in runs(scale)} for scale in collapse_grid.SCALES)
    assert sum(map(cells, smoke.values())) == 45
    assert cells(paper["heat_map"]) == 310 * 30
    for scale in (smoke, reduced, paper):
        for run in scale.values():
            assert run.config.steps is None, "every scale keeps the full 100,000 steps"
            assert len(run.config.seeds) >= 5
    assert {e for run in reduced.values() for e in run.experiment.split(", ")} >= {"E1", "E3", "E4", "E6", "E7"}
    assert paper["lattice_40"].config.environment_fields["side"] == [40]
    with pytest.raises(ValueError, match="must be one of smoke, reduced, paper"):
        runs("tiny")


def outcomes(cooperation, strengths=(0.1, 0.25, 0.4), taus=STUDIED, seeds=range(8)) -> pd.DataFrame:
    """A table of results whose cooperation is a function of (strength, tau, seed)."""
    rows = [
        {
            "env.dilemma_strength": s, "learner.initial_temperature": t, "learner.final_temperature": 0.1,
            "learner.anneal_steps": 95_000, "seed": seed, "cooperation_rate": cooperation(s, t, seed), "q_gap": 1 / t,
            "env.topology": "random", "env.observe": "actions",
        }
        for s in strengths for t in taus for seed in seeds
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.assign(cell=frame.index, unit=frame.index)


def falling(strength: float, tau: float, seed: int) -> float:
    return float(tau + strength + 0.01 * seed < 0.8)


def by_claim(verdicts) -> dict[str, str]:
    return {v.claim: v.outcome for v in verdicts}


def test_first_claim_follows_the_outcomes() -> None:
    found = by_claim(collapse_claims.falls_with_exploration_and_dilemma({"heat_map": outcomes(falling)}, {}))
    assert found["X1 B"] == found["X1 Dr"] == found["X1 B collapsed"] == found["X1 corner mean"] == "holds"
    rising = outcomes(lambda s, t, seed: 1 - falling(s, t, seed))
    found = by_claim(collapse_claims.falls_with_exploration_and_dilemma({"heat_map": rising}, {}))
    assert found["X1 B"] == found["X1 Dr"] == found["X1 B collapsed"] == found["X1 corner mean"] == "fails"


def test_boundary_claim() -> None:
    (verdict,) = collapse_claims.boundary_moves_with_exploration({"heat_map": outcomes(falling)}, {})
    assert verdict.outcome == "holds" and verdict.estimate < 0
    (verdict,) = collapse_claims.boundary_moves_with_exploration({"heat_map": outcomes(lambda *_: 1.0)}, {})
    assert verdict.outcome == "undecided" and "right-censored" in verdict.note


def test_paired_claims_use_common_seeds_only() -> None:
    lattice, mixed = outcomes(falling), outcomes(lambda s, t, seed: 0.0, strengths=(0.25,), seeds=range(4, 12))
    found = by_claim(collapse_claims.randomness_hurts({"heat_map": lattice, "topology": mixed}, {}))
    assert found["X8 mean"] == "holds"
    same = outcomes(falling, strengths=(0.25,))
    found = by_claim(collapse_claims.randomness_hurts({"heat_map": lattice, "topology": same}, {}))
    assert found["X8 mean"] == "fails", "no difference is not a difference"
    (verdict,) = collapse_claims.size_does_not_matter({"heat_map": lattice, "augmentation": same}, {})
    assert verdict.outcome == "holds"


def test_unmeasured_claims_say_so() -> None:
    frame = outcomes(falling)
    curves = pd.concat([frame[["unit"]].assign(env_steps=s, cooperation_rate=0.1, loss=0.2) for s in (80, 85, 95, 100)])
    verdicts = collapse_claims.all_verdicts({"heat_map": frame}, {"heat_map": curves}, None)
    unmeasured = {v.claim for v in verdicts if v.effect == "not measured"}
    assert unmeasured == {"X5", "X6", "X7", "X8", "X9", "X10", "X11"}
    assert by_claim(verdicts)["X3"] == "holds"


def test_silhouette_of_separate_and_of_mixed_points() -> None:
    rng = np.random.default_rng(0)
    apart = np.concatenate([rng.normal(0, 0.01, (40, 3)), rng.normal(5, 0.01, (40, 3))])
    labels = np.repeat([0, 1], 40)
    assert collapse_features.silhouette(apart, labels) > 0.99
    assert collapse_features.silhouette(apart, np.tile([0, 1], 40)) < 0.05
    assert collapse_features.two_cluster_silhouette(apart, 0) > 0.99
    # By hand: points 0, 1 | 10 on a line: (a=1, b=10), (a=1, b=9), a lone point scores 0.
    line = np.array([[0.0], [1.0], [10.0]])
    assert collapse_features.silhouette(line, np.array([0, 0, 1])) == pytest.approx((9 / 10 + 8 / 9) / 3)


def test_observations_are_drawn_by_visits() -> None:
    visits = np.zeros(32, int)
    visits[[3, 31]] = 900, 100
    codes = collapse_features.sample_visits(visits, np.random.default_rng(0))
    assert len(codes) == 150 and set(codes) == {3, 31} and 100 < (codes == 3).sum() < 150


@pytest.fixture(scope="module")
def tiny_study(tmp_path_factory, request):
    """Reproduce a study of 12 tiny cells."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    (smoke,) = runs("smoke")
    environment = {**smoke.config.environment_fields, "side": [4], "dilemma_strength": [0.1, 0.25]}
    learner = {
        "initial_temperature": [0.127, 0.793],
        "evaluation_steps": [200],
        "anneal_steps": [400],
        "batch_size": [16],
    }
    config = dataclasses.replace(
        smoke.config, environment_fields=environment, learner_fields=learner, seeds=[1, 2, 3], steps=600
    )
    patch.setattr(collapse_grid, "runs", lambda scale: [dataclasses.replace(smoke, config=config)])
    out = tmp_path_factory.mktemp("study")
    assert exploration_collapse.reproduce("smoke", out, wandb="disabled") == 0
    return out


def test_reproduce_writes_everything(tiny_study, capsys) -> None:
    report = (tiny_study / "report.md").read_text()
    verdicts = json.loads((tiny_study / "verdicts.json").read_text())
    assert "X1 B" in report and "figures/heat_map.png" in report and "| heat_map | 12 | 600 |" in report
    assert {v["claim"] for v in verdicts} >= {"X1 B", "X2", "X3", "X4", "X5", "X10", "X11"}
    for name in ("heat_map", "boundary", "action_values", "seeds", "training", "silhouettes"):
        assert (tiny_study / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tiny_study / "figures" / f"{name}.svg").stat().st_size > 1000
    table = pd.read_csv(tiny_study / "tables" / "heat_map.csv", comment="#")
    assert len(table) == 4
    before = (tiny_study / "runs" / "heat_map" / "summary.json").read_bytes()
    exploration_collapse.reproduce("smoke", tiny_study, wandb="disabled")
    assert (tiny_study / "runs" / "heat_map" / "summary.json").read_bytes() == before, (
        "a finished study is not trained again"
    )
    assert "X1 B" in capsys.readouterr().out


def test_unknown_scale_and_benchmark_are_named(tmp_path) -> None:
    with pytest.raises(UsageError, match="did you mean 'smoke'"):
        exploration_collapse.reproduce("smok", tmp_path)
    with pytest.raises(UsageError, match="unknown benchmark 'dqm'; did you mean 'dqn'"):
        bench.main("dqm", [1], None)
    with pytest.raises(UsageError, match="at least one cell"):
        bench.main("dqn", [0], None)


def test_benchmark_measures_both_sides(tmp_path, monkeypatch, capsys) -> None:
    for name, value in (("_REPEATS", 2), ("_NUMPY_STEPS", 8), ("_CELL_STEPS", 16)):
        monkeypatch.setattr(bench, name, value)
    assert bench.main("dqn", [1, 2], tmp_path / "bench.json") == 0
    record = json.loads((tmp_path / "bench.json").read_text())
    assert [row["cells"] for row in record["rows"]] == [1, 1, 2]
    assert all(len(row["cpu_microseconds"]) == 2 and min(row["cpu_microseconds"]) > 0 for row in record["rows"])
    assert "pack of 2" in capsys.readouterr().out
