"""The conformance kit: does an environment keep the contract of `marl_bench.environment`?

`check_environment` plays an environment in every way the suite will: plain, compiled, batched over
keys and over stacked environments, scanned, auto-reset. It reports what goes wrong as plain
sentences, each naming the method at fault and the remedy. It cannot prove the rules of a game right.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from marl_bench.checks import episodes, outputs, randomness, structure, transforms
from marl_bench.checks.probe import Probe, UnplayableError
from marl_bench.checks.trees import describe
from marl_bench.wrappers import AutoReset

Check = Callable[[Probe], Iterator[str]]

STATIC_CHECKS: tuple[Check, ...] = (structure.is_frozen_pytree, structure.fields_are_leaves_or_static)
PLAYED_CHECKS: tuple[Check, ...] = (
    transforms.runs_under_jit,
    outputs.observation_fits_spec,
    outputs.mask_allows_an_action,
    outputs.reward_fits_spec,
    outputs.discount_is_zero_or_one,
    outputs.values_are_finite,
    outputs.step_types_are_right,
    outputs.step_count_counts,
    outputs.extras_keep_their_tree,
    outputs.metrics_are_documented_scalars,
    outputs.learner_inputs_are_zero,
    transforms.jit_changes_nothing,
    transforms.carries_through_scan,
    transforms.compiles_once,
    transforms.calls_no_host,
    transforms.vmaps_over_keys,
    transforms.vmaps_over_environments,
    structure.leaves_itself_alone,
    randomness.is_deterministic,
    randomness.reset_uses_its_key,
    randomness.step_moves_its_key,
    randomness.no_key_is_used_twice,
    episodes.ends_as_declared,
    episodes.auto_reset_keeps_the_last_observation,
    episodes.unusual_actions_do_no_harm,
    structure.picture_is_rgb,
    structure.global_state_is_vector,
    structure.codes_name_the_views,
    structure.codes_give_the_outcome,
)


def check_environment(env: Any, *, num_steps: int = 100, seed: int = 0) -> list[str]:
    """Find out what an environment does wrong.

    Every check runs, also after others have failed, as long as `reset` and `step` run at all; a faulty environment
    never makes this function raise. `env` itself is not changed. A declared horizon is played to its end if it is at
    most 2,000 steps.

    Args:
      env: the environment: an object, not its class, and not inside `AutoReset`.
      num_steps: random steps to play and look at; episodes that end are started again.
      seed: seed of keys and actions.
    Returns:
      Plain sentences, `method: what is wrong; what to do`; empty if the environment conforms.
    Raises:
      TypeError: when `env` is a class instead of an object, or an `AutoReset`.
      ValueError: when `num_steps` is below 1 or `seed` is negative.
    """
    if isinstance(env, type):
        raise TypeError(f"env={env.__name__}: pass an object, {env.__name__}(...), not the class")
    if isinstance(env, AutoReset):
        raise TypeError("env=AutoReset(...): pass the environment inside it; episodes are checked before they restart")
    if num_steps < 1 or seed < 0:
        raise ValueError(f"num_steps={num_steps}, seed={seed}: num_steps must be >= 1 and seed >= 0")
    name, prepare = type(env).__name__, getattr(env, "prepare", None)
    try:
        env = prepare(seed) if prepare else env
    except Exception as error:
        return [f"prepare: fails with {describe(error)}; return the environment, ready for reset"]
    try:
        probe = Probe(env, num_steps, seed)
    except Exception as error:
        return [f"{name}: JAX cannot take it apart ({describe(error)}); decorate the class with flax.struct.dataclass"]
    sentences: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for check in STATIC_CHECKS:
            sentences.extend(_collect(check, probe))
        try:
            _ = probe.walk
        except UnplayableError as error:
            return [*sentences, str(error)]
        for check in PLAYED_CHECKS:
            sentences.extend(_collect(check, probe))
    return list(dict.fromkeys(sentences))


def _collect(check: Check, probe: Probe) -> list[str]:
    """Sentences of one check; what stops it becomes a sentence as well."""
    sentences: list[str] = []
    try:
        for sentence in check(probe):
            sentences.append(sentence)
    except Exception as error:
        sentences.append(f"the check {check.__name__} stopped with {describe(error)}; see its docstring for the rule")
    return sentences
