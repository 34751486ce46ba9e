"""What the study `cfcql` records and trains: equal_line from few agents to many, and particle worlds on four tiers of data.

Every run is one learner in one world: all its data sets, weights and seeds train side by side in one pack.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from marl_bench.experiments import dataset_tiers
from marl_bench.experiments.cells import SweepConfig, build_environment

WORLDS = ("omar_spread", "omar_tag", "omar_world")
TIERS = ("random", "medium-replay", "medium", "expert")
MIXTURE, SLOTS = "mixture", "slots"
"""Data in equal_line: targets at 0.2 to 1 of the best ones, drawn for each episode (most of it is far from the best); noisy best play."""

SIZES = {"smoke": (2, 3), "reduced": (2, 4, 8, 16, 24), "paper": (2, 3, 5, 6, 8, 10, 12, 15, 20, 24)}
DATA = {"smoke": (MIXTURE,), "reduced": (MIXTURE,), "paper": (MIXTURE, SLOTS)}
FIXED_SIZES = {"smoke": (), "reduced": (4,), "paper": SIZES["paper"]}
"""Where macql is also run with the data's action among the drawn ones and with illegal ones left out (R3)."""

ABLATED = 4
"""Agents in equal_line of the ablation."""

SEEDS = {"smoke": 2, "reduced": 5, "paper": 5}
UPDATES = {
    "line": {"smoke": 20, "reduced": 400, "paper": 1_540},
    "particles": {"smoke": 10, "reduced": 300, "paper": 2_001},
}
EPISODES = {
    "line": {"smoke": 20, "reduced": 300, "paper": 1_000},
    "particles": {"smoke": 20, "reduced": 2_000, "paper": 40_000},
}
WEIGHTS = {
    "cfcql": (0.0, 3.0, 30.0, 300.0),
    "macql": (1.0, 10.0, 100.0),
}
PARTICLE_WEIGHTS = {
    "omar_spread": {"smoke": (5.0,), "reduced": (5.0, 50.0), "paper": (0.5, 5.0, 50.0)},
    "omar_tag": {"smoke": (10.0,), "reduced": (10.0, 100.0), "paper": (0.5, 2.0, 10.0, 100.0)},
    "omar_world": {"smoke": (10.0,), "reduced": (10.0, 100.0), "paper": (0.5, 2.0, 10.0, 100.0)},
}
"""Conservative weights that are tried for each learner that has one, alike for all, and 0, the control, for cfcql.

At scale reduced they are larger than the released ones (0.3 to 5): in few updates smaller ones leave every policy at the bounds."""

_LINE = {
    "smoke": {"batch_size": 4},
    "reduced": {
        "batch_size": 8,
        "hidden_sizes": (64, 64),
        "recurrent_size": 0,
        "sharing": "independent",
        "learning_rate": 3e-3,
    },
    "paper": {},
}
_PARTICLES = {
    "smoke": {"batch_size": 16},
    "reduced": {"batch_size": 64, "learning_rate": 3e-3, "target_rate": 0.05},
    "paper": {},
}
"""Settings of the learners: at scale paper the released ones."""

_OF_LEARNERS: dict[str, dict[str, Any]] = {
    "cfcql_continuous": {"reward": "mean", "action_penalty": 0.01},
    "macql_continuous": {"reward": "mean", "action_penalty": 0.01},
    "omar": {"action_penalty": 0.01},
    "td3_bc": {},
    "bc": {"batch_size": 4, "recurrent_size": 0},
}
"""The learners of the particle worlds, and what each is given beside `_PARTICLES` at scale reduced (bc draws whole episodes)."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One run.

    Attributes:
      part: "line", "ablation" or "particles".
      world: registered name. players: in equal_line, 0 elsewhere.
      data: names of the data sets, in the folder of the world.
      label: of the learner in tables. learner: registered name.
      fields: name -> values.
      updates: of each cell. seeds: number of seeds, each with a data set of its own.
    """

    part: str
    world: str
    players: int
    data: tuple[str, ...]
    label: str
    learner: str
    fields: dict[str, tuple[Any, ...]]
    updates: int
    seeds: int

    @property
    def place(self) -> str:
        """Folder of the world's data."""
        return f"{self.world}_{self.players}" if self.players else self.world

    @property
    def run(self) -> str:
        """Folder of the run."""
        return f"{self.part}+{self.place}+{self.label}".replace(" ", "_")

    def config(self, folder: Path) -> SweepConfig:
        """The sweep, once the data are in `folder`/data."""
        mapping: dict[str, Any] = {
            "learner": self.learner,
            "dataset": [str(folder / "data" / self.place / name) for name in self.data],
            "seeds": list(range(self.seeds)),
            "steps": self.updates,
            **{f"learner.{name}": list(values) for name, values in self.fields.items()},
        }
        return SweepConfig.from_mapping(mapping)


