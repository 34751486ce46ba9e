"""Scripted policies of the particle worlds: cover, chase and flee, tell and go, hide the goal.

All steer by velocity: from where a body should be in a moment follows the velocity it should have, and from that the
action that comes nearest to it, among the five moves or exactly. They read positions from the state; what an agent must be
told they take from its observation.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.particles import actions as acting
from marl_bench.envs.particles import prey as preys

Array = jax.Array

_MOST_PERMUTED = 5
"""Up to this number of agents all assignments are compared; beyond, the nearest pair is matched first."""
_ARRIVAL = 2.0
"""Steps in which a body tries to reach a target that stands still."""
_FRIGHT = 0.6
"""Distance at which a hungry prey runs from a predator."""


def steer(world: Any, velocity: Array, wanted: Array, strength: Array) -> Array:
    """Actions whose next velocity comes nearest to the wanted one.

    Args:
      world: the particle world.
      velocity: [N, 2] velocities. wanted: [N, 2] velocities to reach.
      strength: [N] force of a full action.
    Returns:
      [N] int32 moves, or [N, 2] float32 directions, by the world's kind of action.
    """
    kept, gained = velocity * (1 - world.damping), strength[:, None] * world.dt
    if world.actions == "continuous":
        return jnp.clip((wanted - kept) / jnp.maximum(gained, 1e-6), -1, 1)
    choices = jnp.asarray(acting.directions(world.rules))
    missed = wanted[:, None] - kept[:, None] - gained[:, None] * choices[None]
    return jnp.argmin(jnp.sum(missed * missed, axis=-1), axis=1).astype(jnp.int32)


def speak(world: Any, moves: Array, words: Array) -> Array:
    """Actions of agents that move and whose first S speak: moves [N] or [N, 2] and integer words [S]."""
    spoken = words.shape[0]
    if world.actions == "discrete":
        return moves.at[:spoken].add(acting.NUM_MOVES * words.astype(jnp.int32))
    message = jax.nn.one_hot(words, world.dim_message)
    silent = jnp.zeros((moves.shape[0] - spoken, world.dim_message))
    return jnp.concatenate([moves, jnp.concatenate([message, silent])], axis=1)


def assign(squared: Array) -> Array:
    """[N] int32 landmark of each agent, all different; -1 for an agent that gets none.

    Args:
      squared: [N, L] squared distances.
    """
    agents, landmarks = squared.shape
    if agents == landmarks <= _MOST_PERMUTED:
        table = np.array(list(itertools.permutations(range(agents))), np.int32)
        total = jnp.sum(jnp.sqrt(squared)[np.arange(agents), table], axis=1)
        return jnp.asarray(table)[jnp.argmin(total)]

    def match(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        left, chosen = carry
        agent, landmark = jnp.divmod(jnp.argmin(left), landmarks)
        taken = (jnp.arange(agents)[:, None] == agent) | (jnp.arange(landmarks)[None] == landmark)
        here = jnp.arange(agents) == agent
        return jnp.where(taken, jnp.inf, left), jnp.where(here, landmark, chosen).astype(jnp.int32)

    start = (squared, jnp.full(agents, -1, jnp.int32))
    return jax.lax.fori_loop(0, min(agents, landmarks), match, start)[1]


def _squared(first: Array, second: Array) -> Array:
    """[P, Q] squared distances of points [P, 2] and [Q, 2]."""
    return jnp.sum((first[:, None] - second[None]) ** 2, axis=-1)


def _approach(world: Any, position: Array, target: Array) -> Array:
    """[N, 2] velocities that lead from position to target [N, 2] in `_ARRIVAL` steps."""
    return (target - position) / (_ARRIVAL * world.dt)


def cover(world: Any, state: Any, observation: Any, key: Array) -> Array:
    """Spread: agents share out the landmarks with the least total distance and go there."""
    del observation, key
    chosen = assign(_squared(state.position, state.landmark))
    target = jnp.where(chosen[:, None] >= 0, state.landmark[chosen], state.position)
    strength = jnp.full(world.num_agents, world.accel, jnp.float32)
    return steer(world, state.velocity, _approach(world, state.position, target), strength)


def _hunt(world: Any, state: Any) -> Array:
    """[Q, 2] velocities towards the nearest prey."""
    predators, prey = state.position[: world.num_predators], state.position[world.num_predators :]
    nearest = jnp.argmin(_squared(predators, prey), axis=1)
    return (prey[nearest] - predators) / world.dt


def _flight(world: Any, state: Any) -> Array:
    """[P, 2] velocities away from the predators."""
    x, y = preys.flee(world.prey_places(state), world.predator_places(state))
    return jnp.stack([x, y], axis=1) * world.prey_max_speed


def _chase(world: Any, state: Any, flight: Array) -> Array:
    """Actions of all agents of a chase: predators hunt, prey that are agents take `flight` [P, 2]."""
    wanted = jnp.concatenate([_hunt(world, state), flight])[: world.num_agents]
    strength = world.strengths(state.position[:, 0])[: world.num_agents]
    return steer(world, state.velocity[: world.num_agents], wanted, strength)


def chase(world: Any, state: Any, observation: Any, key: Array) -> Array:
    """Tag: predators run at the nearest prey; prey flee."""
    del observation, key
    return _chase(world, state, _flight(world, state))


def forage(world: Any, state: Any, observation: Any, key: Array) -> Array:
    """World: predators run at the nearest prey; prey eat, and flee a predator that comes near. The leader says word 0."""
    del observation, key
    first = world.num_predators
    prey = state.position[first:]
    food = state.landmark[world.obstacles : world.obstacles + world.food]
    nearest = food[jnp.argmin(_squared(prey, food), axis=1)]
    afraid = jnp.min(_squared(prey, state.position[:first]), axis=1) < _FRIGHT**2
    hungry = _approach(world, prey, nearest)
    moves = _chase(world, state, jnp.where(afraid[:, None], _flight(world, state), hungry))
    return speak(world, moves, jnp.zeros(1, jnp.int32)) if world.num_speakers else moves


def tell(world: Any, state: Any, observation: Any, key: Array) -> Array:
    """Speaker and listener: say the goal's colour; go to the landmark last heard of."""
    del key
    word = jnp.argmax(observation.agents_view[0, : world.landmarks]).astype(jnp.int32)
    heard, said_anything = jnp.argmax(state.message[0]), jnp.any(state.message[0] > 0)
    listener = state.position[1:]
    target = jnp.where(said_anything, state.landmark[heard], jnp.mean(state.landmark, axis=0))
    strength = jnp.full(1, world.accel, jnp.float32)
    move = steer(world, state.velocity[1:], _approach(world, listener, target[None]), strength)
    if world.actions == "discrete":
        return jnp.concatenate([word[None], move])
    width = world.dim_message
    speaker = jnp.concatenate([jnp.zeros(2), jax.nn.one_hot(word, width)])
    return jnp.stack([speaker, jnp.concatenate([move[0], jnp.zeros(width)])])


