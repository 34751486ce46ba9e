"""Names that stand for an environment with some of its fields set. Pure data: nothing here imports an environment.

  - `PRESETS`: fixed names, such as `prisoners_dilemma`;
  - `GRAMMARS`: families of names that a parser reads, such as `Foraging-8x8-2p-2f-coop-v3`;
  - `SCHEMES`: other suites' environments by their own names, such as `jumanji:LevelBasedForaging-v0`.

All of them work wherever an environment's name does; fields given beside the name win over those that it sets.
"""

from __future__ import annotations

from typing import Any

_TABLES = (
    "prisoners_dilemma", "prisoners_dilemma_negative", "donation", "stag_hunt", "stag_hunt_risky", "chicken", "harmony",
    "deadlock", "coordination", "rationalizable_coordination", "battle_of_the_sexes", "matching_pennies",
    "rock_paper_scissors", "rock_paper_scissors_10",
)  # fmt: skip
_TEAM_TABLES = (
    "climbing", "penalty", "penalty_0", "penalty_25", "penalty_50", "penalty_75", "non_monotone", "additive",
)  # fmt: skip

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: ("matrix_game", {"game": name}) for name in _TABLES},
    **{name: ("matrix_game", {"game": name, "observe": "constant", "horizon": 25}) for name in _TEAM_TABLES},
    "st_plane": (
        "matrix_game",
        {"game": "symmetric_2x2", "reward": 1.0, "sucker": 0.0, "temptation": 1.0, "punishment": 0.0},
    ),
    **{f"climbing_{players}": ("team_game", {"game": "climbing", "players": players}) for players in (3, 4, 5)},
    **{f"matching_{players}": ("team_game", {"game": "matching", "players": players}) for players in (3, 5, 10)},
    "weak_prisoners_dilemma": (
        "network_dilemma",
        {"dilemma_strength": None, "reward": 1.0, "sucker": 0.0, "temptation": 1.85, "punishment": 0.0},
    ),
    "volunteers_dilemma": (
        "public_goods",
        {"players": 3, "multiplier": 0.0, "endowment": 0.0, "threshold": 1.0, "bonus": 4.0},
    ),
    "threshold_public_goods": (
        "public_goods",
        {"players": 5, "multiplier": 0.0, "endowment": 0.0, "threshold": 3.0, "bonus": 4.0},
    ),
    "n_player_stag_hunt": ("collective_dilemma", {"rule": "stag_hunt"}),
    "snowdrift": ("collective_dilemma", {"rule": "snowdrift"}),
    "minority": ("collective_dilemma", {"rule": "minority", "benefit": 1.0}),
    "public_goods_continuous": ("continuous_dilemma", {"game": "public_goods"}),
    "public_goods_punishment": ("continuous_dilemma", {"game": "public_goods", "punishment": True}),
    "commons_one_round": ("continuous_dilemma", {"game": "commons", "horizon": 1}),
    "fishery": ("common_pool", {"skin": "fishery"}),
    "pasture": ("common_pool", {"skin": "pasture"}),
    "pollution": ("common_pool", {"skin": "pollution"}),
    "fishery_lots": ("common_pool", {"skin": "fishery", "allocation": "stochastic"}),
    "pasture_lots": ("common_pool", {"skin": "pasture", "allocation": "stochastic"}),
    "pollution_lots": ("common_pool", {"skin": "pollution", "allocation": "stochastic"}),
    "fishery_newcomer": ("common_pool", {"skin": "fishery", "newcomer_round": 3}),
    "trust_and_split_silent": ("trust_and_split", {"turns": 0}),
    "trust_and_split_2": ("trust_and_split", {"turns": 2, "vocabulary": 8}),
    **{
        f"equal_line_{players}": ("equal_line", {"players": players}) for players in (2, 3, 5, 6, 8, 10, 12, 15, 20, 24)
    },
    **{f"agg{dimensions}d": ("aggregation", {"dimensions": dimensions}) for dimensions in (1, 2, 3, 4, 5)},
    **{f"vicsek_{surface}": ("vicsek", {"surface": surface}) for surface in ("torus", "mobius", "klein", "rp2")},
    "kuramoto_hard": ("kuramoto", {"frequency_spread": 0.15}),
    "kuramoto_classic": (
        "kuramoto",
        {
            "graph": "all",
            "coupling": 3.0,
            "frequency_spread": 1.0,
            "quantiles": True,
            "heun": True,
            "step_time": 0.05,
            "horizon": 4000,
            "action_cost": 0.0,
        },
    ),
    "kuramoto_swing": ("kuramoto", {"inertial": True, "see_velocity": True, "mass": 2.0, "damping": 0.2}),
    "kuramoto_inertial": ("kuramoto", {"inertial": True, "see_velocity": True, "mass": 2.0}),
    "vicsek_hard": ("vicsek", {"turn_noise": 0.3}),
    "vicsek_biased": ("vicsek", {"start": "von_mises"}),
    "vicsek_limit": ("phase_limit", {"frequency_spread": 0.0, "frequencies": 1, "noise": 0.02}),
    "vicsek_1995": (
        "vicsek",
        {"dynamics": "classic", "side": 5.0, "radius": 1.0, "speed": 0.03, "horizon": 1500, "action_cost": 0.0},
    ),
    **{f"consensus_{players}": ("consensus", {"players": players}) for players in (2, 3, 5, 10)},
    "consensus_cfcql": ("consensus", {"players": 3, "terminal_at_end": False}),
    "two_step_qmix": ("two_step", {"safe_payoff": 7.0, "risky_scale": 1.0}),
    "cleanup_mp": ("cleanup", {"end": "mp"}),
    "cleanup_socialjax_like": ("cleanup", {"players": 7, "horizon": 1000}),
    **{
        f"commons_harvest_{layout}": ("commons_harvest", {"layout": layout})
        for layout in ("open", "closed", "partnership")
    },
    **{
        f"commons_harvest_{layout}_mp": ("commons_harvest", {"layout": layout, "end": "mp"})
        for layout in ("open", "closed", "partnership")
    },
    "commons_harvest_socialjax_like": ("commons_harvest", {"layout": "open", "regrowth_one": 0.001, "horizon": 1000}),
    "coin_game_lola": ("coin_game", {"coins": 1, "horizon": 150}),
    "coin_game_5x5": ("coin_game", {"size": 5}),
    "coins_mp": ("coins", {"end": "mp", "horizon": 300, "end_chance": 0.05}),
    "coins_16x11": ("coins", {"min_height": 16, "max_height": 16, "min_width": 11, "max_width": 11}),
    "gift_mp": ("gift", {"multiplier": 5, "end": "mp"}),
    "territory_rooms": ("territory", {"layout": "rooms"}),
    "territory_expected": ("territory", {"rewards": "expected"}),
    **{
        f"{game}_in_the_matrix_arena": ("in_the_matrix", {"game": game, "end_chance": chance})
        for game, chance in (
            ("prisoners_dilemma", 0.15),
            ("chicken", 0.2),
            ("stag_hunt", 0.1),
            ("pure_coordination", 0.2),
            ("rationalizable", 0.2),
            ("bach_stravinsky", 0.2),
            ("running_with_scissors", 0.2),
        )
    },
    **{
        f"{game}_in_the_matrix_repeated": (
            "in_the_matrix",
            {"game": game, "layout": "repeated", "players": 2, "end_chance": 0.1},
        )
        for game in (
            "prisoners_dilemma",
            "chicken",
            "stag_hunt",
            "pure_coordination",
            "rationalizable",
            "bach_stravinsky",
        )
    },
    "running_with_scissors_in_the_matrix_repeated": (
        "in_the_matrix",
        {"game": "running_with_scissors", "layout": "repeated", "players": 2, "delay": 15, "end_chance": 0.2},
    ),
    "prisoners_dilemma_in_the_matrix_socialjax": (
        "in_the_matrix",
        {"layout": "sparse", "players": 2, "row_payoffs": ((3.0, -1.0), (5.0, 1.0)), "freeze": 5},
    ),
    "coop_mining_mp": ("coop_mining", {"end": "mp"}),
    "mushrooms_mp": ("mushrooms", {"end": "mp"}),
    "simple_spread": ("spread", {}),
    "simple_tag": ("tag", {}),
    "simple_world_comm": ("world", {}),
    "simple_speaker_listener": ("speaker_listener", {}),
    "simple_reference": ("reference", {}),
    "simple_adversary": ("adversary", {}),
    "omar_spread": ("spread", {"rules": "omar", "actions": "continuous"}),
    "omar_tag": ("tag", {"rules": "omar", "actions": "continuous", "prey": "flee"}),
    "omar_world": ("world", {"rules": "omar", "actions": "continuous", "prey": "flee"}),
}
"""Name -> (registered environment, fields it sets)."""

GRAMMARS: dict[str, str] = {"Foraging": "marl_bench.envs.foraging.names:parse"}
"""Prefix of a name -> address of `parse(name) -> (registered environment, fields)`, which raises ValueError naming the
part that it cannot read."""

SCHEMES: dict[str, str] = {
    "jaxmarl": "marl_bench.adapters.jaxmarl:JaxMARLEnvironment",
    "jumanji": "marl_bench.adapters.jumanji:JumanjiEnvironment",
}
"""Scheme of `SCHEME:ID` -> address of a class with the field `id`."""
