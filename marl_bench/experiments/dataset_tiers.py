"""Tiers of data: policies of stated levels, made by training our own online learners, and what they play.

A tier is a list of segments, each a policy and a number of episodes:

| tier | played by |
|---|---|
| random | uniform play |
| medium-replay | uniform play and every snapshot up to the medium one, as many episodes each: what training saw until then |
| medium | the snapshot whose level is nearest to the recipe's share of the way from random play to the expert |
| expert | the snapshot with the best evaluation |
| mixed | medium and expert, half each |

Learned policies keep their exploration noise. A data set holds one part for each seed, trained on its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors

from marl_bench import registry
from marl_bench.absolute_metric import Evaluated
from marl_bench.datasets import behaviours
from marl_bench.datasets.collect import Collector, learned, scripted
from marl_bench.datasets.manifest import Manifest
from marl_bench.datasets.schema import Trajectories
from marl_bench.datasets.writer import DatasetWriter
from marl_bench.environment import Environment
from marl_bench.errors import UsageError
from marl_bench.experiments.cells import CellSpec
from marl_bench.experiments.dataset_files import plain_fields
from marl_bench.naming import nearest
from marl_bench.runtime.files import as_run_error, check_safetensors, write_atomic
from marl_bench.runtime.packs import make_packs, memory_for_packs
from marl_bench.runtime.runner import PackRunner
from marl_bench.scripted import random_policy, scripted_policy

TIERS = ("random", "medium-replay", "medium", "expert", "mixed")
TOLERANCE = 0.05
"""How far from the stated share a medium policy may be before the manifest says so."""

_PIECE = 500
"""Episodes written at once."""

_PARTICLES = {
    "batch_size": 256,
    "sharing": "shared",
    "agent_id": True,
    "learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the policies of a world's tiers are made.

    Attributes:
      learner: registered name. fields: of the learner.
      steps: environment steps of a seed. snapshots: policies kept along the way, evenly spaced.
      medium: share of the way from random play to the expert at which the medium policy stands.
    """

    learner: str
    fields: dict[str, Any]
    steps: int
    snapshots: int = 16
    medium: float = 0.5


_LINE = {
    "recurrent_size": 0,
    "agent_id": True,
    "num_steps": 10,
    "batch_size": 64,
    "target_period": 1,
    "target_step": 0.01,
}

