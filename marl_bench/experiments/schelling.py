"""`marl-bench schelling`: Schelling diagrams of worlds, from their scripted cooperators and defectors.

A run plays every composition of the two policies, and writes `NAME.json` (all returns' intervals, verdict, command,
hardware, versions), `NAME.svg` and `NAME.png` into a folder, whose `README.md` is rebuilt from all JSON files there.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from marl_bench.errors import RunError, UsageError
from marl_bench.naming import nearest, safe_name

DEFAULT_EPISODES = 64
"""Episodes of each composition."""

_DIFFERENCES = ("gain", "benefit", "fear", "greed")
"""What decides the verdict, in the order in which it is shown."""


def main(
    world: str,
    out: str | Path,
    *,
    fields: Sequence[str] = (),
    cooperate: str = "cooperate",
    defect: str = "defect",
    episodes: int = DEFAULT_EPISODES,
    steps: int | None = None,
    seed: int = 0,
) -> int:
    """Diagnose one world, print the verdict, and write its files.

    Args:
      world: name of an environment or preset.
      out: folder; made if missing.
      fields: FIELD=VALUE or env.FIELD=VALUE settings of the environment.
      cooperate: name of the scripted policy that cooperates.
      defect: name of the scripted policy that defects.
      episodes: episodes of each composition, at least 2.
      steps: longest episode; None for the world's horizon.
      seed: of the episodes.
    Returns:
      0.
    Raises:
      RunError: for a folder that cannot be written.
      UsageError: for an unknown world, field or policy, too few episodes, steps or agents, or a world without a horizon
        and no `steps`.
    """
    import jax

    from marl_bench.envs.social.schelling import play_compositions
    from marl_bench.experiments.cells import build_environment
    from marl_bench.report.schelling import diagnose, schelling_diagram

    _check_numbers(episodes, steps)
    env = build_environment(world, fields)
    policy, other = _policies(env, world, {"cooperate": cooperate, "defect": defect})
    _check_playable(env, world, steps)
    folder = _writable(Path(out).expanduser())
    start = time.process_time(), time.perf_counter()
    with _mistakes_explained():
        played = play_compositions(env, policy, other, jax.random.key(seed), episodes=episodes, steps=steps)
    seconds = {"cpu_seconds": time.process_time() - start[0], "wall_seconds": time.perf_counter() - start[1]}
    diagnosis = diagnose(played.cooperators, played.defectors, played.group)
    options = {"episodes": episodes, "steps": steps, "seed": seed, "cooperate": cooperate, "defect": defect}
    record = {
        "world": world,
        "command": _command(world, fields, options),
        "policies": [cooperate, defect],
        "agents": env.num_agents,
        "episodes_per_composition": episodes,
        "mean_steps": float(played.lengths.mean()),
        **seconds,
        **_machine(),
        **_as_plain(diagnosis),
    }
    title = ", ".join([world, *_settings(fields)])
    _publish(record, schelling_diagram(diagnosis, title), folder, _file_name(world, fields))
    return 0


def _writable(folder: Path) -> Path:
    """The folder, made if missing; refused before anything is played if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise RunError(f"--out {folder}: cannot be written ({error.strerror}); choose another folder") from error


@contextlib.contextmanager
def _mistakes_explained() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def _publish(record: dict[str, Any], figure: Any, folder: Path, name: str) -> None:
    """Write figure, record and overview, and print the verdict."""
    from marl_bench.report.canvas import save_figure

    save_figure(figure, folder, name)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_overview(folder)
    print(f"{record['world']}: {record['verdict']} ({record['kind']})")
    for label in _DIFFERENCES:
        print(f"  {label:8}{_shown(record[label])}")


def _file_name(world: str, fields: Sequence[str]) -> str:
    settings = [setting.replace("=", "_") for setting in _settings(fields)]
    return safe_name("-".join([world, *settings]), "name of the files")


def _settings(fields: Sequence[str]) -> list[str]:
    """FIELD=VALUE, without the optional `env.` before it."""
    return [field.removeprefix("env.") for field in fields]


