"""`marl-bench render`: one episode of an environment as a moving picture (GIF) or a single frame (PNG), without a display.

The policy is uniform play, one of the environment's scripted policies, or what a run has trained.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from marl_bench.environment import Environment
from marl_bench.errors import RunError, UsageError
from marl_bench.naming import nearest
from marl_bench.scripted import scripted_policy

SUFFIXES = (".gif", ".png")

FRAMES_PER_SECOND = 8
MAX_FRAMES_PER_SECOND = 100
"""A GIF counts time in hundredths of a second."""
HOLD = 8
"""Frames for which the last picture of an episode stays."""
MAX_COLOURS = 64


def main(tokens: Sequence[str], out: Path, steps: int | None = None, seed: int = 0, frames_per_second: int = 8) -> int:
    """Draw one episode and write it to `out`.

    Args:
      tokens: `env=NAME`, any number of `env.FIELD=VALUE`, `policy=random|scripted|NAME|RUN_DIR`.
      out: a `.gif` (the whole episode) or `.png` (its last frame).
      steps: most steps to draw; None for 100, or for 0 in a `.png` (the start of the episode).
      seed: decides start and actions.
      frames_per_second: speed of the GIF.
    Returns:
      0.
    Raises:
      UsageError: for an unknown environment, field, policy or suffix, a setting given twice or out of range, an environment
        without pictures, or a run that was trained on another environment.
      RunError: where `out` cannot be written (found out before anything is played), or a run directory cannot be read.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out}: must end in {' or '.join(SUFFIXES)}")
    if not 1 <= frames_per_second <= MAX_FRAMES_PER_SECOND:
        raise UsageError(f"--fps {frames_per_second}: must be between 1 and {MAX_FRAMES_PER_SECOND} frames a second")
    if steps is not None and steps < 0:
        raise UsageError(f"--steps {steps}: must be at least 0, which draws the start of the episode only")
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed {seed}: must be between 0 and {2**32 - 1}")
    environment, policy = read_request(tokens)
    check_writable(out)
    still = out.suffix.lower() == ".png"
    steps = (0 if still else 100) if steps is None else steps
    try:
        frames = play(environment, policy, steps, seed, last_only=still)
    except NotImplementedError as error:
        raise UsageError(f"env={_named(tokens)['env']}: {error}") from error
    write(frames, out, frames_per_second)
    return 0


def read_request(tokens: Sequence[str]) -> tuple[Environment, Any]:
    """The environment and the policy `(state, memory, observation, key) -> (actions, memory)` that tokens name."""
    from marl_bench.experiments.cells import build_environment

    named = _named(tokens)
    environment = build_environment(named["env"], [token for token in tokens if token.startswith("env.")])
    return environment, _policy(environment, named)


def _named(tokens: Sequence[str]) -> dict[str, str]:
    """{"env": ..., "policy": ...} of the tokens."""
    named: dict[str, str] = {"policy": "random"}
    given: set[str] = set()
    for token in tokens:
        name, equals, value = token.partition("=")
        if name.startswith("env.") and equals:
            continue
        if name not in ("env", "policy") or not equals or not value:
            raise UsageError(f"{token}: expected env=NAME, env.FIELD=VALUE or policy=random|scripted|NAME|RUN_DIR")
        if name in given:
            raise UsageError(f"{token}: {name} is given already, as {name}={named[name]}; give it once")
        named[name] = value
        given.add(name)
    if "env" not in named:
        raise UsageError("env: missing; name one environment with env=NAME ('marl-bench list envs' shows them)")
    return named


@dataclasses.dataclass(frozen=True)
class _Player:
    """A policy with memory: `start()` -> memory, `act(state, memory, observation, key)` -> (actions, memory)."""

    start: Any
    act: Any


def _policy(environment: Environment, named: dict[str, str]) -> _Player:
    name = named["policy"]
    known = ["random", *(["scripted"] if environment.scripted_policies() else []), *environment.scripted_policies()]
    if name in known:
        script = scripted_policy(environment, name)
        return _Player(lambda: (), lambda state, memory, observation, key: (script(state, observation, key), memory))
    if not Path(name).exists():
        raise UsageError(
            f"policy={name}: no policy of {named['env']}{nearest(name, known)} (known: {', '.join(known)}), and no "
            "run directory"
        )
    from marl_bench.experiments.policy import load_policy

    try:
        trained = load_policy(name)
    except RunError as error:
        raise RunError(f"policy={error} (policies of {named['env']}: {', '.join(known)})") from error
    # A run may have other numbers in its environment, but not another game, other actions or other views.
    same = (
        type(trained.environment) is type(environment)
        and trained.environment.observation_shape == environment.observation_shape
        and trained.environment.num_actions == environment.num_actions
    )
    if not same:
        raise UsageError(
            f"policy={name}: trained on {_describe(trained.environment)}, but env is {_describe(environment)}; give the "
            "run's own environment and fields"
        )
    return _Player(
        trained.initial_memory, lambda state, memory, observation, key: trained(observation, memory, key, greedy=True)
    )


def _describe(environment: Environment) -> str:
    return (
        f"{type(environment).__name__} (views {environment.observation_shape}, {environment.num_actions} actions, "
        f"{environment.num_agents} agents)"
    )


def play(environment: Environment, player: _Player, steps: int, seed: int, last_only: bool = False) -> list[np.ndarray]:
    """Pictures of one episode: of its start and after each step, until it ends or `steps` are made.

    Args:
      environment: what to draw.
      player: who acts, see `read_request`.
      steps: most steps.
      seed: decides start and actions.
      last_only: draw the last picture only.
    Returns:
      frames: uint8 [H, W, 3] each.
    """
    key_start, key_play = jax.random.split(jax.random.key(seed))
    state, timestep = jax.jit(environment.reset)(key_start)
    memory = player.start()

    @jax.jit
    def advance(state: Any, memory: Any, observation: Any, key: jax.Array) -> Any:
        actions, memory = player.act(state, memory, observation, key)
        return *environment.step(state, actions), memory

    frames = [] if last_only else [environment.render(state)]
    for step in range(steps):
        state, timestep, memory = advance(state, memory, timestep.observation, jax.random.fold_in(key_play, step))
        if not last_only:
            frames.append(environment.render(state))
        if bool(timestep.last()):
            break
    return frames or [environment.render(state)]


def check_writable(out: Path) -> None:
    """Make the folder of `out` where it is missing, and try whether files can be written there.

    Raises:
      RunError: where not, or where `out` is itself a folder.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            with out.open("r+b"):
                pass
        else:
            with tempfile.TemporaryFile(dir=out.parent):
                pass
    except OSError as error:
        raise RunError(f"--out {out}: cannot be written ({error.strerror or error})") from error


def write(frames: Sequence[np.ndarray], out: Path, frames_per_second: int = FRAMES_PER_SECOND) -> None:
    """Write frames as a GIF that repeats, or their last one as a PNG.

    Raises:
      RunError: where `out` cannot be written.
    """
    from PIL import Image

    try:
        if out.suffix.lower() == ".png":
            Image.fromarray(frames[-1]).save(out)
            return
        # One palette for all frames, from the start and the end: a palette a frame would flicker and cost space.
        sample = np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]])
        palette = Image.fromarray(sample).quantize(MAX_COLOURS, method=Image.Quantize.MEDIANCUT)
        pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        durations = [1000 // frames_per_second] * len(pictures)
        durations[-1] *= HOLD
        pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=False)
    except OSError as error:
        raise RunError(f"--out {out}: cannot be written ({error.strerror or error})") from error
