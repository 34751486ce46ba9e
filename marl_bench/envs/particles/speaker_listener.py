"""One agent knows where to go and speaks, the other one listens and walks: `speaker_listener`.

Sources: mpe2 1.1.1 `simple_speaker_listener_v4`, JaxMARL 0.2.0 `MPE_simple_speaker_listener_v4` (spec env_mpe.md section 3).

Agent 0 is the speaker, which cannot move; agent 1 the listener, which is silent.

| | content |
|---|---|
| actions | speaker: one of L words, or a message [L] in [0, 1]; listener: five moves, or a direction. Vectors are [2, 2 + L]: the speaker's first two entries and the listener's last L are not read |
| agents_view | [2, 2 + 3 L] float32: speaker: colour of the goal (L entries: 0.65 at the goal's, else 0.15), zeros; listener: own velocity, landmarks relative, the speaker's last message |
| reward | both: minus the squared distance between listener and goal |
| ends | truncated after `horizon` steps |
| metrics | `distance` |
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, field
from marl_bench.envs.particles import actions as acting
from marl_bench.envs.particles import rules as physics
from marl_bench.envs.particles import scripted, viewer
from marl_bench.envs.particles.goals import TalkWorld
from marl_bench.envs.particles.particle_world import State


@struct.dataclass
class SpeakerListener(TalkWorld):
    """Cooperative communication; everything else stands in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    SHADES = (np.float32(0.65), np.float32(0.15))
    LANDMARK_SIZE = 0.04

    landmarks: int = field(3, static=True, doc="number of landmarks, colours and words L; >= 1")

    @property
    def common_reward(self) -> bool:
        """True."""
        return True

    @property
    def agent_types(self) -> tuple[int, ...]:
        """The speaker and the listener."""
        return (0, 1)

    @property
    def num_goals(self) -> int:
        """One."""
        return 1

    @property
    def num_speakers(self) -> int:
        """One."""
        return 1

    @property
    def dim_message(self) -> int:
        """Number of words, one a landmark."""
        return self.landmarks

    @property
    def num_values(self) -> np.ndarray:
        """[2] number of integer actions: words, moves."""
        return np.array([self.landmarks, acting.NUM_MOVES], np.int32)

    @property
    def obs_valid_len(self) -> np.ndarray:
        """[2] int32: colour; velocity, landmarks and message."""
        return np.array([self.landmarks, 2 + 3 * self.landmarks], np.int32)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {"distance": "length, between listener and goal"}

    def decode(self, actions: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array | None]:
        """Directions (x, y) [2, ...], of which the speaker's is zero, and the message [1, L, ...]."""
        if self.actions == "continuous":
            x, y, said = acting.decode_vector(actions)
            x, y, message = x[1:], y[1:], said[:1]
        else:
            chosen = acting.clip_integers(actions, self.num_values)
            x, y = acting.decode_move(chosen[1:], self.rules)
            message = acting.decode_word(chosen[:1], self.landmarks)
        still = jnp.zeros_like(x)
        return (jnp.concatenate([still, x]), jnp.concatenate([still, y])), message

    def views(self, state: State) -> jax.Array:
        """[2, O, ...] float32."""
        assert state.goal is not None and state.message is not None
        speaker = self.colours(state.goal)
        listener = state.position[1:]
        landmarks = physics.seen_from((listener[:, 0], listener[:, 1]), (state.landmark[:, 0], state.landmark[:, 1]))
        heard = jnp.concatenate([state.velocity[1:], landmarks, state.message], axis=1)
        return jnp.concatenate([physics.pad(speaker, heard.shape[1]), heard])

    def rewards(self, state: State) -> jax.Array:
        """[2, ...] float32."""
        squared = self.squared_distances(state)[1]
        return -jnp.broadcast_to(squared, (2, *squared.shape))

    def metrics(self, state: State) -> dict[str, jax.Array]:
        """Metrics of a state."""
        return {"distance": self.distances(state)[1]}

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`tell`: the speaker says the goal, the listener goes there."""
        return {"tell": functools.partial(scripted.tell, self)}

    def body_look(self) -> list[viewer.Disc]:
        """Red speaker, blue listener, of the packages' size."""
        return [viewer.Disc(0.075, viewer.PREDATOR), viewer.Disc(0.075, viewer.GOOD)]