def _command(world: str, fields: Sequence[str], options: dict[str, Any]) -> str:
    """The command line that repeats a run; options at their defaults are left out."""
    defaults = {"episodes": DEFAULT_EPISODES, "steps": None, "seed": 0, "cooperate": "cooperate", "defect": "defect"}
    changed = [f"--{name} {value}" for name, value in options.items() if value != defaults[name]]
    settings = [f"env.{setting}" for setting in _settings(fields)]
    return " ".join([f"marl-bench schelling env={world}", *settings, "--out DIR", *changed])


def _policies(env: Any, world: str, wanted: dict[str, str]) -> list[Any]:
    """Policies by name; `wanted` maps the option that chooses a policy to its name."""
    from marl_bench.scripted import random_policy

    known = {**env.scripted_policies(), "random": random_policy(env)}
    for option, name in wanted.items():
        if name not in known:
            raise UsageError(
                f"--{option} {name}: {world} has no such policy; choose two with --cooperate and --defect "
                f"(known: {', '.join(known)}){nearest(name, known)}"
            )
    return [known[name] for name in wanted.values()]


def _check_numbers(episodes: int, steps: int | None) -> None:
    if episodes < 2:
        raise UsageError(f"--episodes {episodes}: must be at least 2, which an interval needs")
    if steps is not None and steps < 1:
        raise UsageError(f"--steps {steps}: must be at least 1; leave it out to play to the world's horizon")


def _check_playable(env: Any, world: str, steps: int | None) -> None:
    if env.num_agents < 2:
        raise UsageError(f"{world} has {env.num_agents} agent; a Schelling diagram needs at least 2")
    if steps is None and env.fixed_horizon is None:
        raise UsageError(f"{world} has no fixed horizon; say how long to play at most with --steps N")


def _machine() -> dict[str, Any]:
    import jax

    from marl_bench.runtime.checkpoint import versions

    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "platform": jax.devices()[0].platform,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": versions(),
    }


def _as_plain(diagnosis: Any) -> dict[str, Any]:
    """Fields of a `Diagnosis` as JSON; an interval is [estimate, low, high]."""

    def plain(value: Any) -> Any:
        if hasattr(value, "estimate"):
            return [round(float(part), 6) for part in value[:3]]
        return [plain(part) for part in value] if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in diagnosis._asdict().items()}


def _shown(interval: Sequence[float]) -> str:
    estimate, low, high = interval
    return f"{estimate:.3g} ({low:.3g} to {high:.3g})"


def write_overview(folder: Path) -> None:
    """Write `README.md` of a folder of Schelling diagrams from its JSON files."""
    records = [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]
    lines = [
        "# Schelling diagrams",
        "",
        "Is a world a social dilemma for its scripted cooperators and defectors? Written by `marl-bench schelling`. Returns are per",
        "episode; brackets hold 95 % bootstrap intervals over episodes. gain: all cooperate less all defect. benefit: what a cooperator",
        "gains if all others cooperate rather than defect. fear: what a cooperator among defectors loses by not defecting. greed:",
        "what defecting adds among cooperators. best m: cooperators with the largest return of the group. In a social dilemma gain,",
        "benefit, and fear or greed are positive. The verdict is about these two policies: others may pose a dilemma, or none.",
        "",
        "| world | agents | verdict | kind | gain | benefit | fear | greed | best m | episodes x steps | CPU s |",
        "| --- | ---: | --- | --- | --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for stem, record in records:
        cells = [
            f"[{stem}]({stem}.png)",
            str(record["agents"]),
            f"**{record['verdict']}**",
            record["kind"],
            *(_shown(record[name]) for name in _DIFFERENCES),
            str(record["tipping"]),
            f"{record['episodes_per_composition']} x {record['mean_steps']:.0f}",
            f"{record['cpu_seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for stem, record in records:
        made = f"{record['date']}, {record['platform']}, {record['processor']} with {record['cores']} cores"
        lines += [
            f"## {stem}",
            "",
            f"![Schelling diagram of {stem}]({stem}.png)",
            "",
            f"`{record['command']}` ({made}, jax {record['versions']['jax']})",
            "",
        ]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
