"""The studies of baselines: their grids, claims and tables on synthetic results, and the whole path on a tiny study."""

from __future__ import annotations

import dataclasses
import importlib
import json

import numpy as np
import pandas as pd
import pytest

from marl_bench.errors import UsageError
from marl_bench.experiments import tune
from marl_bench.experiments.cells import expand
from marl_bench.experiments.papers import PAPERS, baselines, reporting
from marl_bench.experiments.papers.baselines import Claim, Published, Study

NAMES = [name for name in PAPERS if name not in ("exploration_collapse", "cfcql")]


def study(name) -> Study:
    return importlib.import_module(f"marl_bench.experiments.papers.{name}").STUDY


@pytest.mark.parametrize("name", NAMES)
def test_grids_hold_what_the_claims_need(name):
    found = study(name)
    assert found.name == name
    sizes = {}
    for scale in reporting.SCALES:
        entries = found.entries(scale)
        assert len({one.run for one in entries}) == len(entries)
        for one in entries:
            assert one.config.steps is not None and one.config.evaluations is not None
        sizes[scale] = sum((one.config.steps or 0) * len(one.config.seeds) for one in entries)
        seeds = {len(one.config.seeds) for one in entries}
        assert min(seeds) >= (2 if scale == "smoke" else 5)
    assert sizes["smoke"] < sizes["reduced"] < sizes["paper"]
    known = {(one.world, one.label) for one in found.entries("reduced")}
    worlds = {world for world, _ in known}
    for claim in found.claims:
        assert claim.world in worlds
        for label in (claim.label, claim.other):
            assert label in (None, baselines.TRAINED) or (claim.world, label) in known
    assert len({claim.name for claim in found.claims}) == len(found.claims)
    assert all(number.world in worlds for number in found.published)


@pytest.mark.parametrize("name", NAMES)
def test_every_learner_can_play_its_world(name):
    """`expand` builds and validates; steps divide into updates and evaluations. One entry of each learner is enough."""
    for one in {one.label: one for one in study(name).entries("reduced")}.values():
        assert len(expand(one.config)) == len(one.config.seeds)


def results(**scores) -> dict:
    """Results in one world by label, one score a seed."""
    frames = {}
    for label, values in scores.items():
        values = np.asarray(values, float)
        frames["hill", label] = pd.DataFrame(
            {"score": values, "last": values - 1, "best_env_steps": 10.0, "env_steps": 40, "absolute_length": values}
        )
    return frames


def claim(expected, **fields) -> Claim:
    return Claim("c", "a claim", "hill", **{"label": "a", "expected": expected, **fields})


HIGH, LOW = [5.0, 5.1, 4.9, 5.0, 5.2], [1.0, 1.2, 0.9, 1.1, 1.0]


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (claim("positive", other="b"), "holds"),
        (claim("negative", other="b"), "fails"),
        (claim("positive", target=4.0), "holds"),
        (claim("positive", target=5.05), "undecided"),
        (claim("equivalent", target=5.0, practical=0.3), "holds"),
        (claim("equivalent", target=8.0, practical=0.3), "fails"),
        (claim("positive", label=baselines.TRAINED, target=4.0), "holds"),
        (claim("positive", label="b", other="missing"), "undecided"),
    ],
)
def test_claims_follow_the_scores(one, outcome):
    found = baselines.verdict(one, results(b=LOW, a=HIGH))
    assert found.outcome == outcome
    if one.other is None and one.label != baselines.TRAINED:
        assert found.estimate == pytest.approx(np.mean(HIGH) - one.target) and found.n == 5


def test_tables_give_mean_and_interquartile_mean():
    toy = Study(
        "toy",
        "Toy",
        lambda scale: [],
        (),
        (Published("hill", "a", 7.0, "a page"),),
        measures={"length": "length"},
        pooled=True,
    )
    found = results(a=HIGH, b=LOW)
    entries = [baselines.entry("hill", label, "climbing", "ippo", 2000, 5, 1) for label in ("a", "b")]
    seconds = {"run_seconds": 3.0, "compile_seconds": 2.0, "lower_seconds": 1.0}
    tables = baselines.tables(toy, entries, found, {one.run: seconds for one in entries})
    world, label, mean, middle, last, best, seeds, steps, training, compiling = tables["scores"].rows[0]
    assert (world, label, best, seeds, steps, training, compiling) == ("hill", "a", "10", 5, 40, 3.0, 3.0)
    assert mean.estimate == pytest.approx(np.mean(HIGH)) and mean.low < mean.estimate < mean.high
    assert middle.estimate == pytest.approx(np.mean(np.sort(HIGH)[1:-1])) and last == pytest.approx(np.mean(HIGH) - 1)
    assert [row[0] for row in tables["learners"].rows] == ["a", "b"]
    assert tables["measures"].rows[1][2].estimate == pytest.approx(np.mean(LOW))
    assert tables["published"].rows[0][2] == 7.0 and tables["published"].rows[0][3] == mean
    assert not tables["scores"].marked


