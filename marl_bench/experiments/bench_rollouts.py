"""Roll-outs that `marl-bench bench envs` times: of our environments, of Jumanji's and of JaxMARL's, all in one form.

A `Rollout` holds pure functions; `compile_rollout` turns it into one program that scans `step` over actions drawn before
the clock starts. The carry holds state, last observation and running sums of rewards and ends, and the program returns it:
so nothing that an environment computes for a learner is dead code, for either side. Every side restarts its own episodes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout

from marl_bench.adapters.extras import import_extra
from marl_bench.environment import Environment, TimeStep
from marl_bench.scripted import random_policy
from marl_bench.vector import VectorEnvironment


@dataclasses.dataclass(frozen=True)
class Rollout:
    """A batch of environments that restart themselves, as pure functions.

    Attributes:
      start: `start(key) -> carry`, any pytree.
      step: `step(carry, actions) -> carry`, one step of the whole batch.
      draw: `draw(key, steps) -> actions`, a pytree with leaves [steps, ...], one slice a step.
      renew: `renew(carry) -> carry`, run and timed at the end of every roll-out (new start states for a pool, say).
      batch: environments stepped by one call of `step`.
    """

    start: Callable[[jax.Array], Any]
    step: Callable[[Any, Any], Any]
    draw: Callable[[jax.Array, int], Any]
    batch: int
    renew: Callable[[Any], Any] = lambda carry: carry


@dataclasses.dataclass
class Program:
    """A compiled roll-out and where it stands.

    Attributes:
      call: the compiled program, (carry, actions) -> carry; it consumes the carry.
      carry: after the steps made so far.
      actions: drawn beforehand, the same ones in every call.
      steps: environment steps of one call, batch times length.
      compile_seconds: CPU seconds of tracing, lowering and compiling the roll-out.
      start_seconds: the same of the program that makes the first states.
      bytes_per_step: least traffic of an environment step: state read and written, observation and sums written, actions
        read.
    """

    call: Callable[[Any, Any], Any]
    carry: Any
    actions: Any
    steps: int
    compile_seconds: float
    start_seconds: float
    bytes_per_step: float

    def run(self) -> None:
        """Advance by `steps` environment steps, and wait until they are done."""
        self.carry = jax.block_until_ready(self.call(self.carry, self.actions))


def compile_rollout(rollout: Rollout, length: int, key: jax.Array) -> Program:
    """Compile `length` steps of a roll-out ahead of time, and make its start and its actions.

    Args:
      rollout: what to run.
      length: steps of the batch in one call.
      key: [] typed key for start states and actions.
    """
    key_start, key_actions = jax.random.split(key)
    start, start_seconds = compiled(rollout.start, key_start)
    carry = start(key_start)
    actions = jax.jit(rollout.draw, static_argnums=1)(key_actions, length)

    def run(carry: Any, actions: Any) -> Any:
        carry, _ = jax.lax.scan(lambda carry, action: (rollout.step(carry, action), None), carry, actions)
        return rollout.renew(carry)

    # In training a roll-out is the middle of a larger program. Left to itself, the compiler lays its arrays out as the steps
    # want them; forced into the order of their axes at both ends, it compiles large transposing copies for nothing.
    free_carry, free_actions = _free_layouts(carry), _free_layouts(actions)
    options = {"in_shardings": (free_carry, free_actions), "out_shardings": free_carry}
    call, compile_seconds = compiled(run, carry, actions, donate_argnums=0, **options)
    carry, actions = jax.tree.map(_laid_out, (carry, actions), call.input_formats[0])
    traffic = 2 * size_in_bytes(carry) + size_in_bytes(actions) / length
    return Program(
        call, carry, actions, rollout.batch * length, compile_seconds, start_seconds, traffic / rollout.batch
    )


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _free_layouts(tree: Any) -> Any:
    """The compiler's choice of layout for every array; None, the default, for keys, of which it cannot choose any."""
    return jax.tree.map(lambda leaf: None if _is_key(leaf) else Format(Layout.AUTO), tree)


def _laid_out(leaf: jax.Array, chosen: Format) -> jax.Array:
    return leaf if _is_key(leaf) else jax.device_put(leaf, chosen)


def compiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    """(`function` compiled for these arguments, CPU seconds of tracing, lowering and compiling)."""
    before = time.process_time()
    program = jax.jit(function, **options).lower(*arguments).compile()
    return program, time.process_time() - before