RECIPES: dict[str, Recipe] = {
    "Spread": Recipe("matd3", _PARTICLES, 307_200, medium=0.28),
    "Tag": Recipe("matd3", _PARTICLES, 614_400, medium=0.49),
    "World": Recipe("matd3", _PARTICLES, 614_400, medium=0.58),
    "EqualLine": Recipe("iql", {**_LINE, "learning_rate": 1e-3}, 160_000),
    "Consensus": Recipe("iql", _LINE, 20_000),
    "Foraging": Recipe("qmix", {**_LINE, "team_reward": "sum", "td_lambda": 0.6, "learning_rate": 1e-3}, 480_000),
}
"""Class of the world -> recipe. The shares of the particle worlds are those of the original data (specification of CFCQL, 10.2)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Policies:
    """Snapshots of training.

    Attributes:
      learner: whose they are.
      params: pytree with leaves [snapshots, seeds, ...].
      scores: [snapshots, seeds] mean return of an agent in evaluation.
    """

    learner: Any
    params: Any
    scores: np.ndarray

    def at(self, snapshot: int, seed: int) -> Any:
        """Parameters of one policy."""
        return jax.tree.map(lambda leaf: leaf[snapshot, seed], self.params)


def recipe_of(environment: Environment) -> Recipe:
    """The recipe for a world. Raises UsageError when there is none."""
    name = type(environment.unwrapped).__name__
    if name not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise UsageError(
            f"{name}: no recipe for tiers (there are: {known}); collect with --policy NAME or --policy RUN_DIRECTORY"
        )
    return RECIPES[name]


def train(environment: Environment, recipe: Recipe, seeds: int, path: Path) -> Policies:
    """Train one pack of all seeds and keep snapshots; read from `path` if they are there.

    Args:
      path: safetensors file of the policies, written when training is done.
    """
    learner = registry.make_learner(recipe.learner, **recipe.fields)
    whole = recipe.snapshots * learner.update_steps
    every = max(1, round(recipe.steps / whole))
    judged = Evaluated(learner, every=every, episodes=128)
    judged.validate(environment)
    shapes = jax.eval_shape(
        lambda key: learner.init(key, environment).params, jax.eval_shape(lambda: jax.random.key(0))
    )
    wanted = {"recipe": json.dumps(dataclasses.asdict(recipe), sort_keys=True), "seeds": str(seeds)}
    if path.exists():
        return _read(path, learner, shapes, wanted)
    specs = [CellSpec(seed, environment, judged, seed, {}) for seed in range(seeds)]
    kept, scores = [], []
    for pack in make_packs(specs, memory_for_packs()):
        runner = PackRunner(pack)
        state, snapshots, evaluations = runner.start(), [], []
        for _ in range(recipe.snapshots):
            state, metrics, _ = runner.train(state, 1)
            snapshots.append(jax.tree.map(np.asarray, runner.unpadded(state).params))
            evaluations.append(metrics["eval_return_mean_per_agent"])
        kept.append(jax.tree.map(lambda *leaves: np.stack(leaves), *snapshots))
        scores.append(np.stack(evaluations))
    params = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *kept)
    policies = Policies(learner, params, np.concatenate(scores, axis=1))
    _write(path, policies, wanted)
    return policies


def _named(params: Any) -> dict[str, Any]:
    return {f"params{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _write(path: Path, policies: Policies, about: dict[str, str]) -> None:
    arrays = {**_named(policies.params), "scores": policies.scores}
    write_atomic(path, safetensors.save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata=about))


def _read(path: Path, learner: Any, shapes: Any, wanted: dict[str, str]) -> Policies:
    data = path.read_bytes()
    check_safetensors(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if header.get("__metadata__") != wanted:
        raise UsageError(f"{path}: policies of another recipe or number of seeds; choose another --out")
    arrays = safetensors.load(data)
    names, structure = list(_named(shapes)), jax.tree.structure(shapes)
    return Policies(learner, jax.tree.unflatten(structure, [arrays[name] for name in names]), arrays["scores"])


# --- tiers --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Segment:
    """Episodes of one policy: a snapshot, or uniform play (None)."""

    snapshot: int | None
    episodes: int


def segments(tier: str, scores: np.ndarray, random_return: float, medium: float, episodes: int) -> list[Segment]:
    """What a tier of one seed is played by.

    Args:
      tier: one of `TIERS`. scores: [snapshots] of this seed.
      random_return: of uniform play. medium: the recipe's share. episodes: of the tier.
    """
    best = int(np.argmax(scores))
    share = (scores[: best + 1] - random_return) / max(scores[best] - random_return, 1e-9)
    middle = int(np.argmin(np.abs(share - medium)))
    if tier == "random":
        return [Segment(None, episodes)]
    if tier == "expert":
        return [Segment(best, episodes)]
    if tier == "medium":
        return [Segment(middle, episodes)]
    if tier == "mixed":
        return [Segment(middle, episodes // 2), Segment(best, episodes - episodes // 2)]
    players = [None, *range(middle + 1)]
    counts = np.diff(np.linspace(0, episodes, len(players) + 1).astype(int))
    return [Segment(player, int(count)) for player, count in zip(players, counts, strict=True) if count]


def collect_tiers(
    world: str, environment: Environment, tiers: Sequence[str], seeds: int, episodes: int, out: Path
) -> list[Path]:
    """Make the named tiers as data sets `out`/TIER; what is complete is left alone, what is not is continued.

    Args:
      world: the environment's name in the registry. environment: the world.
      tiers: of `TIERS`. seeds: K. episodes: of each of the K. out: folder.
    Raises:
      UsageError: unknown tier, no recipe for the world, or other policies in `out`.
      RunError: disk full; what is complete stays valid.
    """
    for tier in tiers:
        if tier not in TIERS:
            raise UsageError(f"--tier {tier}: must be one of {', '.join(TIERS)}{nearest(tier, TIERS)}")
    recipe = None if set(tiers) == {"random"} else recipe_of(environment)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_run_error(out, error) from error
    uniform = Collector(environment, *scripted(random_policy(environment)))
    random_return = float(uniform.play((), 0, 0, 1_000).returns.mean())
    manifest = Manifest(
        world=world, fields=plain_fields(environment), licence="Apache-2.0", seed=0, random_return=random_return
    )
    if recipe is None:
        plan = [[Segment(None, episodes)]] * seeds
        return [_collect(out / "random", manifest, "random", plan, uniform, None, None)]
    policies = train(environment, recipe, seeds, out / "policies.safetensors")
    played = Collector(environment, *learned(policies.learner, environment.num_agents, greedy=False))
    expert = float(policies.scores.max(axis=0).mean())
    manifest = dataclasses.replace(manifest, expert_return=expert, recipe=dataclasses.asdict(recipe))
    found = []
    for tier in tiers:
        plan = [segments(tier, scores, random_return, recipe.medium, episodes) for scores in policies.scores.T]
        found.append(_collect(out / tier, manifest, tier, plan, uniform, played, policies))
    return found


def _collect(
    path: Path,
    manifest: Manifest,
    tier: str,
    plan: Sequence[Sequence[Segment]],
    uniform: Collector,
    played: Collector | None,
    policies: Policies | None,
) -> Path:
    """Play and write one tier."""
    described = f"{manifest.recipe.get('learner', 'uniform play')}: {_levels(plan, policies, manifest)}"
    manifest = dataclasses.replace(manifest, tier=tier, behaviour=described if tier != "random" else "uniform play")
    with DatasetWriter(path, manifest, len(plan), resume=True) as writer:
        for seed, parts in enumerate(plan):
            begin = 0
            for part in parts:
                for first in range(begin, begin + part.episodes, _PIECE):
                    stop = min(first + _PIECE, begin + part.episodes)
                    if stop > writer.num_episodes(seed):
                        writer.append(seed, _episodes(part, seed, tier, first, stop - first, uniform, played, policies))
                begin += part.episodes
    return path


def _episodes(
    part: Segment,
    seed: int,
    tier: str,
    first: int,
    count: int,
    uniform: Collector,
    played: Collector | None,
    policies: Policies | None,
) -> Trajectories:
    stream = len(TIERS) * seed + TIERS.index(tier)
    if part.snapshot is None:
        return uniform.play((), stream, first, count)
    assert played is not None and policies is not None
    return played.play(jax.tree.map(jnp.asarray, policies.at(part.snapshot, seed)), stream, first, count)


def _levels(plan: Sequence[Sequence[Segment]], policies: Policies | None, manifest: Manifest) -> str:
    """Share of the way from random play to the expert at which each seed's last policy of the tier stands."""
    if policies is None or manifest.expert_return is None or manifest.random_return is None:
        return ""
    span = max(manifest.expert_return - manifest.random_return, 1e-9)
    found = []
    for seed, parts in enumerate(plan):
        last = parts[-1].snapshot
        score = manifest.random_return if last is None else float(policies.scores[last, seed])
        found.append(f"{(score - manifest.random_return) / span:.2f}")
    return f"levels of the seeds {', '.join(found)} (0 random, 1 mean expert)"