def refer(world: Any, state: Any, observation: Any, key: Array) -> Array:
    """Reference: say the colour of the other's goal; go to the landmark last heard of. Needs a word for each landmark."""
    del key
    views, first = observation.agents_view, 2 + 2 * world.landmarks
    word = jnp.argmax(views[:, first : first + world.landmarks], axis=1) % world.words
    message = views[:, first + world.landmarks :]
    heard = jnp.minimum(jnp.argmax(message, axis=1), world.landmarks - 1)
    middle = jnp.mean(state.landmark, axis=0)
    target = jnp.where(jnp.any(message > 0, axis=1)[:, None], state.landmark[heard], middle)
    strength = jnp.full(2, world.accel, jnp.float32)
    moves = steer(world, state.velocity, _approach(world, state.position, target), strength)
    return speak(world, moves, word)


def deceive(world: Any, state: Any, observation: Any, key: Array) -> Array:
    """Adversary: good agents share out all landmarks, so none gives the goal away; adversaries stay in the middle of them."""
    del observation, key
    bad = world.adversaries
    chosen = assign(_squared(state.position[bad:], state.landmark))
    good = jnp.where(chosen[:, None] >= 0, state.landmark[chosen], state.landmark[state.goal[0]])
    middle = jnp.broadcast_to(jnp.mean(state.landmark, axis=0), (bad, 2))
    target = jnp.concatenate([middle, good])
    strength = jnp.full(world.num_agents, world.accel, jnp.float32)
    return steer(world, state.velocity, _approach(world, state.position, target), strength)
