"""`marl-bench bench offline`: what the offline learners' shortcuts are worth, and packs of cells against an eager PyTorch loop."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.algorithms.mixers import MonotonicMixer
from marl_bench.algorithms.value_based import picked
from marl_bench.errors import UsageError
from marl_bench.experiments.papers.reporting import processor
from marl_bench.naming import nearest
from marl_bench.runtime.files import write_atomic

AGENTS, ACTIONS, STATES = 10, 11, 512
"""Size of the contest: n, A, and states in a batch."""

CONTESTS = ("counterfactual", "training")

_ROUNDS = 9


def whole(mixer: MonotonicMixer, params: Any, q: jax.Array, action: jax.Array, state: jax.Array) -> jax.Array:
    """[R, N, A] counterfactual values by a call of the whole mixer for each.

    Args:
      q: [R, N, A] the agents' values. action: [R, N] of the data. state: [R, S].
    """
    count, size = q.shape[-2:]
    chosen = picked(q, action)
    own = jnp.eye(count, dtype=bool)[:, None]
    values = jnp.where(own, q[..., :, :, None], chosen[..., None, None, :])
    return mixer.apply(params, values, jnp.broadcast_to(state[:, None, None], (len(q), count, size, state.shape[-1])))


def changed(mixer: MonotonicMixer, params: Any, q: jax.Array, action: jax.Array, state: jax.Array) -> jax.Array:
    """The same values from one evaluation of the mixer's hyper-networks, as `cfcql` computes them; arguments as in `whole`."""
    return mixer.weights(params, state).one_changed(q, picked(q, action))


def counterfactual_contest(states: int = STATES, rounds: int = _ROUNDS) -> dict[str, float]:
    """Both ways side by side, with the gradients that training needs.

    Args:
      states: in a batch. rounds: of each, in turn; the medians count.
    Returns:
      seconds of each, their quotient, and the largest difference of values and of gradients, as shares of the largest value.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    mixer = MonotonicMixer(AGENTS, AGENTS, 32, (64,))
    inputs = (
        mixer.init(keys[0]),
        jax.random.normal(keys[1], (states, AGENTS, ACTIONS)),
        jax.random.randint(keys[2], (states, AGENTS), 0, ACTIONS),
        jax.random.normal(keys[3], (states, AGENTS)),
    )

    def program(values: Callable[..., jax.Array]) -> Any:
        def loss(params: Any, q: jax.Array, action: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
            found = values(mixer, params, q, action, state)
            return jnp.mean(jax.nn.logsumexp(found, axis=-1)), found

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)).lower(*inputs).compile()

    programs = {"whole": program(whole), "changed": program(changed)}
    results = {name: jax.block_until_ready(run(*inputs)) for name, run in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(run(*inputs))
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    (first, one), (second, other) = (((found[0][1]), found[1]) for found in results.values())
    return {
        "seconds_whole": medians["whole"],
        "seconds_changed": medians["changed"],
        "times_faster": medians["whole"] / medians["changed"],
        "largest_difference": _difference(first, second),
        "largest_gradient_difference": _difference(one, other),
    }


def _difference(one: Any, other: Any) -> float:
    """Largest difference of any entry of any leaf, as a share of the leaf's largest entry."""
    shares = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b)) / np.max(np.abs(a))), one, other)
    return max(jax.tree.leaves(shares))


def main(only: str | None, out: Path | None) -> int:
    """Run the contests, print them, and write them to `out` as JSON.

    Args:
      only: `CONTESTS` to run, separated by commas; None for all.
    Raises:
      UsageError: for an unknown contest, or when PyTorch is not installed (extra).
    """
    wanted = [word.strip() for word in only.split(",")] if only else list(CONTESTS)
    for name in wanted:
        if name not in CONTESTS:
            raise UsageError(f"--only {name}: no such contest{nearest(name, CONTESTS)} (known: {', '.join(CONTESTS)})")
    if "training" in wanted and importlib.util.find_spec("torch") is None:
        raise UsageError(
            "contest training needs torch, which is not installed: pip install 'marl-bench[torch]' "
            "(--only counterfactual runs without it)"
        )
    record: dict[str, Any] = {
        "processor": processor(),
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    sys.stdout.write(f"{record['processor']}, JAX {record['jax']}\n")
    if "counterfactual" in wanted:
        record |= counterfactual_contest()
        sys.stdout.write(_counterfactual_text(record) + "\n")
    if "training" in wanted:
        from marl_bench.experiments import bench_offline_training

        record["torch"] = metadata.version("torch")
        record["training"] = bench_offline_training.contests()
        sys.stdout.write(f"PyTorch {record['torch']}\n{bench_offline_training.as_markdown(record['training'])}\n")
    if out is not None:
        write_atomic(out, json.dumps(record, indent=2).encode())
    return 0


def _counterfactual_text(found: dict[str, Any]) -> str:
    return (
        f"counterfactual values of {STATES} states, n = {AGENTS}, A = {ACTIONS}, with gradients: n A calls of the mixer "
        f"{1e3 * found['seconds_whole']:.1f} ms, one evaluation {1e3 * found['seconds_changed']:.1f} ms, "
        f"{found['times_faster']:.1f} times faster; values differ by {found['largest_difference']:.1e}, gradients by "
        f"{found['largest_gradient_difference']:.1e} of the largest"
    )