def collect_policy(
    world: str,
    environment: Environment,
    policy: str,
    seeds: int,
    episodes: int,
    out: Path,
    epsilon: float = 0.0,
    low: float = 0.2,
) -> Path:
    """Record a policy as a data set of K parts at `out`; one that was begun is continued.

    Args:
      policy: "random", a script of the world, "scaled_slots" (`behaviours.scaled_slots`, in equal_line), or a run directory.
      epsilon: chance of a uniform action, of each agent in each step, in [0, 1].
      low: smallest scale of scaled_slots.
    Raises:
      UsageError: unknown policy, value out of range, or a policy of another world.
    """
    if not 0.0 <= epsilon <= 1.0 or not 0.0 < low <= 1.0:
        raise UsageError(f"--epsilon {epsilon} --low {low}: must be in [0, 1], and low above 0")
    params: Any = ()
    if policy == "scaled_slots":
        if type(environment.unwrapped).__name__ != "EqualLine":
            raise UsageError("--policy scaled_slots: is a policy of equal_line only")
        act, memory = behaviours.scaled_slots(environment.num_agents, low)
    elif Path(policy).is_dir():
        from marl_bench.experiments.policy import load_policy

        loaded = load_policy(policy)
        if plain_fields(loaded.environment) != plain_fields(environment):
            raise UsageError(f"--policy {policy}: was trained in another world, or with other settings of it")
        params = loaded.params
        act, memory = learned(loaded.learner, environment.num_agents, greedy=False)
    else:
        try:
            act, memory = scripted(scripted_policy(environment, policy))
        except LookupError as error:
            raise UsageError(f"--policy {policy}: {error}; or name a run directory") from error
    if epsilon:
        act = behaviours.noisy(act, environment, epsilon)
    player = Collector(environment, act, memory)
    manifest = Manifest(
        world=world,
        fields=plain_fields(environment),
        licence="Apache-2.0",
        behaviour=f"{policy}, epsilon {epsilon:g}" + (f", scale {low:g} to 1" if policy == "scaled_slots" else ""),
        seed=0,
        recipe={"policy": policy, "epsilon": epsilon, "low": low, "episodes": episodes},
    )
    with DatasetWriter(out, manifest, seeds, resume=True) as writer:
        for seed in range(seeds):
            for first in range(writer.num_episodes(seed), episodes, _PIECE):
                writer.append(seed, player.play(params, seed, first, min(_PIECE, episodes - first)))
    return out
