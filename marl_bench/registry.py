"""Names to constructors: environments and learners, ours and other people's.

Three ways in for a third party, none of which edits this package:
  - `@register("name")` on a class, in a module that is imported;
  - an entry point in the group `marl_bench.environments` or `marl_bench.learners`;
  - the address `my_package.my_module:MyClass`.

Names that also set fields (presets, name grammars, other suites' names) are listed in `marl_bench.presets`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from importlib import metadata
from typing import Any, TypeVar

from marl_bench import presets
from marl_bench.naming import nearest

_Class = TypeVar("_Class", bound=type)

_GROUPS = {"environment": "marl_bench.environments", "learner": "marl_bench.learners"}
_BUILT_IN = {
    "environment": {
        "adversary": "marl_bench.envs.particles.adversary:Adversary",
        "aggregation": "marl_bench.envs.swarms.aggregation:Aggregation",
        "aggregation_limit": "marl_bench.envs.swarms.limit_worlds:AggregationLimit",
        "cleanup": "marl_bench.envs.cleanup.cleanup:Cleanup",
        "coin_game": "marl_bench.envs.coin_game.coin_game:CoinGame",
        "coins": "marl_bench.envs.coins.coins:Coins",
        "collective_dilemma": "marl_bench.envs.collective_dilemma:CollectiveDilemma",
        "common_pool": "marl_bench.envs.common_pool.common_pool:CommonPool",
        "commons_harvest": "marl_bench.envs.commons_harvest.commons_harvest:CommonsHarvest",
        "consensus": "marl_bench.envs.consensus:Consensus",
        "continuous_dilemma": "marl_bench.envs.continuous_dilemma:ContinuousDilemma",
        "coop_mining": "marl_bench.envs.coop_mining.coop_mining:CoopMining",
        "equal_line": "marl_bench.envs.equal_line.equal_line:EqualLine",
        "foraging": "marl_bench.envs.foraging.foraging:Foraging",
        "gift": "marl_bench.envs.gift.gift:Gift",
        "in_the_matrix": "marl_bench.envs.in_the_matrix.in_the_matrix:InTheMatrix",
        "kuramoto": "marl_bench.envs.swarms.kuramoto:Kuramoto",
        "matrix_game": "marl_bench.envs.matrix_game:MatrixGame",
        "mushrooms": "marl_bench.envs.mushrooms.mushrooms:Mushrooms",
        "network_dilemma": "marl_bench.envs.network_dilemma:NetworkDilemma",
        "phase_limit": "marl_bench.envs.swarms.limit_worlds:PhaseLimit",
        "public_goods": "marl_bench.envs.public_goods:PublicGoods",
        "reference": "marl_bench.envs.particles.reference:Reference",
        "speaker_listener": "marl_bench.envs.particles.speaker_listener:SpeakerListener",
        "spread": "marl_bench.envs.particles.spread:Spread",
        "tag": "marl_bench.envs.particles.tag:Tag",
        "team_game": "marl_bench.envs.team_game:TeamGame",
        "territory": "marl_bench.envs.territory.territory:Territory",
        "trust_and_split": "marl_bench.envs.trust_and_split.trust_and_split:TrustAndSplit",
        "two_step": "marl_bench.envs.two_step:TwoStep",
        "vicsek": "marl_bench.envs.swarms.vicsek:Vicsek",
        "world": "marl_bench.envs.particles.world:World",
    },
    "learner": {
        "awac": "marl_bench.algorithms.offline.awac:AWAC",
        "bc": "marl_bench.algorithms.offline.bc:BC",
        "cfcql": "marl_bench.algorithms.offline.cfcql:CFCQL",
        "cfcql_continuous": "marl_bench.algorithms.offline.cfcql_continuous:CFCQLContinuous",
        "cql": "marl_bench.algorithms.offline.cql:CQL",
        "cql_continuous": "marl_bench.algorithms.offline.cql_continuous:CQLContinuous",
        "dec_pomfc": "marl_bench.algorithms.mean_field.dec_pomfc:DecPOMFC",
        "dqn": "marl_bench.algorithms.dqn:DQN",
        "icq": "marl_bench.algorithms.offline.icq:ICQ",
        "ippo": "marl_bench.algorithms.ippo:IPPO",
        "iql": "marl_bench.algorithms.iql:IQL",
        "iql_offline": "marl_bench.algorithms.offline.iql_offline:IQLOffline",
        "macql": "marl_bench.algorithms.offline.macql:MACQL",
        "macql_continuous": "marl_bench.algorithms.offline.macql_continuous:MACQLContinuous",
        "maddpg": "marl_bench.algorithms.maddpg:MADDPG",
        "madtkd": "marl_bench.algorithms.offline.madtkd:MADTKD",
        "mappo": "marl_bench.algorithms.mappo:MAPPO",
        "matd3": "marl_bench.algorithms.matd3:MATD3",
        "omar": "marl_bench.algorithms.offline.omar:OMAR",
        "omar_discrete": "marl_bench.algorithms.offline.omar_discrete:OMARDiscrete",
        "pqn": "marl_bench.algorithms.pqn:PQN",
        "qmix": "marl_bench.algorithms.qmix:QMIX",
        "td3_bc": "marl_bench.algorithms.offline.td3_bc:TD3BC",
        "vdn": "marl_bench.algorithms.vdn:VDN",
    },
}
_REGISTERED: dict[str, dict[str, type]] = {"environment": {}, "learner": {}}

LISTED = {"environment": "'marl-bench list envs'", "learner": "'marl-bench list learners'"}
"""The command that shows all names."""
MOST_HINTS = 3
"""Near names in the message about an unknown one."""


def register(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: make an `Environment` or a `Learner` known as `name`.

    Raises:
      ValueError: when the name is taken by another class.
      TypeError: when the class is neither an environment nor a learner.
    """

    def add(cls: _Class) -> _Class:
        kind = _kind_of(cls)
        known = _REGISTERED[kind].get(name)
        other = known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__)
        if other or name in _BUILT_IN[kind] or (kind == "environment" and name in presets.PRESETS):
            raise ValueError(f"{kind} name {name!r} is taken; choose another")
        _REGISTERED[kind][name] = cls
        return cls

    return add


