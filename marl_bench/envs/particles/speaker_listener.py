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

from marl_bench.environment import ScriptedPolicy, check_integer, check_range, field
from marl_bench.envs import raster
from marl_bench.envs.particles import actions as acting
from marl_bench.envs.particles import rules as physics
from marl_bench.envs.particles import scripted, viewer
from marl_bench.envs.particles.particle_world import ParticleWorld, State

_BRIGHT, _DARK = np.float32(0.65), np.float32(0.15)


@struct.dataclass
class SpeakerListener(ParticleWorld):
    """Cooperative communication; everything else stands in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    DIALECTS = ("mpe2", "jaxmarl")

    landmarks: int = field(3, static=True, doc="number of landmarks, colours and words L; >= 1")
    accel: float = field(5.0, doc="force of a full action; >= 0", unit="force")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "landmarks", 1, 127)
        check_range(self, "accel", 0.0)

    @property
    def num_agents(self) -> int:
        """Speaker and listener."""
        return 2

    @property
    def num_landmarks(self) -> int:
        """Number of landmarks L."""
        return self.landmarks

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

    def forces(self, state: State, push: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(x, y) [2, ...]: nothing collides."""
        del state
        return self.accel * push[0], self.accel * push[1]

    def views(self, state: State) -> jax.Array:
        """[2, O, ...] float32."""
        assert state.goal is not None and state.message is not None
        colours = physics.trailing(np.arange(self.landmarks)[None], state.goal)
        speaker = jnp.where(state.goal[:, None] == colours, _BRIGHT, _DARK)
        listener = state.position[1:]
        landmarks = physics.seen_from((listener[:, 0], listener[:, 1]), (state.landmark[:, 0], state.landmark[:, 1]))
        heard = jnp.concatenate([state.velocity[1:], landmarks, state.message], axis=1)
        return jnp.concatenate([physics.pad(speaker, heard.shape[1]), heard])

    def rewards(self, state: State) -> jax.Array:
        """[2, ...] float32."""
        squared = self._squared(state)
        return -jnp.broadcast_to(squared, (2, *squared.shape))

    def metrics(self, state: State) -> dict[str, jax.Array]:
        """Metrics of a state."""
        return {"distance": physics.root(self._squared(state))}

    def _squared(self, state: State) -> jax.Array:
        """[...] squared distance between listener and goal."""
        assert state.goal is not None
        x, y = goal_place(state.landmark, state.goal)
        dx, dy = state.position[1, 0] - x[0], state.position[1, 1] - y[0]
        return dx * dx + dy * dy

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`tell`: the speaker says the goal, the listener goes there."""
        return {"tell": functools.partial(scripted.tell, self)}

    def body_look(self) -> list[viewer.Disc]:
        """Red speaker, blue listener, of the packages' size."""
        return [viewer.Disc(0.075, viewer.PREDATOR), viewer.Disc(0.075, viewer.GOOD)]

    def landmark_look(self, state: State) -> list[viewer.Disc]:
        """Coloured landmarks, of the packages' size, with a ring around the goal."""
        assert state.goal is not None
        goals = np.asarray(state.goal)
        return [viewer.Disc(0.04, raster.agent_colour(i), marked=bool(i == goals[0])) for i in range(self.landmarks)]


def goal_place(landmark: jax.Array, goal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x, y) [G, ...] positions of the goals: a sum over landmarks [L, 2, ...] of which one counts, instead of a gather.

    Args:
      landmark: [L, 2, ...] float32. goal: [G, ...] integers.
    """
    indices = physics.trailing(np.arange(landmark.shape[0])[None], goal)
    chosen = goal[:, None] == indices
    x, y = (jnp.sum(jnp.where(chosen, landmark[None, :, axis], 0), axis=1) for axis in (0, 1))
    return x, y
