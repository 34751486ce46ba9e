"""Sweeps: `SweepConfig`, what a user asked for, and `CellSpec`, one trained cell of it.

A configuration is a flat mapping with the keys of the command line (`env`, `learner`, `env.FIELD`,
`learner.FIELD`, `dataset`, `dataset_shards`, `seeds`, `steps`, `log_every`, `evaluations`), so one grammar serves tokens, experiment files, the
`config.yaml` of a run directory and the columns of its results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from marl_bench import registry
from marl_bench.absolute_metric import Evaluated
from marl_bench.errors import UsageError
from marl_bench.experiments import overrides
from marl_bench.experiments.overrides import MAX_VALUES
from marl_bench.experiments.yaml_files import read_yaml
from marl_bench.naming import nearest
from marl_bench.runtime.files import digest_of

_ROLES = {"env": ("environment", ("reset", "step")), "learner": ("learner", ("update", "act"))}


@dataclasses.dataclass(frozen=True)
class CellSpec:
    """One cell of a sweep.

    Attributes:
      index: position in the sweep; seeds vary fastest.
      environment: prepared for the seed (`Environment.prepare`); for offline learners the `OfflineSource` with it.
      learner: the hyperparameters.
      seed: in 0 ... 2^32 - 1.
      columns: `env` and `learner` (names), `seed`, and every scalar field by dotted path; tuples as text,
        arrays left out.
    """

    index: int
    environment: Any
    learner: Any
    seed: int
    columns: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """A sweep: one environment, one learner, and lists of values for their fields.

    Attributes:
      environment: registered name or `package.module:Class`.
      learner: the same for the learner.
      environment_fields: values of each named field; fields that are not named keep their default.
      learner_fields: the same for the learner.
      seeds: distinct integers in 0 ... 2^32 - 1.
      steps: total environment steps of each cell; None for the learner's published number.
      log_every: environment steps between logged metrics; None for the runner's choice.
      evaluations: evaluations during training, for the absolute metric (`marl_bench.absolute_metric`) and the social metrics;
        None for the learner's own evaluation at the end only.
      datasets: paths of data sets of one world, for offline learners; their `steps` are updates.
      dataset_shards: parts in which each data set is brought to the devices, for data larger than their memory.
    """

    environment: str
    learner: str
    environment_fields: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    learner_fields: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0])
    steps: int | None = None
    log_every: int | None = None
    evaluations: int | None = None
    datasets: list[str] = dataclasses.field(default_factory=list)
    dataset_shards: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", overrides.parse_seeds(self.seeds))
        object.__setattr__(self, "steps", overrides.parse_count("steps", self.steps))
        object.__setattr__(self, "log_every", overrides.parse_count("log_every", self.log_every))
        object.__setattr__(self, "evaluations", overrides.parse_count("evaluations", self.evaluations))

    @classmethod
    def from_tokens(cls, tokens: Sequence[str]) -> SweepConfig:
        """Read command-line tokens; the first may be a YAML file, whose entries later tokens override.

        Raises:
          UsageError: for whatever cannot be understood, naming the token.
        """
        mapping: dict[str, Any] = {}
        rest = list(tokens)
        if rest and "=" not in rest[0] and rest[0].endswith((".yaml", ".yml")):
            mapping = read_yaml(Path(rest.pop(0)))
        return cls.from_mapping({**mapping, **overrides.parse_tokens(rest)})

    @classmethod
    def from_yaml(cls, path: Path | str) -> SweepConfig:
        """Read an experiment file, or the `config.yaml` of a run directory.

        Raises:
          UsageError: for a file that is missing, too large, unsafe or not a configuration.
        """
        return cls.from_mapping(read_yaml(Path(path)))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> SweepConfig:
        """Build from a flat mapping of keys to texts (read by the override grammar), scalars or lists.

        Raises:
          UsageError: for an unknown name, key or field, or a value of the wrong type.
        """
        for key in mapping:
            overrides.check_key(key)
        datasets = overrides.parse_paths("dataset", mapping.get("dataset", []))
        world = _world_of_datasets(datasets, mapping)
        mapping = {**world, **mapping}
        names = {role: _name(role, mapping.get(role)) for role in _ROLES}
        fields: dict[str, dict[str, list[Any]]] = {role: {} for role in _ROLES}
        for key, value in mapping.items():
            role, dot, field = key.partition(".")
            if dot:
                kind = _field_type(role, names[role], field)
                fields[role][field] = _values(key, value, kind)
                if key in world and fields[role][field] != (wanted := _values(key, world[key], kind)):
                    raise UsageError(f"{key}={value}: the data are of a world with {key}={wanted[0]}; leave {key} out")
        return cls(
            environment=names["env"],
            learner=names["learner"],
            environment_fields=fields["env"],
            learner_fields=fields["learner"],
            seeds=overrides.parse_seeds(mapping.get("seeds", [0])),
            steps=overrides.parse_count("steps", mapping.get("steps")),
            log_every=overrides.parse_count("log_every", mapping.get("log_every")),
            evaluations=overrides.parse_count("evaluations", mapping.get("evaluations")),
            datasets=datasets,
            dataset_shards=overrides.parse_count("dataset_shards", mapping.get("dataset_shards")) or 1,
        )

    def to_mapping(self) -> dict[str, Any]:
        """The resolved configuration: every scalar field of environment and learner, defaults included.

        Raises:
          UsageError: for an unknown name or field, or a value of the wrong type.
        """
        mapping: dict[str, Any] = {"env": self.environment, "learner": self.learner}
        given = {"env": self.environment_fields, "learner": self.learner_fields}
        for role, name in (("env", self.environment), ("learner", self.learner)):
            mapping.update({f"{role}.{field}": values for field, values in _resolved(role, name, given[role]).items()})
        mapping.update(seeds=list(self.seeds), steps=self.steps, log_every=self.log_every)
        # Left out if not asked for: configurations from before they existed keep their digest.
        if self.evaluations is not None:
            mapping["evaluations"] = self.evaluations
        if self.datasets:
            mapping |= {"dataset": list(self.datasets), "dataset_shards": self.dataset_shards}
        return mapping

    def to_yaml(self) -> str:
        """Text of `config.yaml`, which `from_yaml` reads back to an equal digest."""
        return yaml.safe_dump(self.to_mapping(), sort_keys=False, allow_unicode=True, default_flow_style=None)

    def digest(self) -> str:
        """SHA-256 (hex) of the resolved configuration; the order in which fields were given is immaterial."""
        return digest_of(self.to_mapping())


# --- reading -----------------------------------------------------------------------------------------


def _name(role: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        what = "environment" if role == "env" else role
        raise UsageError(f"{role}: missing; name one {what} with {role}=NAME ('marl-bench list {role}s' shows them)")
    return value


def _class_of(role: str, name: str) -> type:
    return _lookup(role, name)[0]


def _lookup(role: str, name: str) -> tuple[type, dict[str, Any]]:
    """The class that a name stands for, and the fields that the name itself sets."""
    kind, methods = _ROLES[role]
    try:
        cls, preset = registry.lookup(name, kind)
    except LookupError as error:
        raise UsageError(str(error)) from error
    except Exception as error:
        # Importing a plug-in runs its code, which can fail in any way.
        raise UsageError(f"{kind} {name!r}: importing it failed ({type(error).__name__}: {error})") from error
    if not isinstance(cls, type) or not all(callable(getattr(cls, method, None)) for method in methods):
        raise UsageError(f"{role}={name}: is not a class with the methods {', '.join(methods)}, so no {kind}")
    return cls, preset


def _field_type(role: str, name: str, field: str) -> Any:
    known = overrides.field_types(_class_of(role, name))
    if field not in known:
        fields = ", ".join(known) or "none"
        raise UsageError(f"{role}.{field}: {name} has no field {field!r}{nearest(field, known)} (fields: {fields})")
    return known[field]


def _values(path: str, value: Any, annotation: Any) -> list[Any]:
    """Values of one field from a text (override grammar), a scalar or a list; checked against the type."""
    if isinstance(value, str):
        items = overrides.parse_values(path, value)
    elif isinstance(value, (list, tuple)):
        items = [_unquoted(path, item, annotation) for item in value]
    else:
        items = [value]
    if not items:
        raise UsageError(f"{path}: the list is empty; give at least one value")
    return [overrides.coerce(path, item, annotation) for item in items]


def _unquoted(path: str, item: Any, annotation: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; give such items the meaning they have on the command line."""
    try:
        return overrides.coerce(path, item, annotation)
    except UsageError:
        return overrides.parse_item(path, item) if isinstance(item, str) else item


