"""`marl-bench bench learners`: training speed against the same algorithm on a peer's environment, in one process.

World, network, batch, epochs, minibatches and number of updates are the same on both sides, both are one compiled program, and
windows alternate. On a CPU the measure is CPU time over all threads, elsewhere wall-clock time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench.errors import UsageError
from marl_bench.experiments.bench_envs import rate, uncached
from marl_bench.naming import nearest

WINDOWS, WINDOW_SECONDS = 7, 1.0
"""Pairs of windows, and the shortest length of one."""

Trainer = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any] | None]
"""start: key -> carry. update: carry -> carry. test: carry -> carry that holds its outcome; None where nothing is tested."""


@dataclasses.dataclass(frozen=True)
class Contest:
    """One pairing.

    Attributes:
      name: on the command line and in the tables.
      peer: extra that the peer's world needs: "jaxmarl" or "jumanji".
      world: name and fields of our world.
      learner: name and fields of our learner.
      theirs: makes the peer's trainer.
      updates: updates of one call of a program.
      tested: whether each call ends with a test of the greedy policy.
    """

    name: str
    peer: str
    world: tuple[str, dict[str, Any]]
    learner: tuple[str, dict[str, Any]]
    theirs: Callable[[], Trainer]
    updates: int = 4
    tested: bool = False


def _ippo(
    name: str, peer: str, world: tuple[str, dict[str, Any]], theirs: Callable[[int], Any], **settings: Any
) -> Contest:
    """PPO with JaxMARL's defaults but for `settings`; `theirs`: number of environments -> the peer's world."""

    def trainer() -> Trainer:
        from marl_bench.experiments.peer_ppo import Settings, peer_ippo

        chosen = Settings(**settings)
        return *peer_ippo(theirs(chosen.num_envs), chosen), None

    return Contest(name, peer, world, ("ippo", settings), trainer)


def _q_learning(name: str, team: bool, tested: bool) -> Contest:
    """Recurrent IQL or VDN with JaxMARL's settings for its `MPE_simple_spread_v3`.

    JaxMARL tests twenty times in a run, each time 512 episodes. In a run of 40,000 steps, for which we time it, that is once in 9
    updates; in one of 10^7 steps, its default, once in 2,403, which is next to nothing.
    """
    from marl_bench.experiments.peer_q_learning import QSettings

    settings = QSettings(team=team)
    fields = {
        "num_envs": settings.num_envs,
        "num_steps": settings.num_steps,
        "buffer_size": settings.buffer_size,
        "batch_size": settings.batch_size,
        "hidden_sizes": (settings.hidden,),
        "recurrent_size": settings.hidden,
        "agent_id": True,
        "initial_epsilon": settings.initial_epsilon,
        "final_epsilon": settings.final_epsilon,
        "anneal_steps": round(settings.exploration_share * settings.total_steps),
        "max_grad_norm": settings.max_grad_norm,
        "target_period": settings.target_period,
        "target_step": settings.target_step,
        "learning_rate": settings.learning_rate,
        "learning_rate_steps": settings.total_steps,
        "discount": settings.discount,
        "learning_starts": settings.learning_starts,
        "evaluation_episodes": settings.test_envs,
        **({"team_reward": "sum"} if team else {}),
    }

    def trainer() -> Trainer:
        from marl_bench.experiments.peer_q_learning import peer_q_learning

        return peer_q_learning("MPE_simple_spread_v3", settings)

    # JaxMARL's episodes have 26 steps for a limit of 25, because the limit is compared before the step is counted.
    world = ("spread", {"rules": "jaxmarl", "horizon": settings.num_steps})
    return Contest(name, "jaxmarl", world, ("vdn" if team else "iql", fields), trainer, 9 if tested else 16, tested)


def _jaxmarl(name: str, **settings: Any) -> Callable[[int], Any]:
    def world(num_envs: int) -> Any:
        from marl_bench.experiments.peer_ppo import jaxmarl_world

        return jaxmarl_world(name, num_envs, **settings)

    return world


def _their_foraging(num_envs: int) -> Any:
    from marl_bench.adapters.extras import import_extra
    from marl_bench.experiments.peer_ppo import jumanji_world

    jumanji = import_extra("jumanji", "jumanji")
    generator = import_extra("jumanji.environments.routing.lbf.generator", "jumanji").RandomGenerator(
        grid_size=8, fov=8, num_agents=2, num_food=2, max_agent_level=2, force_coop=True
    )
    return jumanji_world(lambda: jumanji.make("LevelBasedForaging-v0", generator=generator), num_envs)


_FORAGING = "Foraging-8x8-2p-2f-coop-v3", {"variant": "jumanji", "horizon": 100}
# One inner episode of 100 steps, as in `bench_contests`.
_THEIR_COINS = _jaxmarl("coin_game", num_inner_steps=100, num_outer_steps=1)


def contests() -> tuple[Contest, ...]:
    """In the order in which they run."""
    return (
        _ippo("ippo-spread", "jaxmarl", ("spread", {"rules": "jaxmarl"}), _jaxmarl("MPE_simple_spread_v3")),
        _ippo("ippo-foraging-8x8-2p-2f", "jumanji", _FORAGING, _their_foraging, num_envs=64),
        _ippo("ippo-coin_game", "jaxmarl", ("coin_game", {}), _THEIR_COINS, num_envs=64),
        _q_learning("vdn-spread", team=True, tested=False),
        _q_learning("vdn-spread-tested", team=True, tested=True),
        _q_learning("iql-spread", team=False, tested=False),
        _q_learning("iql-spread-tested", team=False, tested=True),
    )


def main(against: str, only: str | None = None, out: Path | None = None) -> int:
    """Run the contests, print a table, and write JSON to `out`.

    Args:
      against: packages to compare with, separated by commas.
      only: names of contests, separated by commas; None for all against these packages.
    Returns:
      0.
    Raises:
      UsageError: for an unknown contest, or none left. RunError: when a package is not installed (extra).
    """
    packages = [word.strip() for word in against.split(",")]
    known = {contest.name: contest for contest in contests()}
    wanted = [word.strip() for word in only.split(",")] if only else list(known)
    for name in wanted:
        if name not in known:
            raise UsageError(f"--only {name}: no such contest{nearest(name, known)} (known: {', '.join(known)})")
    chosen = [known[name] for name in wanted if known[name].peer in packages]
    if not chosen:
        raise UsageError(f"--against {against} --only {only}: no contest is left (known: {', '.join(known)})")
    command = f"marl-bench bench learners --against {against}" + (f" --only {only}" if only else "")
    with uncached():
        rows = [_compare(contest) for contest in chosen]
    record = {"command": command, **_machine(), "contests": rows}
    print(_as_markdown(record))
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


def _compare(contest: Contest) -> dict[str, Any]:
    """A row of the record."""
    trainer, steps = our_trainer(contest)
    ours, theirs = _made(contest, trainer, steps), _made(contest, contest.theirs(), steps)
    for program in (ours, theirs):
        rate(program.program, WINDOW_SECONDS)  # warm
    pairs = [(rate(ours.program, WINDOW_SECONDS), rate(theirs.program, WINDOW_SECONDS)) for _ in range(WINDOWS)]
    rates = np.array(pairs)
    return {
        "name": contest.name,
        "peer": contest.peer,
        "updates_a_call": contest.updates,
        "rates": rates[:, 0].tolist(),
        "peer_rates": rates[:, 1].tolist(),
        "ratios": (rates[:, 0] / rates[:, 1]).tolist(),
        **{f"{side}_{key}": value for side, made in (("our", ours), ("peer", theirs)) for key, value in made.facts()},
    }


@dataclasses.dataclass
class _Made:
    """A compiled trainer. `program`: see `bench_rollouts.Program`; `memory`: bytes of its arguments and temporaries."""

    program: Any
    memory: int

    def facts(self) -> list[tuple[str, Any]]:
        return [("compile_seconds", self.program.compile_seconds), ("memory_bytes", self.memory)]


def _made(contest: Contest, trainer: Trainer, steps: int) -> _Made:
    """Compile one call of a trainer (its state is donated), and start it. `steps`: environment steps of an update."""
    import jax

    from marl_bench.experiments.bench_rollouts import Program, compiled

    start, update, test = trainer
    key = jax.random.key(0)
    begin, start_seconds = compiled(start, key)
    carry = begin(key)

    def run(carry: Any, nothing: None) -> Any:
        del nothing
        carry = jax.lax.scan(lambda carry, _: (update(carry), None), carry, None, length=contest.updates)[0]
        return test(carry) if test is not None and contest.tested else carry

    call, seconds = compiled(run, carry, None, donate_argnums=0)
    analysis = call.memory_analysis()  # pyright: ignore[reportFunctionMemberAccess]
    memory = int(analysis.argument_size_in_bytes + analysis.temp_size_in_bytes) if analysis else 0
    return _Made(Program(call, carry, None, steps * contest.updates, seconds, start_seconds, 0.0), memory)


def our_trainer(contest: Contest) -> tuple[Trainer, int]:
    """Our side, and the environment steps of an update."""
    import jax
    import jax.numpy as jnp

    from marl_bench.registry import make, make_learner

    env, learner = make(contest.world[0], **contest.world[1]), make_learner(contest.learner[0], **contest.learner[1])
    learner.validate(env)

    def scores(state: Any) -> Any:
        return learner.evaluate(state, env) if contest.tested else {}

    def start(key: jax.Array) -> Any:
        state = learner.init(key, env)
        return state, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(scores, state))

    def update(carry: Any) -> Any:
        return learner.update(carry[0], env)[0], carry[1]

    return (start, update, lambda carry: (carry[0], scores(carry[0]))), learner.update_steps


def _machine() -> dict[str, Any]:
    import os
    import platform
    from datetime import date

    import jax

    return {
        "date": date.today().isoformat(),
        "platform": jax.default_backend(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _as_markdown(record: dict[str, Any]) -> str:
    lines = [
        f"`{record['command']}` ({record['date']}, {record['processors']} cores, {record['platform']}, jax {record['jax']}).",
        "Environment steps of training per second of CPU time (of wall-clock time on an accelerator); ratios pair by pair.",
        "",
        "| contest | ours | peer | ratio, median (min-max) | compile s | peer's | memory MiB | peer's |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["contests"]:
        ratios = row["ratios"]
        lines.append(
            f"| {row['name']} | {np.median(row['rates']):,.0f} | {row['peer']} {np.median(row['peer_rates']):,.0f} "
            f"| {np.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f}) | {row['our_compile_seconds']:.1f} "
            f"| {row['peer_compile_seconds']:.1f} | {row['our_memory_bytes'] / 2**20:.1f} | {row['peer_memory_bytes'] / 2**20:.1f} |"
        )
    return "\n".join(lines)
