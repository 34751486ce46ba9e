"""Matrix games: one-shot and repeated games given by a payoff table.

Rules: all agents act at once; agent i receives `payoff[i, a_1, ..., a_N]`. Named tables and their closed forms are
in `games.py`. `RepeatedGame` holds what every repeated stage game shares (memory of the last joint action, episode
ends); `MatrixGame` adds the table. Games with further state and games on graphs are elsewhere.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import (
    Environment,
    ScriptedPolicy,
    TimeStep,
    check_choice,
    check_integer,
    check_range,
    field,
)
from marl_bench.envs import matrix_scripted
from marl_bench.envs.games import GAMES
from marl_bench.envs.matrix_render import render_payoffs

MAX_CODES = 256
"""Most distinct views that a uint8 code can tell apart."""
_LETTERS = ("reward", "sucker", "temptation", "punishment")


class GameState(NamedTuple):
    """State of a repeated game.

    Attributes:
      last_action: [N] integers (int8 where the number of actions allows), -1 before the first step.
      step_count: [] int32, steps since the reset.
      key: [] typed PRNG key, only with a geometric ending; else None.
    """

    last_action: jax.Array
    step_count: jax.Array
    key: jax.Array | None


class RepeatedGame(Environment):
    """A stage game played again and again: subclasses write `choices`, `payoffs`, `view` and the fields below.

    Endings: `horizon` 1 terminates (discount 0) after the one step; a longer `horizon` truncates (discount 1);
    `continuation` ends the game after every step with probability 1 - continuation, by termination. The last reward is
    always delivered. The step number is not in the view.
    """

    horizon: int | None
    continuation: float | None

    @property
    def choices(self) -> tuple[int, ...]:
        """Number of actions of each agent (length N)."""
        raise NotImplementedError(f"{type(self).__name__} must define choices")

    def payoffs(self, actions: jax.Array) -> jax.Array:
        """[N] float32 payoffs of the joint action [N] (legal integers)."""
        raise NotImplementedError(f"{type(self).__name__} must define payoffs")

    def view(self, last_action: jax.Array) -> jax.Array:
        """[N, O] float32 views after joint action [N] (-1: none yet)."""
        raise NotImplementedError(f"{type(self).__name__} must define view")

    def _check_ending(self) -> None:
        if self.horizon is not None:
            check_integer(self, "horizon", 1)
        check_range(self, "continuation", 0.0, 1.0)

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return len(self.choices)

    @property
    def num_actions(self) -> int:
        """Number of actions A, the largest over agents."""
        return max(self.choices)

    @property
    def fixed_horizon(self) -> int | None:
        """`horizon`, unless the game may end earlier by chance."""
        return self.horizon if self.continuation is None else None

    @property
    def endless(self) -> bool:
        """True with neither a horizon nor a geometric ending."""
        return self.horizon is None and self.continuation is None

    @property
    def action_spec(self) -> specs.MultiDiscreteArray:
        """[N] int32, entry i below `choices[i]`."""
        return specs.MultiDiscreteArray(self.choices, np.int32, "action")

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """`ObservationSpec` whose views lie in [0, 1]."""
        shape = (self.num_agents, *self.observation_shape)
        view = specs.BoundedArray(shape, np.float32, "agents_view", 0.0, 1.0)
        return specs.ObservationSpec(view, super().observation_spec.action_mask, super().observation_spec.step_count)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning of the metrics; both are 0 at reset."""
        return {
            "cooperation_rate": "fraction of agents that played action 0, in [0, 1]",
            "welfare": "mean payoff of the agents in this step, in units of payoff",
        }

    def reset(self, key: jax.Array) -> tuple[GameState, TimeStep]:
        """Start an episode; without a geometric ending `key` is not used."""
        dtype = jnp.int8 if self.num_actions <= np.iinfo(np.int8).max else jnp.int32
        state = GameState(
            last_action=jnp.full(self.num_agents, -1, dtype),
            step_count=jnp.zeros((), jnp.int32),
            key=None if self.continuation is None else key,
        )
        observation = self.observe_view(self.view(state.last_action), state.step_count, self._action_mask())
        return state, self.restart(observation, {"cooperation_rate": 0.0, "welfare": 0.0})

    def step(self, state: GameState, actions: jax.Array) -> tuple[GameState, TimeStep]:
        """Play one joint action [N]; entry i is clipped to 0 ... choices[i] - 1."""
        actions = jnp.clip(actions, 0, np.asarray(self.choices, np.int32) - 1)
        payoffs = self.payoffs(actions)
        key, terminated, truncated = self._end(state.key, state.step_count + 1)
        state = GameState(actions.astype(state.last_action.dtype), state.step_count + 1, key)
        observation = self.observe_view(self.view(state.last_action), state.step_count, self._action_mask())
        metrics = {"cooperation_rate": jnp.mean(actions == 0), "welfare": jnp.mean(payoffs)}
        return state, self.transition(payoffs, observation, terminated, truncated, metrics)

    def _end(self, key: jax.Array | None, steps: jax.Array) -> tuple[jax.Array | None, Any, Any]:
        """Next key, terminated and truncated after `steps` steps."""
        at_horizon = False if self.horizon is None else steps >= self.horizon
        terminated, truncated = (at_horizon, False) if self.horizon == 1 else (False, at_horizon)
        if self.continuation is not None and key is not None:
            key, key_stop = jax.random.split(key)
            terminated |= ~jax.random.bernoulli(key_stop, self.continuation)
        return key, terminated, truncated

    def _action_mask(self) -> jax.Array:
        return jnp.asarray(np.arange(self.num_actions) < np.asarray(self.choices)[:, None])


