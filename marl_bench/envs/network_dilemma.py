"""The repeated two-action dilemma on a graph: `network_dilemma`.

Source: Weng and Lee 2026, "How Exploration Breaks Cooperation in Shared-Policy Multi-Agent Reinforcement Learning"
(arXiv 2601.05509); graphs as in the experiments that its authors published beside it.

All agents act at once; agent i's reward is the mean payoff against its k neighbours. Nothing ever ends and
nothing is random after the reset.

| | content |
|---|---|
| action | 0 = cooperate (C), 1 = defect (D) |
| agents_view | [N, k + 1] float32 of 0/1: the neighbours' last actions (lattice: up, right, down, left), then the own; on an irregular graph k more, which slots are neighbours (actions of empty ones are 0); plus `learner_inputs` |
| reward | mean over neighbours of the payoff M[own, other], in [min M, max M]; 0 for an agent without neighbours |
| ends | never |
| metrics | `cooperation_rate`: fraction of agents that cooperated; `mean_reward`: mean reward over agents |

Out-of-range actions are clipped to {0, 1}.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import (
    Environment,
    ScriptedPolicy,
    TimeStep,
    check_choice,
    check_integer,
    check_range,
    field,
)
from marl_bench.envs import graphs

TOPOLOGIES = ("lattice", "rewired", "random", "modular", "given", "irregular")
_TABLES = ("given", "irregular")
"""Topologies that the field `neighbors` holds."""
_MAX_DEGREE = 7
"""Of regular graphs: neighbours and the agent itself are the bits of a uint8 code."""
OBSERVE = {
    "actions": (),
    "temperature": ("temperature",),
    "progress": ("progress",),
    "both": ("temperature", "progress"),
}
_COOPERATE_COLOUR = (52, 101, 164)
_DEFECT_COLOUR = (224, 122, 31)


@struct.dataclass
class State:
    """State of the dilemma.

    Attributes:
      actions: [N] uint8, last joint action (0 = C, 1 = D); a fair coin each at the reset.
      step_count: [] int32.
    """

    actions: jax.Array
    step_count: jax.Array


@struct.dataclass
class NetworkDilemma(Environment):
    """Repeated two-action dilemma on a graph; observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for values out of range, or payoffs given twice (`dilemma_strength` beside `sucker` and `temptation`).
      TypeError: for values of the wrong type.
    """

    side: int = field(
        30, static=True, doc="lattice side L; N = L^2 agents; with neighbors given only the width of the picture"
    )
    topology: str = field(
        "lattice", static=True, doc=f"graph: {', '.join(TOPOLOGIES)}; the run's seed draws the random ones"
    )
    observe: str = field("actions", static=True, doc=f"what agents see besides actions: {', '.join(OBSERVE)}")
    dilemma_strength: float | None = field(
        0.25,
        doc="D_r >= 0: sets sucker = punishment - D_r and temptation = reward + D_r where these are not given",
        unit="payoff",
    )
    reward: float = field(1.0, doc="R, payoff of C against C", unit="payoff")
    sucker: float | None = field(None, doc="S, payoff of C against D; None: from dilemma_strength", unit="payoff")
    temptation: float | None = field(None, doc="T, payoff of D against C; None: from dilemma_strength", unit="payoff")
    punishment: float = field(0.0, doc="P, payoff of D against D", unit="payoff")
    neighbors: Any = field(
        None,
        doc="[N, k] int32 neighbour table of a simple graph: k-regular with k <= 7 (topology='given'), or any, where row i "
        "has i in its empty slots (topology='irregular')",
    )

    def __post_init__(self) -> None:
        check_integer(self, "side", 3, 4096)
        check_choice(self, "topology", TOPOLOGIES)
        check_choice(self, "observe", tuple(OBSERVE))
        check_range(self, "dilemma_strength", 0.0)
        for name in ("reward", "sucker", "temptation", "punishment"):
            check_range(self, name)
        if self.sucker is not None and self.temptation is not None and self.dilemma_strength is not None:
            raise ValueError(
                "sucker and temptation are both given, so dilemma_strength has no effect: pass dilemma_strength=None "
                "(fields of NetworkDilemma)"
            )
        if self.dilemma_strength is None and (self.sucker is None or self.temptation is None):
            raise ValueError("dilemma_strength=None needs both sucker and temptation (fields of NetworkDilemma)")
        self._check_neighbors()

    def _check_neighbors(self) -> None:
        table = self.neighbors
        if isinstance(table, (list, tuple)) or hasattr(table, "neighbours"):
            raise TypeError(
                f"neighbors={type(table).__name__}: must be an array [N, k]; take graph.neighbours of a graph, np.array(...) of "
                "lists (field of NetworkDilemma)"
            )
        if self.topology not in _TABLES:
            if self.topology == "lattice" and isinstance(table, np.ndarray):
                raise ValueError(
                    f"neighbors with topology={self.topology!r}: use 'given' or 'irregular' (fields of NetworkDilemma)"
                )
            return
        if table is None:
            raise ValueError(f"topology={self.topology!r} needs neighbors=[N, k] (fields of NetworkDilemma)")
        if self.regular and np.ndim(table) and self.degree > _MAX_DEGREE:
            raise ValueError(
                f"neighbors: degree {self.degree} is above {_MAX_DEGREE}, which topology='given' offers; use "
                "topology='irregular' (fields of NetworkDilemma)"
            )
        if isinstance(table, (np.ndarray, jax.Array)):
            with contextlib.suppress(jax.errors.TracerArrayConversionError):
                graphs.validate_neighbours(np.asarray(table), padded=not self.regular)

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return int(self.neighbors.shape[-2]) if self.topology in _TABLES else self.side**2

    @property
    def degree(self) -> int:
        """Number of neighbours k of every agent; on an irregular graph the largest one."""
        return int(self.neighbors.shape[-1]) if self.topology in _TABLES else 4

    @property
    def regular(self) -> bool:
        """Whether all agents have equally many neighbours."""
        return self.topology != "irregular"

    @property
    def num_actions(self) -> int:
        """Two: cooperate, defect."""
        return 2

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(k + 1 + number of learner inputs,); k more on an irregular graph."""
        return (self.degree * (1 if self.regular else 2) + 1 + len(self.learner_inputs),)

    @property
    def endless(self) -> bool:
        """Always: there are no episodes."""
        return True

    @property
    def learner_inputs(self) -> tuple[str, ...]:
        """Scalars that the learner appends to every view, by `observe`."""
        return OBSERVE[self.observe]

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "cooperation_rate": "fraction of agents that cooperated in this step",
            "mean_reward": "payoff per agent and step",
        }

    def prepare(self, seed: int) -> NetworkDilemma:
        """Draw this run's graph (rewired, random, modular) from `seed`; other topologies return themselves."""
        if self.topology in ("lattice", *_TABLES):
            return self
        return dataclasses.replace(self, neighbors=_draw_graph(self.topology, self.side, seed))

    @property
    def neighbor_table(self) -> jax.Array | np.ndarray:
        """[N, k] int32. An environment that `prepare` has not seen uses the graph of seed 0."""
        if self.topology == "lattice":
            return graphs.torus(self.side)
        return _draw_graph(self.topology, self.side, 0) if self.neighbors is None else self.neighbors

    # --- dynamics --------------------------------------------------------------------------------

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Draw a fair coin per agent as its previous action. `key`: [] typed PRNG key."""
        actions = jax.random.bernoulli(key, 0.5, (self.num_agents,)).astype(jnp.uint8)
        state = State(actions=actions, step_count=jnp.int32(0))
        view, reward = self._look(state)
        return state, self.restart(self._observation(view, state), self._metrics(state, reward))

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """All agents act at once. `actions`: [N] integers, clipped to {0, 1}."""
        state = State(actions=jnp.clip(actions, 0, 1).astype(jnp.uint8), step_count=state.step_count + 1)
        view, reward = self._look(state)
        return state, self.transition(reward, self._observation(view, state), metrics=self._metrics(state, reward))

    def global_state(self, state: State) -> jax.Array:
        """[N] float32 joint action."""
        return state.actions.astype(jnp.float32)

    def payoffs(self) -> tuple[Any, Any, Any, Any]:
        """(R, S, T, P) after `dilemma_strength` has filled in what was not given."""
        strength: Any = self.dilemma_strength
        sucker = self.punishment - strength if self.sucker is None else self.sucker
        temptation = self.reward + strength if self.temptation is None else self.temptation
        return self.reward, sucker, temptation, self.punishment

    # --- the few distinct observations -----------------------------------------------------------

    @property
    def num_codes(self) -> int | None:
        """2^(k + 1) distinct views; None on an irregular graph."""
        return 2 ** (self.degree + 1) if self.regular else None

    def code_observations(self) -> np.ndarray:
        """[2^(k+1), k + 1 + inputs] float32: bit j of the code is slot j of the view."""
        count = self.num_codes
        if count is None:
            return super().code_observations()
        bits = (np.arange(count)[:, None] >> np.arange(self.degree + 1)) & 1
        padding = np.zeros((count, len(self.learner_inputs)))
        return np.concatenate([bits, padding], axis=1).astype(np.float32)

    def observation_code(self, state: State) -> jax.Array:
        """[N] uint8: bit j is the last action of neighbour j, bit k the own last action."""
        if not self.regular:
            return super().observation_code(state)
        actions = state.actions
        if self.topology == "lattice":
            grid = actions.reshape(self.side, self.side)
            slots = (jnp.roll(grid, 1, 0), jnp.roll(grid, -1, 1), jnp.roll(grid, -1, 0), jnp.roll(grid, 1, 1), grid)
        else:
            seen = jnp.asarray(actions).at[jnp.asarray(self.neighbor_table)].get(mode="promise_in_bounds")
            slots = (*(seen[:, j] for j in range(self.degree)), actions)
        code = functools.reduce(jnp.bitwise_or, [slot << np.uint8(j) for j, slot in enumerate(slots)])
        return code.reshape(-1)

    def code_outcome(self, code: jax.Array, agent: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Own action, and the reward of `_gain` (spec section 1); None on an irregular graph."""
        del agent
        return self._outcome(code) if self.regular else None

    def _outcome(self, code: jax.Array) -> tuple[jax.Array, jax.Array]:
        defectors = jax.lax.population_count(code & np.uint8(2**self.degree - 1)).astype(jnp.float32)
        share = defectors * np.float32(1.0 / self.degree)
        action = (code >> np.uint8(self.degree)).astype(jnp.int32)
        return action, self._gain(action, share)

    def _gain(self, action: jax.Array, share: jax.Array) -> jax.Array:
        """[...] float32 reward, C: R - (n/k)(R - S), D: T - (n/k)(T - P), with a share n/k of defecting neighbours."""
        reward, sucker, temptation, punishment = self.payoffs()
        gained = jnp.where(
            action == 0, reward - share * (reward - sucker), temptation - share * (temptation - punishment)
        )
        return gained.astype(jnp.float32)

    # --- views -----------------------------------------------------------------------------------

    def _look(self, state: State) -> tuple[jax.Array, jax.Array]:
        """What agents see, [N, ...] zeros and ones, and their rewards [N], after the joint action of `state`."""
        if self.regular:
            code = self.observation_code(state)
            bits = (code[:, None] >> np.arange(self.degree + 1, dtype=np.uint8)) & np.uint8(1)
            return bits, self._outcome(code)[1]
        table = jnp.asarray(self.neighbor_table)
        present = table != np.arange(self.num_agents)[:, None]
        seen = jnp.where(present, state.actions.at[table].get(mode="promise_in_bounds"), jnp.uint8(0))
        count = jnp.sum(present, axis=1)
        share = jnp.sum(seen, axis=1) / jnp.maximum(count, 1).astype(jnp.float32)
        gained = jnp.where(count > 0, self._gain(state.actions, share), 0.0)
        return jnp.concatenate([seen, state.actions[:, None], present.astype(jnp.uint8)], axis=1), gained

    def _observation(self, view: jax.Array, state: State) -> Any:
        padding = jnp.zeros((self.num_agents, len(self.learner_inputs)), jnp.float32)
        return self.observe_view(jnp.concatenate([view.astype(jnp.float32), padding], axis=1), state.step_count)

    def _metrics(self, state: State, reward: jax.Array) -> dict[str, jax.Array]:
        return {"cooperation_rate": jnp.mean(1.0 - state.actions), "mean_reward": jnp.mean(reward)}

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` and `defect`: everybody, always."""

        def constant(action: int) -> ScriptedPolicy:
            return lambda state, observation, key: jnp.full(self.num_agents, action, jnp.int32)

        return {"cooperate": constant(0), "defect": constant(1)}

    def render(self, state: State) -> np.ndarray:
        """uint8 [H, W, 3]: agents row by row, 8 pixels each; blue cooperates, orange defects, grey is padding."""
        actions = np.asarray(state.actions)
        rows = -(-self.num_agents // self.side)
        cells = np.full((rows * self.side, 3), 128, np.uint8)
        cells[: self.num_agents] = np.where(actions[:, None] == 0, _COOPERATE_COLOUR, _DEFECT_COLOUR)
        return cells.reshape(rows, self.side, 3).repeat(8, axis=0).repeat(8, axis=1)


@functools.lru_cache(maxsize=256)
def _draw_graph(topology: str, side: int, seed: int) -> np.ndarray:
    """[N, 4] int32 neighbour table of one random graph (host side, spec section 6.4)."""
    if topology == "rewired":
        return graphs.rewired_torus(side, seed=seed)
    if topology == "random":
        return graphs.random_regular(side**2, 4, seed)
    return graphs.modular_regular(side**2, seed=seed)