def _kind_of(cls: type) -> str:
    if callable(getattr(cls, "reset", None)) and callable(getattr(cls, "step", None)):
        return "environment"
    if callable(getattr(cls, "update", None)) and callable(getattr(cls, "act", None)):
        return "learner"
    raise TypeError(f"{cls.__name__} is neither an environment (reset, step) nor a learner (init, update, act)")


def _table(kind: str) -> dict[str, Any]:
    points = {point.name: point for point in metadata.entry_points(group=_GROUPS[kind])}
    return {**points, **_REGISTERED[kind], **_BUILT_IN[kind]}


def _load_address(address: str, kind: str) -> type:
    module_name, _, attribute = address.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError, TypeError) as error:  # ":X" and ".a:X" are the last two
        hint = nearest(module_name, presets.SCHEMES if kind == "environment" else ())
        raise LookupError(f"{kind} {address!r}: cannot import {module_name!r} ({error}){hint}") from error
    if not hasattr(module, attribute):
        raise LookupError(
            f"{kind} {address!r}: module {module_name!r} has no {attribute!r}{nearest(attribute, dir(module))}"
        )
    return getattr(module, attribute)


def resolve(name: str, kind: str) -> type:
    """The class that `lookup` finds."""
    return lookup(name, kind)[0]


