"""The gallery of the documentation: one small GIF for each built-in world, and the page that shows them.

python -m marl_bench.experiments.gallery docs            # all of them
python -m marl_bench.experiments.gallery docs coin_game  # one, the page as a whole
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from marl_bench import registry
from marl_bench.experiments import render

MAX_BYTES = 300_000
"""Largest GIF; one that is larger is drawn with fewer steps."""


class Scene(NamedTuple):
    """How a world is shown.

    Attributes:
      fields: `env.FIELD=VALUE` settings.
      policy: None for "scripted" where there is such a policy, else "random".
      steps: most steps.
      seed: decides start and actions.
    """

    fields: tuple[str, ...] = ()
    policy: str | None = None
    steps: int = 50
    seed: int = 0


SCENES = {
    "matrix_game": Scene(steps=20),
    "network_dilemma": Scene(steps=30),
    "public_goods": Scene(steps=20),
}
"""Worlds that are not shown with the defaults of `Scene`."""


def command(name: str) -> list[str]:
    """Tokens of `marl-bench render` for a world's picture."""
    scene = SCENES.get(name, Scene())
    policy = scene.policy
    if policy is None:
        policy = "scripted" if registry.make(name).scripted_policies() else "random"
    return [f"env={name}", *(f"env.{field}" for field in scene.fields), f"policy={policy}"]


def draw(name: str, folder: Path) -> Path:
    """Draw one world into `folder`, in at most `MAX_BYTES`; returns the file."""
    scene, out = SCENES.get(name, Scene()), folder / f"{name}.gif"
    steps = scene.steps
    while True:
        render.main(command(name), out, steps, scene.seed)
        if out.stat().st_size <= MAX_BYTES or steps <= 1:
            return out
        steps //= 2


def page(names: Sequence[str]) -> str:
    """Markdown of the gallery."""
    lines = [
        "# Gallery",
        "",
        "One episode of each world, drawn by `marl-bench render` without a display or an asset file.",
        "The pictures and this page are written by `python -m marl_bench.experiments.gallery docs`.",
    ]
    for name in names:
        scene = SCENES.get(name, Scene())
        words = (
            f"marl-bench render {' '.join(command(name))} --steps {scene.steps} --seed {scene.seed} --out {name}.gif"
        )
        lines += ["", f"## {name}", "", f"[![{name}](gallery/{name}.gif)](environments/{name}.md)", "", f"    {words}"]
    return "\n".join(lines) + "\n"


def worlds() -> list[str]:
    """Names of the built-in environments, sorted."""
    return sorted(registry._BUILT_IN["environment"])


def main(arguments: Sequence[str]) -> None:
    """Draw the named worlds (all, if none is named) below `arguments[0]`, and write the page."""
    docs, names = Path(arguments[0]), list(arguments[1:]) or worlds()
    (docs / "gallery").mkdir(parents=True, exist_ok=True)
    for name in names:
        out = draw(name, docs / "gallery")
        print(f"{out}: {out.stat().st_size / 1000:.0f} kB", flush=True)
    (docs / "gallery.md").write_text(page(worlds()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