def test_steps_are_rounded_up_to_whole_evaluations():
    fields = {"num_envs": 4, "num_steps": 5}
    assert baselines.entry("w", "l", "climbing", "ippo", 101, 2, 3, learner_fields=fields).config.steps == 120


def test_unknown_scales_are_refused(tmp_path):
    with pytest.raises(UsageError, match="must be one of smoke, reduced, paper"):
        baselines.reproduce(study(NAMES[0]), "smok", tmp_path)


@pytest.mark.parametrize("name", tune.SEARCHES)
def test_trials_are_drawn_within_their_ranges(name):
    search = tune.SEARCHES[name]
    trials = tune.draw(search)
    assert trials == tune.draw(search) != tune.draw(search, seed=1) and len(trials) == search.trials
    for field, (low, high) in search.ranges.items():
        drawn = np.array([trial[field] for trial in trials])
        assert (low * 0.995 <= drawn).all() and (drawn <= high * 1.005).all() and len(set(drawn)) > 1


@pytest.mark.slow
def test_a_tiny_study_from_start_to_report(tmp_path, capsys):
    fields = {"num_envs": 4, "num_steps": 25, "hidden_sizes": (4,), "minibatches": 1, "evaluation_episodes": 8}
    toy = Study(
        name="toy",
        title="Toy",
        entries=lambda scale: [
            baselines.entry("climbing", "ippo", "climbing", "ippo", 200, 2, 2, None, fields, per=25)
        ],
        claims=(Claim("optimum", "is found", "climbing", "ippo", "equivalent", target=11.0, practical=0.1),),
        published=(Published("climbing", "optimum", 11.0, "table"),),
        column="return_mean_per_agent",
    )
    assert baselines.reproduce(toy, "smoke", tmp_path, wandb="disabled") == 0
    assert "Toy" in capsys.readouterr().out
    text = (tmp_path / "report.md").read_text()
    assert "marl-bench reproduce toy --scale smoke" in text and "climbing+ippo" in text
    assert [record["claim"] for record in json.loads((tmp_path / "verdicts.json").read_text())] == ["optimum"]
    assert (tmp_path / "figures" / "climbing.png").stat().st_size > 5000
    before = (tmp_path / "tables" / "scores.csv").read_text()
    baselines.report(dataclasses.replace(toy), "smoke", tmp_path)
    assert (tmp_path / "tables" / "scores.csv").read_text() == before


@pytest.mark.slow
def test_a_search_trains_all_trials_in_one_pack():
    fixed = {"num_envs": 4, "num_steps": 25, "hidden_sizes": (4,), "minibatches": 1, "evaluation_episodes": 8}
    ranges = {"learning_rate": (1e-4, 1e-2), "discount": (0.9, 0.99)}
    search = tune.Search("climbing", "ippo", fixed, ranges, steps=200, trials=3, usual={"discount": 0.5}, common=True)
    rows = tune.run(search)
    assert [row["return_sum"] for row in rows] == sorted((row["return_sum"] for row in rows), reverse=True)
    assert {row["learning_rate"] for row in rows} == {trial["learning_rate"] for trial in tune.draw(search)}
    assert tune.table("x", search, rows, 1.0).to_markdown().count("\n| ") >= 4
    scores = tune.confirm(search, rows[0])
    assert {label: len(scores[label]) for label in scores} == {"tuned": 5, "usual": 5}
    assert search.usual_numbers() == {"learning_rate": 2.5e-4, "discount": 0.5}
    tuned, usual = tune.confirmation("x", search, rows[0], scores, 1.0).rows
    assert tuned[1] == rows[0]["learning_rate"] and usual[2] == 0.5
    assert tuned[3].estimate == pytest.approx(np.mean(scores["tuned"])) and usual[4] == 5