def size_in_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree (PRNG keys by their key data)."""
    leaves = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


# --- ours --------------------------------------------------------------------------------------------------


def our_rollout(env: Environment, batch: int, length: int, strategy: str = "auto") -> Rollout:
    """Roll-out of one of our environments in a `VectorEnvironment` under uniformly random play.

    Starts taken from a pool are drawn anew after every roll-out, inside the timed program: one for 64 environment steps.

    Args:
      env: the environment.
      batch: copies of it.
      length: steps of one roll-out; decides the size of the pool.
      strategy: see `VectorEnvironment`.
    """
    vector = VectorEnvironment(env, batch, strategy, max(1024, batch * length // 64))

    def start(key: jax.Array) -> Any:
        state, timestep = vector.reset(key)
        return state, timestep.observation, _sums(timestep)

    def step(carry: Any, actions: jax.Array) -> Any:
        state, _, sums = carry
        state, timestep = vector.step(state, actions)
        return state, timestep.observation, jax.tree.map(jnp.add, sums, _sums(timestep))

    def draw(key: jax.Array, steps: int) -> jax.Array:
        return uniform_actions(env, key, (steps, batch))

    def renew(carry: Any) -> Any:
        return (vector.refresh(carry[0]), *carry[1:])

    return Rollout(start, step, draw, batch, renew)


def uniform_actions(env: Environment, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Actions [*shape, N] (or [*shape, N, D]) drawn uniformly from the action space, in one draw, whatever is legal."""
    spec = env.action_spec
    if not hasattr(spec, "num_values"):
        random_policy(env)  # says so if the space is unbounded
        return jax.random.uniform(key, (*shape, *spec.shape), spec.dtype, spec.minimum, spec.maximum)
    return jax.random.randint(key, (*shape, *spec.shape), 0, np.asarray(spec.num_values), jnp.int32)


def _sums(timestep: Any) -> tuple[jax.Array, ...]:
    """Everything a learner would read besides the observation, small enough to add up: rewards, discounts, ends."""
    last = timestep.last() if isinstance(timestep, TimeStep) else timestep.step_type == 2
    return timestep.reward, timestep.discount, last.astype(jnp.int32)


# --- Jumanji -----------------------------------------------------------------------------------------------


def jumanji_rollouts(make: Callable[[], Any], batch: int) -> dict[str, Rollout]:
    """Roll-outs of a Jumanji environment with its `AutoResetWrapper`, used in the two ways that exist.

    Args:
      make: makes the environment; its actions are [N] integers below `action_spec.num_values`.
      batch: copies of it.
    Returns:
      "select": `VmapWrapper(AutoResetWrapper(env))`, the package's own, which under vmap makes a start in every step;
      "serial": a vmapped step, then one `lax.cond` after the other, as Jumanji 1.0's `VmapAutoResetWrapper` had it.
    """
    wrappers = import_extra("jumanji.wrappers", "jumanji")
    env = make()
    own = wrappers.AutoResetWrapper(env)
    whole = wrappers.VmapWrapper(own)

    def serial(state: Any, actions: jax.Array) -> Any:
        def restart(pair: Any) -> Any:
            return jax.lax.cond(pair[1].last(), own._auto_reset, lambda state, timestep: (state, timestep), *pair)

        return jax.lax.map(restart, jax.vmap(env.step)(state, actions))

    def rollout(advance: Callable[..., Any]) -> Rollout:
        def start(key: jax.Array) -> Any:
            state, timestep = whole.reset(jax.random.split(key, batch))
            return state, timestep.observation, _sums(timestep)

        def step(carry: Any, actions: jax.Array) -> Any:
            state, _, sums = carry
            state, timestep = advance(state, actions)
            return state, timestep.observation, jax.tree.map(jnp.add, sums, _sums(timestep))

        return Rollout(start, step, lambda key, steps: uniform_actions(env, key, (steps, batch)), batch)

    return {"select": rollout(whole.step), "serial": rollout(serial)}


# --- JaxMARL -----------------------------------------------------------------------------------------------


def jaxmarl_rollouts(make: Callable[[], Any], batch: int) -> dict[str, Rollout]:
    """Roll-outs of a JaxMARL environment with the restart inside its own `step`, used in the two ways it offers.

    Args:
      make: makes the environment; all its action spaces are discrete.
      batch: copies of it.
    Returns:
      "reset": `step(key, state, actions)`, which draws a start in every step; "reset_state": `step(..., reset_state)`
      with one start a copy, drawn beforehand (so every episode of a copy begins alike, which ours does not allow itself).
    """
    env = make()
    agents = list(env.agents)
    sizes = np.array([env.action_space(agent).n for agent in agents])

    def start(key: jax.Array) -> Any:
        observation, state = jax.vmap(env.reset)(jax.random.split(key, batch))
        sums = {agent: jnp.zeros(batch) for agent in agents}, jnp.zeros(batch, jnp.int32)
        return state, observation, sums, state

    def draw(key: jax.Array, steps: int) -> Any:
        key_actions, key_steps = jax.random.split(key)
        actions = jax.random.randint(key_actions, (steps, len(agents), batch), 0, sizes[:, None], jnp.int32)
        return actions, jax.random.split(key_steps, steps)

    def rollout(prepared: bool) -> Rollout:
        def step(carry: Any, inputs: Any) -> Any:
            state, _, (rewards, ends), first = carry
            joint, key = inputs
            actions = dict(zip(agents, joint, strict=True))
            extra = (first,) if prepared else ()
            observation, state, reward, done, _ = jax.vmap(env.step)(
                jax.random.split(key, batch), state, actions, *extra
            )
            rewards = {agent: rewards[agent] + reward[agent] for agent in agents}
            return state, observation, (rewards, ends + done["__all__"]), first

        return Rollout(start, step, draw, batch)

    return {"reset": rollout(False), "reset_state": rollout(True)}