def _resolved(role: str, name: str, given: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Values of every field that a text file can hold, in the order of the dataclass."""
    cls, preset = _lookup(role, name)
    for field in given:
        _field_type(role, name, field)
    resolved: dict[str, list[Any]] = {}
    for field, annotation in overrides.field_types(cls).items():
        path = f"{role}.{field}"
        if field in given:
            resolved[field] = _values(path, list(given[field]), annotation)
            continue
        default = preset.get(field, default_of(cls, field))
        if overrides.is_plain(default):
            # A default that its own annotation forbids could not be read back from config.yaml.
            with contextlib.suppress(UsageError):
                resolved[field] = [overrides.coerce(path, default, annotation)]
    return resolved


def default_of(cls: type, name: str) -> Any:
    """Default of a dataclass field (`dataclasses.MISSING` if it has none)."""
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


# --- expansion -----------------------------------------------------------------------------------------


def expand(config: SweepConfig) -> list[CellSpec]:
    """All cells of a sweep: the Cartesian product of the values, environment outermost, seeds innermost.

    Raises:
      UsageError: for more than a million cells, or with the message of the environment's or learner's
        constructor (a value out of range), or of `learner.validate` (the two do not fit).
    """
    environment_fields = _resolved("env", config.environment, config.environment_fields)
    learner_fields = _resolved("learner", config.learner, config.learner_fields)
    count = math.prod(len(v) for v in (*environment_fields.values(), *learner_fields.values())) * len(config.seeds)
    if count > MAX_VALUES:
        raise UsageError(
            f"the sweep has {count} cells; at most {MAX_VALUES} are allowed, so sweep fewer values or seeds"
        )
    learners = list(_build_all("learner", config.learner, learner_fields))
    cells: list[CellSpec] = []
    for environment in _build_all("env", config.environment, environment_fields):
        base = {"env": config.environment, "learner": config.learner, **scalar_fields(environment, "env")}
        prepared = {seed: _usage(environment.prepare, seed) for seed in config.seeds}
        for more, sources in _sources(config, prepared):
            for learner in learners:
                columns = {**base, **more, **scalar_fields(learner, "learner")}
                trained = learner if config.evaluations is None else _evaluated(learner, config)
                _usage(trained.validate, next(iter(sources.values())))
                for seed in config.seeds:
                    cells.append(CellSpec(len(cells), sources[seed], trained, seed, {**columns, "seed": seed}))
    return cells


def _world_of_datasets(datasets: Sequence[str], mapping: Mapping[str, Any]) -> dict[str, Any]:
    """`env` and `env.FIELD` entries of the world that the data sets are of."""
    if not datasets:
        return {}
    from marl_bench.experiments import offline

    return offline.world_of_datasets(datasets, mapping.get("env"))


def _sources(config: SweepConfig, prepared: dict[int, Any]) -> Iterator[tuple[dict[str, Any], dict[int, Any]]]:
    """What the cells of each seed learn from, with the columns that say so: the world, or each data set of it."""
    if not config.datasets:
        return iter([({}, prepared)])
    from marl_bench.experiments import offline

    return offline.sources(prepared, config.datasets, config.dataset_shards)


def _evaluated(learner: Any, config: SweepConfig) -> Evaluated:
    """`learner` with the evaluations of the sweep; refuses a number of them that does not divide the updates."""
    from marl_bench.envs.social.metrics import SocialMetrics

    count = config.evaluations or 1
    if not hasattr(learner, "evaluation_episodes"):
        name = type(learner).__name__.lower()
        raise UsageError(
            f"evaluations={count}: {name} has an evaluation of its own, with parameters frozen, at the end of a run; leave "
            "evaluations out, or use a learner with evaluation_episodes (marl-bench list learners)"
        )
    updates = _usage(learner.num_updates, learner.default_steps if config.steps is None else config.steps)
    if updates % count:
        fitting = max(1, round(updates / count)) * count * learner.update_steps
        raise UsageError(f"evaluations={count}: must divide the {updates} updates of a run; use steps={fitting}")
    greedy, episodes = learner.evaluation_greedy, learner.evaluation_episodes
    return Evaluated(learner, updates // count, max(1, episodes // 8), episodes, greedy, (SocialMetrics,))


def build_environment(name: str, tokens: Sequence[str]) -> Any:
    """One environment from `FIELD=VALUE` (or `env.FIELD=VALUE`) tokens, each with one value, prepared for seed 0.

    Raises:
      UsageError: for an unknown name or field, a value of the wrong type or out of range, or a list of values.
    """
    paths = [token if token.startswith("env.") else f"env.{token}" for token in tokens]
    cls, fields = _lookup("env", name)
    for path, text in overrides.parse_tokens(paths).items():
        field = path.partition(".")[2]
        values = _values(path, text, _field_type("env", name, field))
        if len(values) != 1:
            raise UsageError(f"{path}={text}: one value is needed here, not {len(values)}")
        fields[field] = values[0]
    environment = _usage(registry.build, cls, name, fields)
    return _usage(environment.prepare, 0)


def _build_all(role: str, name: str, fields: Mapping[str, Sequence[Any]]) -> Iterator[Any]:
    cls = _class_of(role, name)
    for values in itertools.product(*fields.values()):
        yield _usage(registry.build, cls, name, dict(zip(fields, values, strict=True)))


def _usage(function: Any, *arguments: Any) -> Any:
    """Call `function`; the errors with which constructors refuse a value become `UsageError`."""
    try:
        return function(*arguments)
    except (ValueError, TypeError, LookupError) as error:
        raise UsageError(str(error)) from error


def scalar_fields(owner: Any, prefix: str) -> dict[str, Any]:
    """Scalar fields of a dataclass by dotted path; tuples as text, arrays and nested objects left out."""
    columns: dict[str, Any] = {}
    for field in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
        value = getattr(owner, field.name)
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            value = value.item()
        if isinstance(value, tuple):
            value = str(value)
        if value is None or isinstance(value, (bool, int, float, str)):
            columns[f"{prefix}.{field.name}"] = value
    return columns
