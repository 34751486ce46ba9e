"""Environments with planted faults: one each, and one with many at once.

`FAULTS` lists (class, check that finds its fault, part of the sentence that must name it).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from tragedy_env import State, Tragedy

import marl_bench
from marl_bench import specs
from marl_bench.environment import StepType

FAULTS: list[tuple[type, str, str]] = []


def fault(check: str, sentence: str) -> Any:
    """Class decorator: make a pytree dataclass of the class and list it."""

    def add(cls: type) -> type:
        cls = struct.dataclass(cls)
        FAULTS.append((cls, check, sentence))
        return cls

    return add


class Edited(Tragedy):
    """Tragedy whose outputs pass through `edit_reset` and `edit_step`."""

    def edit_reset(self, state, timestep):
        return state, timestep

    def edit_step(self, state, timestep, before, actions):
        return state, timestep

    def reset(self, key):
        return self.edit_reset(*super().reset(key))

    def step(self, state, actions):
        return self.edit_step(*super().step(state, actions), state, actions)


@struct.dataclass
class KeyState(State):
    key: Any = None


def with_observation(timestep, **changes):
    return timestep.replace(observation=timestep.observation._replace(**changes))


@fault("observation_fits_spec", "agents_view has shape (3, 2), the spec says (3, 1)")
class WideView(Tragedy):
    def _view(self, state):
        return self.observe_view(jnp.full((self.herders, 2), state.stock), state.day)


@fault("observation_fits_spec", "agents_view has dtype int32, the spec says float32")
class IntegerView(Tragedy):
    def _view(self, state):
        return self.observe_view(jnp.ones((self.herders, 1), jnp.int32), state.day)


@fault("observation_fits_spec", "agents_view has values in")
class NarrowBounds(Tragedy):
    @property
    def observation_spec(self):
        view = specs.BoundedArray((self.herders, 1), np.float32, "agents_view", 0.0, 0.01)
        return specs.ObservationSpec(view, super().observation_spec.action_mask, super().observation_spec.step_count)


@fault("reward_fits_spec", "reward has shape (4,)")
class LongReward(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(reward=jnp.zeros(4))


@fault("reward_fits_spec", "reward has dtype int32")
class IntegerReward(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(reward=actions.astype(jnp.int32))


@fault("discount_is_zero_or_one", "it may only be 0 (terminated) or 1")
class DiscountFactor(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(discount=timestep.discount * 0.99)


@fault("discount_is_zero_or_one", "discount has shape ()")
class ScalarDiscount(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(discount=jnp.float32(1))


@fault("observation_fits_spec", "observation.action_mask is missing")
class NoMask(Tragedy):
    def _view(self, state):
        return super()._view(state)._replace(action_mask=None)


@fault("observation_fits_spec", "action_mask has shape (3,)")
class FlatMask(Tragedy):
    def _view(self, state):
        return super()._view(state)._replace(action_mask=jnp.ones(3, bool))


@fault("mask_allows_an_action", "agent 1 has no legal action")
class NoLegalAction(Tragedy):
    def _view(self, state):
        observation = super()._view(state)
        return observation._replace(action_mask=observation.action_mask.at[1].set(False))


@fault("extras_keep_their_tree", "extras['bonus'] exists after step but not after reset")
class GrowingExtras(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(extras={**timestep.extras, "bonus": timestep.reward})


@fault("jit_changes_nothing", "under jax.jit than without")
class AsksForTracers(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(reward=timestep.reward + isinstance(actions, jax.core.Tracer))


@fault("runs_under_jit", "step: cannot be compiled by jax.jit")
class PythonBranch(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(reward=timestep.reward * (2.0 if actions.sum() > 2 else 1.0))


@fault("vmaps_over_keys", "fail under jax.vmap over keys")
class NoBatching(Edited):
    def edit_step(self, state, timestep, before, actions):
        reward = jax.pure_callback(lambda value: value, timestep.reward, timestep.reward)
        return state, timestep.replace(reward=reward)


@fault("vmaps_over_environments", "field upkeep is used as a Python value")
class PythonField(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(reward=timestep.reward - float(self.upkeep))


@fault(
    "carries_through_scan",
    "cannot be the body of jax.lax.scan, state.day is int32[] after reset and float32[] after step",
)
class ChangingDtype(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state.replace(day=state.day.astype(jnp.float32)), timestep


@fault("compiles_once", "is traced again on its second call, state.day is weakly typed after reset only")
class WeakDay(Edited):
    def edit_reset(self, state, timestep):
        return state.replace(day=0), timestep

    def edit_step(self, state, timestep, before, actions):
        return state.replace(day=jnp.int32(before.day) + jnp.int32(1)), timestep


@struct.dataclass
class TaggedState(State):
    tag: Any = struct.field(pytree_node=False, default=None)


@fault("carries_through_scan", "state has another tree structure or other static fields")
class FreshTag(Edited):
    def edit_reset(self, state, timestep):
        return TaggedState(state.stock, state.day, object()), timestep

    def edit_step(self, state, timestep, before, actions):
        return TaggedState(state.stock, state.day, object()), timestep


@fault("is_deterministic", "the same key and actions give another timestep.reward the second time")
class NumpyNoise(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(reward=timestep.reward + np.float32(np.random.rand()))  # noqa: NPY002


@fault("reset_uses_its_key", "different keys give the same episode")
class OwnKey(Tragedy):
    def reset(self, key):
        return super().reset(jax.random.key(0))


@fault("step_moves_its_key", "the state holds no key")
class KeylessNoise(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(reward=timestep.reward + jax.random.uniform(jax.random.key(1), (self.herders,)))


@fault("step_moves_its_key", "leaves state.key unchanged")
class StuckKey(Edited):
    def reset(self, key):
        key_start, key_later = jax.random.split(key)
        state, timestep = super().reset(key_start)
        return KeyState(state.stock, state.day, key_later), timestep

    def edit_step(self, state, timestep, before, actions):
        noise = jax.random.uniform(before.key, (self.herders,))
        return KeyState(state.stock, state.day, before.key), timestep.replace(reward=timestep.reward + noise)


@fault("no_key_is_used_twice", "reset: a random key is used twice")
class KeyTwice(Tragedy):
    def reset(self, key):
        state, timestep = super().reset(key)
        extras = {"metrics": {"stock": jax.random.uniform(key)}}
        return state, timestep.replace(extras=extras)


@fault("values_are_finite", "step: reward holds nan")
class NanReward(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(reward=jnp.log(actions - 2.0))


@fault("values_are_finite", "observation.agents_view holds inf")
class InfiniteView(Tragedy):
    def _view(self, state):
        return self.observe_view(jnp.full((self.herders, 1), 1 / (state.day * 0.0)), state.day)


@fault("step_types_are_right", "step_type is FIRST; only reset may return FIRST")
class FirstAgain(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(step_type=jnp.asarray(StepType.FIRST))


@fault("step_types_are_right", "reset: step_type is LAST")
class LastAtReset(Edited):
    def edit_reset(self, state, timestep):
        return state, timestep.replace(step_type=jnp.asarray(StepType.LAST))


@fault("reward_fits_spec", "it must be 0 at reset")
class RewardAtReset(Edited):
    def edit_reset(self, state, timestep):
        return state, timestep.replace(reward=jnp.ones(self.herders))


@fault("reward_fits_spec", "is not common to all agents; drop common_reward")
class NotCommon(Tragedy):
    common_reward = property(lambda self: True)


@fault("discount_is_zero_or_one", "discount is 0 for all agents but step_type is not LAST")
class DeadGame(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(discount=jnp.zeros(self.herders))


@fault("ends_as_declared", "ends an episode after 3 steps although fixed_horizon is 4")
class EndsEarly(Tragedy):
    fixed_horizon = property(lambda self: self.days + 1)


@fault("ends_as_declared", "the episode does not end at step 2")
class EndsLate(Tragedy):
    fixed_horizon = property(lambda self: self.days - 1)


@fault("ends_as_declared", "discount is 0 at the time limit (step 3)")
class TerminatesAtLimit(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(discount=jnp.where(timestep.last(), 0.0, timestep.discount))


@fault("ends_as_declared", "returns LAST although endless is True")
class NotEndless(Tragedy):
    fixed_horizon = None
    endless = True


@fault("step_count_counts", "the last observation of the episode is lost")
class SelfReset(Edited):
    def edit_step(self, state, timestep, before, actions):
        fresh = State(jnp.float32(0.5), jnp.int32(0))
        state = jax.tree.map(lambda new, old: jnp.where(timestep.last(), new, old), fresh, state)
        return state, timestep.replace(observation=self._view(state))


@fault("step_count_counts", "observation.step_count is 0 1 steps after the reset")
class NoClock(Tragedy):
    def _view(self, state):
        return super()._view(state)._replace(step_count=jnp.int32(0))


@fault("unusual_actions_do_no_harm", "actions above the range lead to NaN or infinity in reward")
class NanOutside(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(reward=jnp.arange(4.0).at[actions].get(mode="fill"))


@fault("unusual_actions_do_no_harm", "actions below the range have another effect than the nearest legal ones")
class Unclipped(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(reward=actions.astype(jnp.float32))


@fault("leaves_itself_alone", "step: changes the attribute BusyCounter.calls of the environment")
class BusyCounter(Edited):
    calls = 0

    def edit_step(self, state, timestep, before, actions):
        type(self).calls += 1
        return state, timestep


@struct.dataclass
class BusyAttribute(Edited):
    def edit_step(self, state, timestep, before, actions):
        object.__setattr__(self, "upkeep", 5.0)
        return state, timestep


@fault("calls_no_host", "step: calls back to Python")
class Callback(Edited):
    def edit_step(self, state, timestep, before, actions):
        jax.debug.callback(lambda value: None, timestep.reward)
        return state, timestep


@fault("picture_is_rgb", "render: returns ndarray float32[8, 8]")
class GreyPicture(Tragedy):
    def render(self, state):
        return np.zeros((8, 8), np.float32)


@fault("global_state_is_vector", "global_state: returns float32[2, 2]")
class SquareState(Tragedy):
    def global_state(self, state):
        return jnp.ones((2, 2))


@fault("codes_name_the_views", "the code's row of code_observations is not the agents_view")
class WrongCodes(Tragedy):
    num_codes = 2

    def code_observations(self):
        return np.array([[7.0], [8.0]], np.float32)

    def observation_code(self, state):
        return jnp.zeros(self.herders, jnp.uint8)


@fault("codes_give_the_outcome", "code_outcome: its action is not the one of the step")
class WrongOutcome(WrongCodes):
    def code_outcome(self, code, agent):
        return jnp.full(code.shape, -1), jnp.zeros(code.shape, jnp.float32)


@fault("learner_inputs_are_zero", "the last 1 entries of agents_view belong to the learner")
class FilledInputs(Tragedy):
    learner_inputs = ("temperature",)


@fault("metrics_are_documented_scalars", "metric 'stock' has shape (3,)")
class VectorMetric(Edited):
    def edit_step(self, state, timestep, before, actions):
        return state, timestep.replace(extras={"metrics": {"stock": timestep.reward}})


@fault("metrics_are_documented_scalars", "metric 'stock' is not documented")
class UndocumentedMetric(Tragedy):
    metric_units = property(lambda self: {})


@fault("fields_are_leaves_or_static", "field table: is static but holds ndarray, which cannot be hashed")
class StaticArray(Tragedy):
    table: Any = struct.field(pytree_node=False, default_factory=lambda: np.zeros(3))


@fault("fields_are_leaves_or_static", "field mood: a leaf holds str")
class TextLeaf(Tragedy):
    mood: Any = "calm"


@fault("is_frozen_pytree", "cannot rebuild PickyInit from traced fields")
class PickyInit(Tragedy):
    def __post_init__(self):
        if self.upkeep < 0:
            raise ValueError("upkeep must be >= 0")


@struct.dataclass
class NoStart(Tragedy):
    def reset(self, key):
        return 1 // 0


class Loose(Tragedy):
    """A subclass that forgot the decorator: JAX does not know the class."""

    num_agents = property(lambda self: 3)


FAULTS.append((Loose, "is_frozen_pytree", "Loose: is not a pytree"))


@struct.dataclass
class ManyFaults(marl_bench.Environment):
    """Every fault of `MANY` at once; each is planted apart from the others."""

    regrowth: float = 0.4
    upkeep: float = 0.1
    table: Any = struct.field(pytree_node=False, default_factory=lambda: np.zeros(3))

    num_agents = property(lambda self: 3)
    num_actions = property(lambda self: 4)
    observation_shape = property(lambda self: (1,))
    fixed_horizon = property(lambda self: 5)
    calls = 0

    @property
    def observation_spec(self):
        spec = super().observation_spec
        view = specs.BoundedArray((3, 1), np.float32, "agents_view", 0.0, 0.5)
        return specs.ObservationSpec(view, spec.action_mask, spec.step_count)

    def _observe(self, day):
        mask = jnp.ones((3, 4), bool).at[2].set(False)
        return self.observe_view(jnp.ones((3, 2), jnp.float16), day, mask)

    def reset(self, key):
        start = jax.random.uniform(key) + jax.random.normal(key)
        state = {"stock": start, "day": jnp.int32(0), "season": 0, "key": jax.random.key(3)}
        return state, self.restart(self._observe(state["day"])).replace(reward=jnp.ones(3))

    def step(self, state, actions):
        type(self).calls += 1
        jax.debug.callback(lambda value: None, actions)
        noise = jax.random.uniform(state["key"], (3,)) + np.float32(np.random.rand())  # noqa: NPY002
        reward = jnp.arange(4.0).at[actions].get(mode="fill") - float(self.upkeep) + noise
        reward = reward + isinstance(actions, jax.core.Tracer)
        reward = jnp.where(state["day"] > 2, jnp.inf, jnp.concatenate([reward, reward]))
        state = {
            "stock": state["stock"].astype(jnp.float16),
            "day": state["day"] + jnp.int32(1),
            "season": jnp.int32(1) + state["season"],
            "key": state["key"],
        }
        timestep = self.transition(reward, self._observe(state["day"]), metrics={"grass": jnp.ones(2)})
        return state, timestep.replace(discount=jnp.full(3, 0.9), step_type=jnp.asarray(StepType.FIRST))

    def render(self, state):
        return np.zeros((4, 4), np.float32)


MANY: tuple[str, ...] = (
    "field table: is static but holds ndarray",
    "agents_view has shape (3, 2), the spec says (3, 1)",
    "agents_view has dtype float16, the spec says float32",
    "agents_view has values in [1, 1], outside the declared bounds",
    "agent 2 has no legal action",
    "step: reward has shape (6,)",
    "it must be 0 at reset",
    "it may only be 0 (terminated) or 1",
    "step: reward holds inf",
    "step_type is FIRST; only reset may return FIRST",
    "extras['metrics']['grass'] exists after step but not after reset",
    "metric 'grass' has shape (2,)",
    "metric 'grass' is not documented",
    "step: returns another timestep.reward under jax.jit than without",
    "cannot be the body of jax.lax.scan, state['stock'] is float32[] after reset and float16[] after step",
    "is traced again on its second call, state['season'] is weakly typed after reset only",
    "step: calls back to Python",
    "field upkeep is used as a Python value",
    "step: changes the attribute ManyFaults.calls",
    "step: the same key and actions give another timestep.reward",
    "leaves state['key'] unchanged",
    "reset: a random key is used twice",
    "the episode does not end at step 5",
    "actions above the range lead to NaN or infinity in reward",
    "render: returns ndarray float32[4, 4]",
)

# Faults that another fault of `ManyFaults` would hide, or that exclude one of them.
MASKED_IN_MANY = (
    "PythonBranch",
    "NoBatching",
    "FreshTag",
    "KeylessNoise",
    "OwnKey",
    "EndsEarly",
    "TerminatesAtLimit",
    "NotEndless",
    "SelfReset",
    "DeadGame",
    "LastAtReset",
    "NoMask",
    "WrongOutcome",
    "PickyInit",
    "Loose",
)
