"""Run an environment for the checks: compiled where possible, recorded on the host, never twice."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.checks.trees import describe, is_numeric, same, snapshot, to_host

LONGEST_WALK = 2000  # steps after which a declared horizon is no longer waited for (own choice: under a second)
EAGER_STEPS = 3  # steps replayed without jit; each costs one dispatch an operation
LANES = 3  # keys, or stacked environments, of a batch


class UnplayableError(Exception):
    """`reset` or `step` cannot be run at all; the message is the sentence to report."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One timestep of a walk, on the host.

    Attributes:
      method: "reset" or "step", whichever returned it.
      age: steps since the reset.
      actions: [N] or [N, D] what was played, None at reset.
      timestep: the timestep with NumPy leaves.
      state: the state with its device leaves.
    """

    method: str
    age: int
    actions: np.ndarray | None
    timestep: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class Walk:
    """Random play over several episodes.

    Attributes:
      records: the first `num_steps` steps and the resets between them.
      ends: (age, step_type, discount) of every step, also of those not recorded.
      traces: how often `step` was traced during the walk.
      error: what stopped the walk early, or None.
    """

    records: list[Record]
    ends: list[tuple[int, int, np.ndarray]]
    traces: int
    error: Exception | None


class Probe:
    """One environment under test, with everything that several checks need computed once.

    Attributes:
      num_steps: steps to record.
      seed: seed of all keys and actions.
      leaves, treedef: the environment taken apart.
      failures: (method, how) to the exception met there; `how` is "leaves traced", "compiled",
        "plain" or "batched".
    """

    def __init__(self, environment: Any, num_steps: int, seed: int) -> None:
        self._original = environment
        self.num_steps = num_steps
        self.seed = seed
        self.leaves, self.treedef = jax.tree.flatten(environment)
        self.failures: dict[tuple[str, str], Exception] = {}
        self._traces = {"reset": 0, "step": 0}
        self._runs: dict[str, Callable[..., Any]] = {}
        self._unplayable: UnplayableError | None = None
        self._snapshots: list[dict[str, Any]] = []

    @property
    def environment(self) -> Any:
        """A fresh shallow copy of the environment under test, so that one that changes itself cannot spoil it."""
        return copy.copy(self._original)

    def key(self, index: int) -> jax.Array:
        """[] typed key number `index` of this check."""
        return jax.random.fold_in(jax.random.key(self.seed), index)

    @property
    def is_pytree(self) -> bool:
        """True if JAX can look inside the environment."""
        return not (len(self.leaves) == 1 and self.leaves[0] is self._original)

    @functools.cached_property
    def discrete(self) -> bool:
        """True if actions are integers."""
        return bool(np.issubdtype(self.environment.action_spec.dtype, np.integer))

    @functools.cached_property
    def horizon(self) -> int | None:
        """The declared number of steps of every episode."""
        declared = self.environment.fixed_horizon
        return None if declared is None else int(declared)

    def rebuilt(self, leaves: list[Any]) -> Any:
        """The environment with other leaves."""
        return jax.tree.unflatten(self.treedef, leaves)

    # --- running ---------------------------------------------------------------------------------

    def run(self, method: str, *args: Any) -> Any:
        """Call `reset` or `step` in the best way that works.

        Compiled with the environment's leaves traced; else compiled with them fixed; else plain.

        Raises:
          UnplayableError: when none of them works on the first call.
        """
        if method in self._runs:
            return self._runs[method](*args)
        if self._unplayable is not None:
            raise self._unplayable
        for how, function in self._ways(method):
            try:
                state, timestep = function(*args)
            except Exception as error:
                self.failures[method, how] = error
            else:
                self._runs[method] = function
                return state, timestep
        arguments = "a typed PRNG key" if method == "reset" else "a state and one action per agent"
        self._unplayable = UnplayableError(
            f"{method}: fails with {describe(self.failures[method, 'plain'])}; given {arguments} it must return "
            "(state, timestep)"
        )
        raise self._unplayable

    def _ways(self, method: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        def traced(leaves: list[Any], *args: Any) -> Any:
            self._traces[method] += 1
            return getattr(self.rebuilt(leaves), method)(*args)

        def fixed(*args: Any) -> Any:
            self._traces[method] += 1
            return getattr(self.environment, method)(*args)

        if self.is_pytree:
            yield "leaves traced", functools.partial(jax.jit(traced), self.leaves)
        self._traces[method] = 0
        yield "compiled", jax.jit(fixed)
        yield "plain", lambda *args: getattr(self.environment, method)(*args)

    @property
    def compiled(self) -> bool:
        """True if both methods run under jit."""
        return not any(how == "compiled" for _, how in self.failures)

    def sample(self, timestep: Any, rng: np.random.Generator) -> np.ndarray:
        """Random legal actions of the action spec's dtype: [N] or [N, D]."""
        spec = self.environment.action_spec
        low = np.broadcast_to(getattr(spec, "minimum", -np.inf), spec.shape)
        high = np.broadcast_to(getattr(spec, "maximum", np.inf), spec.shape)
        if not self.discrete:
            low, high = np.where(np.isfinite(low), low, -1), np.where(np.isfinite(high), high, 1)
            return rng.uniform(low, high).astype(spec.dtype)
        mask = usable_mask(self.environment, timestep)
        if mask is not None and len(spec.shape) == 1:
            scores = rng.random(mask.shape) * mask
            return np.argmax(scores, axis=-1).astype(spec.dtype)
        return rng.integers(low, high, endpoint=True).astype(spec.dtype)

    @functools.cached_property
    def walk(self) -> Walk:
        """Random legal play of `num_steps` steps, or to the declared horizon if that is longer (and near)."""
        rng = np.random.default_rng(self.seed)
        state, timestep = self.run("reset", self.key(0))
        records, ends, error = [Record("reset", 0, None, to_host(timestep), state)], [], None
        episode = age = 0
        try:
            for t in range(LONGEST_WALK + 1):
                if t >= self.num_steps and not (self.compiled and self.horizon and t <= self.horizon):
                    break
                actions = self.sample(timestep, rng)
                state, timestep = self.run("step", state, actions)
                age += 1
                if t < self.num_steps:
                    records.append(Record("step", age, actions, to_host(timestep), state))
                ends.append((age, int(timestep.step_type), np.asarray(timestep.discount)))
                if ends[-1][1] == 2:
                    episode, age = episode + 1, 0
                    state, timestep = self.run("reset", self.key(episode))
                    if t < self.num_steps:
                        records.append(Record("reset", 0, None, to_host(timestep), state))
        except UnplayableError:
            raise
        except Exception as caught:
            error = caught
        return Walk(records, ends, self._traces["step"], error)

    # --- without jit -----------------------------------------------------------------------------

    @functools.cached_property
    def plain_actions(self) -> list[np.ndarray]:
        """`EAGER_STEPS` joint actions that are legal along the plain play with `key(0)`."""
        return [record.actions for record in self.walk.records if record.actions is not None][:EAGER_STEPS]

    @functools.cached_property
    def plays(self) -> list[list[tuple[Any, Any]]]:
        """Two un-compiled plays with the same key and actions: (state, timestep) of a reset and a few steps each."""
        return [self._plain_play(self.environment, snapshots) for snapshots in (self._snapshots, [])]

    def _plain_play(self, environment: Any, snapshots: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
        """One episode's beginning on the given copy; its attributes before and after each call go to `snapshots`."""
        snapshots.append(snapshot(environment))
        played = [environment.reset(self.key(0))]
        snapshots.append(snapshot(environment))
        for actions in self.plain_actions:
            if int(played[-1][1].step_type) == 2:
                break
            played.append(environment.step(played[-1][0], jnp.asarray(actions)))
            snapshots.append(snapshot(environment))
        return played

    @property
    def snapshots(self) -> list[dict[str, Any]]:
        """Attributes of the environment and its class before an un-compiled reset, after it, and after each step."""
        _ = self.plays
        return self._snapshots

    @functools.cached_property
    def jit_differences(self) -> dict[str, str]:
        """Method to the first leaf in which its compiled result differs from the plain one on the same inputs."""
        found: dict[str, str] = {}
        play = self.plays[0] if self.compiled else []
        states = [state for state, _ in play]
        steps = [("step", pair) for pair in zip(states, self.plain_actions, strict=False)]
        inputs = [("reset", (self.key(0),)), *steps]
        for (method, args), expected in zip(inputs, play, strict=False):
            path = None if method in found else same(self.run(method, *args), expected, exact=False)
            if path is not None:
                found[method] = path
        return found

    @property
    def repeatable(self) -> bool:
        """True if the same inputs give the same outputs, plain and compiled: only then can lanes be compared."""
        first, second = self.plays
        return not self.jit_differences and same(first, second, exact=True) is None

    # --- traces ----------------------------------------------------------------------------------

    @functools.cached_property
    def programs(self) -> dict[str, Any]:
        """The traced program (`jax.stages.Traced`) of each method that can be traced."""
        programs: dict[str, Any] = {}
        environment = self.environment
        for method in ("reset", "step"):
            args = (self.key(0),)
            if method == "step":
                before = programs["reset"].out_info if "reset" in programs else (self.walk.records[0].state,)
                args = (before[0], jnp.asarray(self.plain_actions[0]))
            try:
                programs[method] = jax.jit(lambda *args, method=method: getattr(environment, method)(*args)).trace(
                    *args
                )
            except Exception as error:
                self.failures.setdefault((method, "compiled"), error)
        return programs

    @property
    def avals(self) -> dict[str, Any]:
        """(state, timestep) of each method that can be traced after a traced reset: shapes, dtypes, weak types."""
        found = {method: program.out_info for method, program in self.programs.items()}
        return found if "reset" in found else {}

    def draws(self, method: str) -> set[str]:
        """Names of the primitives in the traced program of `method`, inner programs included."""
        program = self.programs.get(method)
        return set(primitives(program.jaxpr.jaxpr)) if program is not None else set()

    # --- batches ---------------------------------------------------------------------------------

    @functools.cached_property
    def swept(self) -> list[int]:
        """Which of the leaves can be stacked."""
        return [index for index, leaf in enumerate(self.leaves) if is_numeric(leaf)] if self.is_pytree else []

    def stacked(self) -> list[jax.Array]:
        """`LANES` equal values of each swept leaf."""
        return jax.jit(lambda leaves: [jnp.stack([leaf] * LANES) for leaf in leaves])(
            [self.leaves[index] for index in self.swept]
        )

    def play_with(self, values: list[Any], indices: list[int], key: jax.Array, actions: Any) -> Any:
        """Results of a reset and of a step of the environment with other values of some leaves."""
        leaves = list(self.leaves)
        for index, value in zip(indices, values, strict=True):
            leaves[index] = value
        environment = self.rebuilt(leaves) if indices else self.environment
        first = environment.reset(key)
        return first, environment.step(first[0], actions)

    @functools.cached_property
    def lanes(self) -> tuple[jax.Array, np.ndarray, list[Any]]:
        """`LANES` keys, legal joint actions after each, and what each key gives alone: results of reset and step."""
        keys = [self.key(100 + lane) for lane in range(LANES)]
        rng = np.random.default_rng(self.seed)
        alone = []
        for key in keys:
            first = self.run("reset", key)
            actions = self.sample(first[1], rng)
            alone.append((actions, (first, self.run("step", first[0], actions))))
        return jnp.stack(keys), np.stack([actions for actions, _ in alone]), [results for _, results in alone]

    @functools.cached_property
    def batches(self) -> bool:
        """True if one program over both keys and stacked environments gives each lane what its key gives alone.

        Then batches of either are right as well, so that only where it is False they are looked at one by one.
        """
        keys, actions, alone = self.lanes
        try:
            batch = jax.jit(jax.vmap(lambda values, *args: self.play_with(values, self.swept, *args)))(
                self.stacked(), keys, actions
            )
        except Exception:
            return False
        host = to_host(batch)
        return not self.repeatable or all(
            same(jax.tree.map(lambda leaf, lane=lane: leaf[lane], host), results, exact=False) is None
            for lane, results in enumerate(alone)
        )


def primitives(jaxpr: Any) -> Iterator[str]:
    """Names of all primitives of a traced program, depth first."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from primitives(inner)


def usable_mask(environment: Any, timestep: Any) -> np.ndarray | None:
    """[N, A] bool mask of a timestep, or None if it has none of that shape."""
    mask = getattr(timestep.observation, "action_mask", None)
    if mask is None:
        return None
    mask = np.asarray(mask)
    expected = (int(environment.num_agents), int(environment.num_actions))
    return mask.astype(bool) if mask.shape == expected and mask.size else None