def lookup(name: str, kind: str) -> tuple[type, dict[str, Any]]:
    """Find what a name stands for.

    Args:
      name: a registered name, an entry point, an address `module:Class`, or (environments only) a name of
        `marl_bench.presets`.
      kind: "environment" or "learner".
    Returns:
      The class, and the fields that the name itself sets (empty but for presets).
    Raises:
      LookupError: for an unknown name, with the nearest known one; for a name whose grammar cannot be read, with the
        part at fault.
    """
    scheme, colon, rest = name.partition(":")
    if kind == "environment" and colon and scheme in presets.SCHEMES:
        return _load_address(presets.SCHEMES[scheme], kind), {"id": rest}
    if colon:
        return _load_address(name, kind), {}
    table = _table(kind)
    if kind == "environment" and name not in table:
        found = _named(name)
        if found is not None:
            return resolve(found[0], kind), dict(found[1])
    if name not in table:
        raise LookupError(f"unknown {kind} {name!r}{_hint(name, kind)} ({LISTED[kind]} shows all)")
    entry = table[name]
    if isinstance(entry, str):
        return _load_address(entry, kind), {}
    return (entry.load() if isinstance(entry, metadata.EntryPoint) else entry), {}


def _hint(name: str, kind: str) -> str:
    """The names nearest to an unknown one; for one that only misses the prefix of a grammar, what the parser makes of it."""
    if kind != "environment":
        return nearest(name, _table(kind), most=MOST_HINTS)
    for prefix in presets.GRAMMARS:
        head = f"{prefix.rstrip('-')}-"
        prefixed = name.lower().startswith(head.lower())
        candidate = head + (name[len(head) :] if prefixed else name)
        try:
            _named(candidate)
        except LookupError as error:
            if prefixed:
                return f"; read as {error}"
        else:
            return f"; did you mean {candidate!r}?"
    return nearest(name, {**_table(kind), **presets.PRESETS}, most=MOST_HINTS)


def _named(name: str) -> tuple[str, dict[str, Any]] | None:
    """Registered environment and fields of a preset or of a name with a grammar; None for any other name."""
    if name in presets.PRESETS:
        return presets.PRESETS[name]
    for prefix, address in presets.GRAMMARS.items():
        if name.startswith(prefix):
            module_name, _, function = address.partition(":")
            parse: Callable[[str], tuple[str, dict[str, Any]]] = getattr(importlib.import_module(module_name), function)
            try:
                return parse(name)
            except ValueError as error:
                raise LookupError(f"environment {name!r}: {error}") from error
    return None


def build(cls: type, name: str, kwargs: dict[str, Any]) -> Any:
    """Construct `cls(**kwargs)`, turning an unknown field into an error with the nearest name.

    Raises:
      TypeError: for an unknown field.
      ValueError: for a value out of range (from the class itself).
    """
    if dataclasses.is_dataclass(cls):
        known = [f.name for f in dataclasses.fields(cls) if f.init]
        for key in kwargs:
            if key not in known:
                raise TypeError(f"{name} has no field {key!r}{nearest(key, known)} (fields: {', '.join(known)})")
    return cls(**kwargs)


def make(name: str, **fields: Any) -> Any:
    """Make an environment by name, e.g. `make("network_dilemma", side=30, dilemma_strength=0.25)`.

    Args:
      name: a name of `environments()`, of `marl_bench.presets`, or the address `my_package.my_module:MyEnvironment`.
      **fields: fields of the environment's dataclass.
    Raises:
      LookupError: unknown name. TypeError: unknown field or wrong type. ValueError: value out of range.
    """
    cls, preset = lookup(name, "environment")
    return build(cls, name, {**preset, **fields})


def make_learner(name: str, **fields: Any) -> Any:
    """Make a learner by name, e.g. `make_learner("dqn", sharing="shared")`; arguments and errors as for `make`."""
    return build(resolve(name, "learner"), name, fields)


def environments() -> list[str]:
    """Names that `make` accepts, sorted."""
    return sorted(_table("environment"))


def learners() -> list[str]:
    """Names that `make_learner` accepts, sorted."""
    return sorted(_table("learner"))