def trainings(scale: str) -> list[Training]:
    """Everything that is trained at one scale, the most important first."""
    return [*_line(scale), *_ablation(scale), *_particles(scale)]


def _line(scale: str) -> list[Training]:
    def one(players: int, label: str, learner: str, fields: dict[str, tuple[Any, ...]]) -> Training:
        settings = {name: (value,) for name, value in _LINE[scale].items()}
        weights = {"conservative_weight": WEIGHTS[learner]}
        data, updates = DATA[scale], UPDATES["line"][scale]
        chosen = {**settings, **weights, **fields}
        return Training("line", "equal_line", players, data, label, learner, chosen, updates, SEEDS[scale])

    found = []
    for players in SIZES[scale]:
        found += [
            one(players, "cfcql", "cfcql", {"temperature": (0.0,)}),
            one(players, "macql", "macql", {"behaviour": (False,)}),
        ]
    mended = {"behaviour": (False,), "data_action": (True,), "macql_mask": ("-inf",)}
    return found + [one(players, "macql fixed", "macql", mended) for players in FIXED_SIZES[scale]]


def _ablation(scale: str) -> list[Training]:
    if scale == "smoke":
        return []
    fields: dict[str, tuple[Any, ...]] = {
        **{name: (value,) for name, value in _LINE[scale].items()},
        "conservative_weight": (30.0,),
        "temperature": (0.0, 1.0, 100.0),
        "lambda_sign": (1.0, -1.0),
    }
    updates = UPDATES["line"][scale]
    return [Training("ablation", "equal_line", ABLATED, (MIXTURE,), "cfcql", "cfcql", fields, updates, SEEDS[scale])]


def _particles(scale: str) -> list[Training]:
    found = []
    for world in WORLDS[:1] if scale == "smoke" else WORLDS:
        tiers = TIERS[:1] if scale == "smoke" else TIERS
        for learner, own in _OF_LEARNERS.items():
            settings = {**_PARTICLES[scale], **(own if scale == "reduced" else {})}
            if learner == "bc":
                settings.pop("target_rate", None)
            fields = {name: (value,) for name, value in settings.items()}
            if learner not in ("td3_bc", "bc"):
                control = (0.0,) if learner == "cfcql_continuous" else ()
                fields["conservative_weight"] = control + PARTICLE_WEIGHTS[world][scale]
            updates = UPDATES["particles"][scale]
            found.append(Training("particles", world, 0, tiers, learner, learner, fields, updates, SEEDS[scale]))
    return found


def collect(scale: str, folder: Path) -> None:
    """Record the data of one scale into `folder`/data; what is complete is left alone."""
    seeds = SEEDS[scale]
    for one in {training.place: training for training in trainings(scale)}.values():
        place = folder / "data" / one.place
        if one.players:
            fields = [f"players={one.players}", "timeout_is_terminal=true"]
            environment = build_environment(one.world, fields)
            episodes = EPISODES["line"][scale]
            for data in one.data:
                policy, epsilon = ("scaled_slots", 0.2) if data == MIXTURE else ("slot", 0.3)
                dataset_tiers.collect_policy(one.world, environment, policy, seeds, episodes, place / data, epsilon)
        else:
            environment = build_environment(one.world, [])
            episodes = EPISODES["particles"][scale]
            dataset_tiers.collect_tiers(one.world, environment, one.data, seeds, episodes, place)
