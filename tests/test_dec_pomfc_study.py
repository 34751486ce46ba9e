"""Reproduction `dec_pomfc`: what is trained, what is only evaluated, and how claims are judged. No run is trained here."""

import jax
import numpy as np
import pandas as pd
import pytest

import marl_bench
from marl_bench.algorithms.mean_field.execution import PROTOCOLS
from marl_bench.experiments.papers import dec_pomfc_execution as execution
from marl_bench.experiments.papers import dec_pomfc_gradients as gradients
from marl_bench.experiments.papers import dec_pomfc_grid as grid
from marl_bench.experiments.papers import dec_pomfc_report as report

NULL, BEST = 10.0, 90.0


def row(experiment, world, label, trained, agents, seed, value):
    return {
        "experiment": experiment,
        "world": world,
        "label": label,
        "trained": trained,
        "agents": agents,
        "seed": seed,
        "value": value,
        "error": 0.1,
    }


@pytest.fixture(scope="module")
def played():
    """Evaluations in which every policy earns 80 but the open-loop ones, 60; noise of the seeds below 0.1."""
    rows = []
    for world in grid.WORLDS:
        for agents in sorted({*execution.SIZES["reduced"], *execution.PROTOCOL_SIZES["reduced"]}):
            rows.append(row("scripted", world, report.NULL[world], 0, agents, 0, NULL))
            rows.append(row("scripted", world, "clever", 0, agents, 0, BEST))
        for seed in range(5):
            noise = 0.02 * seed
            rows += [row("sizes", world, "CE-mode", 100, n, seed, 80 + noise) for n in execution.SIZES["reduced"]]
            for label in PROTOCOLS:
                value = 60 if label == "OL" else 80
                rows += [
                    row("protocols", world, label, 100, n, seed, value + noise)
                    for n in execution.PROTOCOL_SIZES["reduced"]
                ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def noise_ratios():
    """dec_pomfc's rises tenfold with ten times the agents, ippo's falls."""
    values = {"dec_pomfc": (0.1, 1.0), "ippo": (1.0, 0.1)}
    return pd.DataFrame(
        {"learner": learner, "agents": agents, "seed": seed, "value": value * (1 + 0.01 * seed)}
        for learner, pair in values.items()
        for agents, value in zip((10, 100), pair, strict=True)
        for seed in range(5)
    )


def test_every_scale_has_runs_of_their_own_name():
    for scale, fewest in (("smoke", 5), ("reduced", 30), ("paper", 30)):
        names = [one.run for one in grid.entries(scale)]
        assert len(set(names)) == len(names) >= fewest


def test_learners_that_are_compared_make_the_same_gradient_steps_for_the_same_environment_steps():
    by_world = {}
    for one in grid.entries("reduced"):
        if one.label in ("dec_pomfc", *grid.MARL) and one.world.endswith(f"N={grid.SMALL}"):
            learner = marl_bench.make_learner(
                one.config.learner, **{name: values[0] for name, values in one.config.learner_fields.items()}
            )
            sizes = (learner.num_envs, learner.num_steps, learner.minibatches, learner.epochs, learner.hidden_sizes)
            by_world.setdefault(one.world, set()).add((*sizes, float(learner.learning_rate), one.config.steps))
    assert len(by_world) == 3
    assert all(len(kinds) == 1 for kinds in by_world.values())


def test_a_score_is_the_share_of_the_gap_between_nothing_and_the_best_script(played):
    found = report.normalized(played, "vicsek", 100, np.array([NULL, 50.0, BEST]))
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0])


def test_claims_follow_the_evidence_and_missing_runs_are_said_to_be_missing(played, noise_ratios):
    scores = pd.DataFrame(
        {
            "world": one.world,
            "label": one.label,
            "seed": seed,
            "value": value + 0.02 * seed,
            "polarisation": 0.2,
            "order": 0.8,
            "local_order": 0.9,
        }
        for one, value in (
            *((one, 85.0) for one in grid.entries("reduced") if one.label in ("dec_pomfc", "rbf")),
            *((one, 75.0) for one in grid.entries("reduced") if one.label == "hist"),
        )
        for seed in range(5)
    )
    verdicts = {one.claim: one for one in report.verdicts(scores, played, noise_ratios)}
    assert verdicts["E1 vicsek"].outcome == "holds"  # 85 is 0.94 of the gap
    assert verdicts["E1 aggregation"].outcome == "fails"  # of which 0.95 is asked
    assert verdicts["E1 order vicsek"].outcome == "fails"
    assert verdicts["E4 D=2"].outcome == "holds" and verdicts["E4 D=2"].estimate == pytest.approx(10.0)
    assert verdicts["E5 open loop kuramoto"].outcome == "fails"
    assert verdicts["E3 vicsek"].outcome == "holds"
    assert verdicts["E10 dec_pomfc"].outcome == "holds" and verdicts["E10 ippo"].outcome == "holds"
    for missing in ("E2 vicsek 25 ippo", "E6 gauss", "E9 components", "E11 10 to 300"):
        assert verdicts[missing].outcome == "undecided" and "not part of this scale" in verdicts[missing].note


def test_tables_and_figures_have_all_worlds_and_sizes(played, noise_ratios, tmp_path):
    tables = report.tables(played, noise_ratios)
    assert len(tables["sizes"].rows) == len(grid.WORLDS)
    assert len(tables["protocols"].rows) == len(grid.WORLDS) * len(PROTOCOLS)
    assert all(path.stat().st_size > 5_000 for path in report.figures(played, tmp_path))


def test_returns_are_those_of_the_world():
    env = marl_bench.make("aggregation", agents=4, horizon=3, motion_noise=0.0)
    found = execution.returns(
        env, lambda params, key: env.scripted_policies()["rest"], np.zeros((2, 1), np.float32), jax.random.key(3), 5
    )
    assert found.shape == (2, 5)
    np.testing.assert_array_equal(found[0], found[1])  # the same keys for all sets of parameters
    keys = jax.random.split(jax.random.fold_in(jax.random.key(3), 0), 5)
    starts = [env.reset(jax.random.fold_in(key, 0))[1].extras["metrics"]["spread"] for key in keys]
    np.testing.assert_allclose(found[0], [-3 * float(start) for start in starts], rtol=1e-5)


def test_signal_to_noise_of_both_learners_is_a_number():
    env = marl_bench.make("vicsek", agents=4, horizon=5)
    small = {"num_envs": 4, "num_steps": 5, "minibatches": 1, "hidden_sizes": (8,), "normalize_values": False}
    for name in gradients.LEARNERS:
        found = gradients.signal_to_noise(marl_bench.make_learner(name, **small), env, seeds=2, estimates=6)
        assert found.shape == (2,) and np.isfinite(found).all()
        assert (found > -1 / 6 - 1e-6).all()  # |mean|^2 >= 0
