"""Cheap talk about hidden hands, then a split of coins: `trust_and_split`.

Each round deals two different hands of rock, paper, scissors; a coin is worth `high` to the winner's side and `low` to the
other's, but each agent sees its own hand only. They talk, `turns` tokens each in turns (who starts changes every round), then
claim coins at once. Rules and source: `rules`. One step is one message or one split; a round has 2 turns + 1 steps.

| | content |
|---|---|
| action | 0 ... V - 1: say a token (0: silence); V ... V + 10: claim 0 ... 10 coins; out of range: clipped |
| action_mask | message phase: any token for the speaker, only 0 for the listener; split phase: claims only |
| agents_view | [2, O] float32 of 0 ... 1, see `TrustAndSplit` |
| reward | points, value * coins received, at the split; else 0 |
| ends | truncated after `rounds` rounds |
| metrics | `split`, `welfare`, `winner_coins` |
| extras | `hands`, `tokens` (last one said, -1: none), `claims`, `round_over`: the round that this step ended, for `diagnostics` |
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import (
    Environment,
    Observation,
    ScriptedPolicy,
    TimeStep,
    check_integer,
    check_range,
    field,
)
from marl_bench.envs.trust_and_split import rules, scripted, viewer
from marl_bench.random import words


@struct.dataclass
class State:
    """State of trust-and-split with Q turns per agent.

    Attributes:
      hands: [2] int8: 0 rock, 1 paper, 2 scissors.
      phase: [] int8, 0 ... 2Q - 1 messages, 2Q the split.
      tokens: [2, Q] int8, what each agent has said in this round; -1 not yet.
      last_hands: [2] int8, hands of the last round; -1 before the first one is over.
      last_claims: [2] int8, claims of the last round.
      round: [] int32.
      step_count: [] int32.
      key: [] typed PRNG key of the episode; deals are numbered by the round.
    """

    hands: jax.Array
    phase: jax.Array
    tokens: jax.Array
    last_hands: jax.Array
    last_claims: jax.Array
    round: jax.Array
    step_count: jax.Array
    key: jax.Array


@struct.dataclass
class TrustAndSplit(Environment):
    """Cheap talk, then a split; action, reward, metrics stand in the module's docstring.

    Observation (float32, own side first; Q = turns, V = vocabulary):

    | entries | meaning |
    | --- | --- |
    | 3 | own hand, one-hot |
    | 2Q + 1 | phase, one-hot |
    | 1 | it is my turn to speak |
    | Q V, Q V | tokens said in this round by me, by the other: one-hot each, zeros if not yet said |
    | 3, 3 | last round: own hand, other's hand, one-hot; zeros in the first round |
    | 5 | last round: I had the high value; own claim, other's claim, own coins, other's coins, each / 10 |
    | 1 | fraction of rounds played, only with `observe_round` |

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    turns: int = field(1, static=True, doc="Q, messages of each agent per round; 0: no talk", unit="messages")
    vocabulary: int = field(4, static=True, doc="V, number of tokens, silence (0) included; 4 ... 100", unit="tokens")
    rounds: int = field(10, static=True, doc="R, rounds of an episode; >= 1", unit="rounds")
    high: float = field(10.0, doc="worth of a coin to the side with the winning hand", unit="points")
    low: float = field(1.0, doc="worth of a coin to the other side", unit="points")
    observe_round: bool = field(False, static=True, doc="show the fraction of rounds played")

    def __post_init__(self) -> None:
        check_integer(self, "turns", 0, 16)
        check_integer(self, "vocabulary", 4, 100)
        check_integer(self, "rounds", 1)
        check_range(self, "high")
        check_range(self, "low")
        if not isinstance(self.observe_round, bool):
            raise TypeError(f"observe_round={self.observe_round!r}: must be True or False (field of TrustAndSplit)")

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def num_agents(self) -> int:
        """Two."""
        return 2

    @property
    def num_actions(self) -> int:
        """V tokens and 11 claims."""
        return self.vocabulary + rules.COINS + 1

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(16 + 2Q + 2QV,), one more with `observe_round`."""
        return (16 + 2 * self.turns * (1 + self.vocabulary) + self.observe_round,)

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """`ObservationSpec` whose views lie in [0, 1]."""
        spec = super().observation_spec
        view = specs.BoundedArray((2, *self.observation_shape), np.float32, "agents_view", 0.0, 1.0)
        return specs.ObservationSpec(view, spec.action_mask, spec.step_count)

    @property
    def fixed_horizon(self) -> int:
        """R (2Q + 1) steps."""
        return self.rounds * (2 * self.turns + 1)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "split": "1 in a step that ends a round, else 0",
            "welfare": "points of both agents in this step, as a fraction of 10 high; divide its sum by that of split",
            "winner_coins": "fraction of the coins that went to the winning hand in this step; 0 outside splits",
        }

    # --- dynamics --------------------------------------------------------------------------------

    def _deal(self, key: jax.Array, number: jax.Array) -> jax.Array:
        """[2] int8 hands of round `number`."""
        word = words(key, number, 0, 1)[0]
        # Uniform below 6; the bias is below 6 / 2^24.
        index = ((word >> np.uint32(8)) * np.uint32(len(rules.HANDS))) >> np.uint32(24)
        return jnp.asarray(rules.HANDS)[index]

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Deal the first hands. `key`: [] typed PRNG key."""
        state = State(
            hands=self._deal(key, jnp.int32(0)),
            phase=jnp.zeros((), jnp.int8),
            tokens=jnp.full((2, self.turns), -1, jnp.int8),
            last_hands=jnp.full(2, -1, jnp.int8),
            last_claims=jnp.zeros(2, jnp.int8),
            round=jnp.zeros((), jnp.int32),
            step_count=jnp.zeros((), jnp.int32),
            key=key,
        )
        metrics = {"split": 0.0, "welfare": 0.0, "winner_coins": 0.0}
        timestep = self.restart(self._observation(state), metrics)
        none = jnp.full(2, -1, jnp.int8)
        return state, self._with_extras(timestep, state.hands, none, jnp.zeros(2, jnp.int8), jnp.asarray(False))

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """One message or one split. `actions`: [2] integers; what the mask forbids counts as silence or a claim of 0."""
        actions = jnp.clip(actions, 0, self.num_actions - 1)
        splits = state.phase == 2 * self.turns
        claims = jnp.maximum(actions - self.vocabulary, 0).astype(jnp.int8)
        tokens = self._said(state, actions)
        worth = rules.values(state.hands, self.high, self.low)
        coins = rules.shares(claims)
        points = jnp.where(splits, worth * coins, 0.0)
        number = state.round + splits
        following = State(
            hands=jnp.where(splits, self._deal(state.key, number), state.hands),
            phase=jnp.where(splits, 0, state.phase + 1).astype(jnp.int8),
            tokens=jnp.where(splits, jnp.int8(-1), tokens),
            last_hands=jnp.where(splits, state.hands, state.last_hands),
            last_claims=jnp.where(splits, claims, state.last_claims),
            round=number,
            step_count=state.step_count + 1,
            key=state.key,
        )
        winner = jnp.sum(jnp.where(self._winner(state.hands), coins, 0.0)) / rules.COINS
        metrics = {
            "split": splits,
            "welfare": jnp.sum(points) / (rules.COINS * self.high),
            "winner_coins": jnp.where(splits, winner, 0.0),
        }
        truncated = following.step_count >= self.fixed_horizon
        timestep = self.transition(points, self._observation(following), truncated=truncated, metrics=metrics)
        last_said = tokens[:, -1] if self.turns else jnp.full(2, -1, jnp.int8)
        return following, self._with_extras(timestep, state.hands, last_said, claims, splits)

    def _winner(self, hands: jax.Array) -> jax.Array:
        return rules.wins(hands, hands[::-1])

    def _speaks(self, state: State) -> jax.Array:
        """[2] bool: whose turn it is; nobody's in the split phase."""
        turn = (state.round + state.phase) % 2
        return (jnp.arange(2) == turn) & (state.phase < 2 * self.turns)

    def _said(self, state: State, actions: jax.Array) -> jax.Array:
        """[2, Q] int8 tokens after this step's message."""
        token = jnp.where(actions < self.vocabulary, actions, 0).astype(jnp.int8)
        here = np.arange(self.turns) == (state.phase // 2)
        return jnp.where(self._speaks(state)[:, None] & here, token[:, None], state.tokens)

    # --- views -----------------------------------------------------------------------------------

    def _observation(self, state: State) -> Observation:
        def one_hot(values: jax.Array, size: int) -> jax.Array:
            return (values[..., None] == np.arange(size)).astype(jnp.float32).reshape(2, -1)

        speaks = self._speaks(state)
        started = state.last_hands >= 0
        last = jnp.stack([state.last_claims / np.float32(rules.COINS), rules.shares(state.last_claims) / rules.COINS])
        last = jnp.minimum(last.astype(jnp.float32), 1.0)
        won = self._winner(state.last_hands) & started
        parts = [
            one_hot(state.hands, 3),
            one_hot(jnp.broadcast_to(state.phase, (2,)), 2 * self.turns + 1),
            speaks[:, None].astype(jnp.float32),
            one_hot(state.tokens, self.vocabulary),
            one_hot(state.tokens[::-1], self.vocabulary),
            one_hot(state.last_hands, 3),
            one_hot(state.last_hands[::-1], 3),
            won[:, None].astype(jnp.float32),
            jnp.stack([last[0], last[0][::-1], last[1], last[1][::-1]], axis=1),
        ]
        if self.observe_round:
            played = state.round.astype(jnp.float32) / np.float32(self.rounds)
            parts.append(jnp.broadcast_to(jnp.minimum(played, 1.0), (2, 1)))
        mask = self._mask(speaks, state.phase == 2 * self.turns)
        return self.observe_view(jnp.concatenate(parts, axis=1), state.step_count, mask)

    def _mask(self, speaks: jax.Array, splits: jax.Array) -> jax.Array:
        """[2, V + 11] bool."""
        place = np.arange(self.num_actions)
        is_token, silence = place < self.vocabulary, place == 0
        talk = jnp.where(speaks[:, None], is_token, silence)
        return jnp.where(splits, ~is_token, talk)

    def _with_extras(
        self, timestep: TimeStep, hands: jax.Array, tokens: jax.Array, claims: jax.Array, round_over: jax.Array
    ) -> TimeStep:
        record = {"hands": hands, "tokens": tokens, "claims": claims, "round_over": round_over}
        return timestep.replace(  # pyright: ignore[reportAttributeAccessIssue]
            extras={**timestep.extras, **record}
        )

    def global_state(self, state: State) -> jax.Array:
        """[O + 3] float32: agent 0's view and agent 1's hand."""
        other = (state.hands[1] == np.arange(3)).astype(jnp.float32)
        return jnp.concatenate([self._observation(state).agents_view[0], other])

    def render(self, state: State) -> np.ndarray:
        """uint8 [120, 320, 3]: hands, this round's tokens, last round's claims."""
        return viewer.render(state)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` talks truthfully and gives all to the winning hand; `defect` talks truthfully and claims all; `equal`
        claims half; `liar` names the next hand and claims all."""
        return scripted.policies(self.turns, self.vocabulary)