@struct.dataclass
class MatrixGame(RepeatedGame):
    """A game given by a payoff table, one-shot or repeated.

    Observation (float32), `observe="memory_one"`: one-hot of size 1 + A_1 * ... * A_N.

    | slot | meaning |
    | --- | --- |
    | 0 | start of the episode |
    | 1 + own * (actions of the others) + other | last joint action from the own side: CC, CD, DC, DD in a 2x2 game |

    With N > 2 the others stand in increasing order of their index. `observe="constant"`: the single number 1.

    Action i: 0 ... A_i - 1; 0 cooperates (first action), 1 defects. Agents with fewer actions are padded and masked.
    Reward: the table's entry, exactly. Endings: see `RepeatedGame`.

    Raises:
      ValueError: unknown game or view, a value out of range, a malformed table, a payoff given for another `game`; on
        first use, payoffs that `game` needs and that are missing.
    """

    game: str = field("prisoners_dilemma", static=True, doc="a name of games.GAMES, symmetric_2x2 or custom")
    payoff: np.ndarray | jax.Array | None = field(
        None, doc="[N, A_1, ..., A_N] payoff table; only, and always, with game=custom", unit="payoff"
    )
    reward: float | None = field(None, doc="R, both cooperate; only with game=symmetric_2x2", unit="payoff")
    sucker: float | None = field(None, doc="S, own cooperation met by defection; as reward", unit="payoff")
    temptation: float | None = field(None, doc="T, own defection met by cooperation; as reward", unit="payoff")
    punishment: float | None = field(None, doc="P, both defect; as reward", unit="payoff")
    horizon: int | None = field(
        100, static=True, doc="steps: 1 terminates, more truncates, None is endless; >= 1", unit="steps"
    )
    observe: str = field("memory_one", static=True, doc="memory_one or constant")
    continuation: float | None = field(
        None, doc="probability of going on after each step, in [0, 1]; None: no geometric ending", unit="probability"
    )

    def __post_init__(self) -> None:
        check_choice(self, "game", (*GAMES, "symmetric_2x2", "custom"))
        check_choice(self, "observe", ("memory_one", "constant"))
        self._check_ending()
        for name in _LETTERS:
            check_range(self, name)
            if self.game != "symmetric_2x2" and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is given, but game={self.game!r}: use game='symmetric_2x2' (field of MatrixGame)"
                )
        if self.payoff is not None:
            if self.game != "custom":
                raise ValueError(f"payoff is given, but game={self.game!r}: use game='custom' (field of MatrixGame)")
            object.__setattr__(self, "payoff", checked_payoff(self.payoff))

    @property
    def payoff_tensor(self) -> jax.Array:
        """[N, A_1, ..., A_N] float32 payoffs of this game.

        Raises:
          ValueError: when `game` needs payoffs that were not given, or the table has a wrong shape.
        """
        self._table_shape()
        if self.game == "symmetric_2x2":
            own = jnp.stack([jnp.asarray(getattr(self, name), jnp.float32) for name in _LETTERS]).reshape(2, 2)
            return jnp.stack([own, own.T])
        return jnp.asarray(GAMES[self.game] if self.game != "custom" else self.payoff, jnp.float32)

    @property
    def common_reward(self) -> bool | None:
        """Whether a named game pays all agents the same; None where payoffs are leaves, which a study may sweep."""
        table = GAMES.get(self.game)
        return None if table is None else bool((table == table[:1]).all())

    def _table_shape(self) -> tuple[int, ...]:
        """Shape of `payoff_tensor`, known without touching a device; its errors are raised here.

        Not in the constructor: `jax.tree` operations build environments whose leaves are None.
        """
        if self.game == "symmetric_2x2":
            if any(getattr(self, name) is None for name in _LETTERS):
                raise ValueError(f"game='symmetric_2x2' needs all of {', '.join(_LETTERS)} (fields of MatrixGame)")
            return (2, 2, 2)
        if self.game != "custom":
            return GAMES[self.game].shape
        if self.payoff is None:
            raise ValueError("game='custom' needs payoff, a table [N, A_1, ..., A_N] (field of MatrixGame)")
        shape = tuple(np.shape(self.payoff))
        if not _is_table(shape):
            raise ValueError(_shape_message(shape))
        return shape

    @property
    def choices(self) -> tuple[int, ...]:
        """Number of actions of each agent (length N)."""
        return self._table_shape()[1:]

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(1 + number of joint actions,), or (1,) for the constant view."""
        return (1,) if self.observe == "constant" else (1 + math.prod(self.choices),)

    def payoffs(self, actions: jax.Array) -> jax.Array:
        """[N] float32 table entries of the joint action [N] (legal integers)."""
        joint = joint_codes(actions, self.choices)[0] - 1
        return self.payoff_tensor.reshape(self.num_agents, -1)[:, joint]

    def view(self, last_action: jax.Array) -> jax.Array:
        """[N, O] float32 views after joint action [N] (-1: none yet)."""
        if self.observe == "constant":
            return jnp.ones((self.num_agents, 1), jnp.float32)
        codes = joint_codes(last_action, self.choices)
        return (codes[:, None] == jnp.arange(self.observation_shape[0])).astype(jnp.float32)

    def global_state(self, state: GameState) -> jax.Array:
        """[1 + number of joint actions] float32: agent 0's memory-one view, whatever `observe` says."""
        code = joint_codes(state.last_action, self.choices)[0]
        return (code == jnp.arange(1 + math.prod(self.choices))).astype(jnp.float32)

    def render(self, state: GameState) -> np.ndarray:
        """uint8 [H, W, 3]: the payoff table as colours, the last joint action framed."""
        return render_payoffs(np.asarray(self.payoff_tensor), np.asarray(state.last_action))

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`best` plays the joint action of the largest total payoff; then `cooperate`, `defect` and, with two actions
        for each of two agents, the eight memory-one strategies by lower-case name (`tft` ...)."""
        policies = {
            "best": matrix_scripted.best_joint_action(self.payoff_tensor),
            "cooperate": matrix_scripted.constant(self.num_agents, 0),
            "defect": matrix_scripted.constant(self.num_agents, 1),
        }
        return {**policies, **(matrix_scripted.memory_one_policies() if self.choices == (2, 2) else {})}

    @property
    def num_codes(self) -> int | None:
        """Number of distinct views; None if a uint8 cannot tell them apart."""
        size = self.observation_shape[0]
        return size if size <= MAX_CODES else None

    def code_observations(self) -> np.ndarray:
        """[K, O] float32: the view that each code stands for."""
        return np.eye(self.observation_shape[0], dtype=np.float32)

    def observation_code(self, state: GameState) -> jax.Array:
        """[N] uint8 code of each agent's view: the position of its one."""
        if self.observe == "constant":
            return jnp.zeros(self.num_agents, jnp.uint8)
        return joint_codes(state.last_action, self.choices).astype(jnp.uint8)

    def code_outcome(self, code: jax.Array, agent: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Last action and reward of `agent` from the code it sees after the step; 0 and 0 for the start's code.

        Args:
          code: [...] integers below `num_codes`. agent: [...] int32, same shape.
        Returns:
          action: [...] int32, reward: [...] float32; None for the constant view, which tells neither.
        """
        if self.observe == "constant":
            return None
        table = self.payoff_tensor
        own_side = jnp.stack([jnp.moveaxis(table[i], i, 0).reshape(-1) for i in range(self.num_agents)])
        rewards = jnp.pad(own_side, ((0, 0), (1, 0)))
        partner_choices = jnp.asarray([math.prod(self.choices) // own for own in self.choices], jnp.int32)
        code = jnp.asarray(code, jnp.int32)
        action = jnp.maximum(code - 1, 0) // partner_choices[agent]
        return action, rewards[agent, code]


def _is_table(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 3 and shape[0] == len(shape) - 1 and min(shape) >= 1


def _shape_message(shape: tuple[int, ...]) -> str:
    return f"payoff has shape {shape}: must be [N, A_1, ..., A_N] with N >= 2 (field of MatrixGame)"


def checked_payoff(payoff: Any) -> Any:
    """Turn nested lists into a table and check what the host can read.

    Arrays with further leading axes pass, as a stack of tables; so does anything that is not an array (tracers and the
    placeholders of `jax.tree` operations).

    Args:
      payoff: [..., N, A_1, ..., A_N] array or nested lists.
    Returns:
      payoff: float32 array if it was nested lists, else unchanged.
    Raises:
      ValueError: when the shape fits no number of agents >= 2, or an entry is not a finite number.
    """
    if isinstance(payoff, (list, tuple)) and payoff and isinstance(payoff[0], (list, tuple)):
        try:
            payoff = np.asarray(payoff, np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError("payoff: nested lists must form a table of numbers (field of MatrixGame)") from error
    if not isinstance(payoff, np.ndarray):
        return payoff
    if not any(_is_table(payoff.shape[axes:]) for axes in range(payoff.ndim)):
        raise ValueError(
            f"payoff has shape {payoff.shape}: must be [N, A_1, ..., A_N] with N >= 2 (field of MatrixGame)"
        )
    if payoff.dtype.kind not in "iuf" or not np.isfinite(payoff).all():
        raise ValueError("payoff: every entry must be a finite number (field of MatrixGame)")
    return payoff


def joint_codes(last_action: jax.Array, choices: tuple[int, ...]) -> jax.Array:
    """Number each agent's view of a joint action: own action first, the others in increasing order of index.

    Args:
      last_action: [N] integers, -1 before the first step.
      choices: number of actions of each agent.
    Returns:
      codes: [N] int32, 0 before the first step, else 1 + row-major index of (own, others).
    """
    agents = range(len(choices))
    strides = np.zeros((len(choices), len(choices)), np.int32)
    for own in agents:
        order = [own, *(other for other in agents if other != own)]
        for place, other in enumerate(order):
            strides[own, other] = math.prod(choices[later] for later in order[place + 1 :])
    # A sum of products rather than a matrix product: it fuses with its surroundings under vmap.
    codes = 1 + jnp.sum(strides * last_action.astype(jnp.int32), axis=1)
    return jnp.where(last_action[0] < 0, 0, codes)
