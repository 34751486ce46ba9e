"""Sweeps: reading them, writing them back, expanding them into cells."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from flax import struct

from marl_bench import Environment, Learner, field, registry
from marl_bench.environment import check_integer, check_range
from marl_bench.errors import UsageError
from marl_bench.experiments.cells import SweepConfig, build_environment, expand
from marl_bench.experiments.yaml_files import read_yaml


@struct.dataclass
class World(Environment):
    """A world for these tests."""

    side: int = field(3, static=True, doc="size")
    drift: float = field(0.5, doc="drift")
    kind: str = field("torus", static=True)
    bonus: float | None = field(None)
    table: jax.Array | None = field(None)

    def __post_init__(self):
        check_integer(self, "side", 1)
        check_range(self, "drift", 0.0, 1.0)

    @property
    def num_agents(self):
        return self.side

    def prepare(self, seed):
        return dataclasses.replace(self, table=np.full(2, seed))


@struct.dataclass
class Rule(Learner):
    """A learner for these tests."""

    rate: float = field(0.1)
    hidden_sizes: tuple[int, ...] = field((96,), static=True)
    double: bool = field(True, static=True)

    def validate(self, environment):
        if environment.num_agents == 13:
            raise ValueError("Rule cannot play World with side=13")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(registry._REGISTERED["environment"], "cells_test_world", World)
    monkeypatch.setitem(registry._REGISTERED["learner"], "cells_test_learner", Rule)


BASE = ["env=cells_test_world", "learner=cells_test_learner"]


def config(*tokens):
    return SweepConfig.from_tokens([*BASE, *tokens])


def test_product_with_seeds_innermost():
    cells = expand(config("env.drift=0.1,0.2", "learner.rate=1,2", "seeds=3,5"))
    assert [cell.index for cell in cells] == list(range(8))
    columns = [(c.columns["env.drift"], c.columns["learner.rate"], c.columns["seed"]) for c in cells]
    assert columns == [(d, r, s) for d in (0.1, 0.2) for r in (1.0, 2.0) for s in (3, 5)]
    assert all(
        c.environment.drift == c.columns["env.drift"] and c.learner.rate == c.columns["learner.rate"] for c in cells
    )
    assert [c.environment.table[0] for c in cells] == [c.seed for c in cells]
    assert cells[0].environment is cells[2].environment


def test_columns_hold_every_scalar_and_no_array():
    (cell,) = expand(config("learner.hidden_sizes=(64, 32)"))
    assert cell.columns == {
        "env": "cells_test_world",
        "env.side": 3,
        "env.drift": 0.5,
        "env.kind": "torus",
        "env.bonus": None,
        "env.table": None,
        "learner": "cells_test_learner",
        "learner.rate": 0.1,
        "learner.hidden_sizes": "(64, 32)",
        "learner.double": True,
        "seed": 0,
    }


def test_sweep_over_tuples():
    cells = expand(config("learner.hidden_sizes=choice((96,),(64,64))"))
    assert [cell.learner.hidden_sizes for cell in cells] == [(96,), (64, 64)]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["env.sid=3"], r"env\.sid: cells_test_world has no field 'sid'; did you mean 'side'\? \(fields: side, drift"),
        (["learner.rat=3"], "did you mean 'rate'"),
        (["env.side=1.5"], r"env\.side=1\.5: must be an integer"),
        (["env.side=0"], r"^side=0: must be >= 1 \(field of World\)$"),
        (["env.drift=nan"], "drift=nan: must be"),
        (["env.drift=0.1,2"], "drift=2.0: must be"),
        (["env.side=13"], "Rule cannot play World"),
        (["learner.hidden_sizes=96"], r"a tuple of integers such as \(96,\)"),
        (["seeds=0"], "number of seeds"),
        (["steps=0"], "steps=0"),
        (["log_every=0.5"], "log_every=0.5"),
        (["env.drift=range(0,1,0.00001)", "seeds=11"], "1100000 cells; at most 1000000"),
    ],
)
def test_bad_sweeps(tokens, message):
    with pytest.raises(UsageError, match=message):
        expand(config(*tokens))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["env=cells_test_wrld", "learner=cells_test_learner"], "did you mean 'cells_test_world'"),
        (["env=cells_test_world"], "learner: missing"),
        (["learner=cells_test_learner"], "env: missing"),
        (["env=no_such_package:World", "learner=cells_test_learner", "env.x=1"], "cannot import 'no_such_package'"),
        (["env=json:JSONDecoder", "learner=cells_test_learner", "env.x=1"], "no environment"),
        (["env=cells_test_learner", "learner=cells_test_learner", "env.x=1"], "unknown environment"),
    ],
)
def test_unknown_names(tokens, message):
    with pytest.raises(UsageError, match=message):
        expand(SweepConfig.from_tokens(tokens))


def test_broken_plugin_is_a_usage_error(tmp_path, monkeypatch):
    (tmp_path / "broken_plugin_for_cells.py").write_text("raise OSError('no graph file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"importing it failed \(OSError: no graph file\)"):
        expand(SweepConfig("broken_plugin_for_cells:World", "cells_test_learner"))


def test_yaml_round_trip_and_digest(tmp_path):
    sweep = config(
        "env.drift=range(0.1,0.4,0.1)",
        "env.kind='a,b',none_",
        "learner.hidden_sizes=(96,),(64,64)",
        "seeds=2:4",
        "steps=50",
    )
    path = tmp_path / "config.yaml"
    path.write_text(sweep.to_yaml())
    again = SweepConfig.from_yaml(path)
    assert again.to_mapping() == sweep.to_mapping()
    assert again.digest() == sweep.digest()
    assert [c.columns for c in expand(again)] == [c.columns for c in expand(sweep)]


def test_digest_is_of_the_resolved_configuration():
    plain = config()
    assert len(plain.digest()) == 64
    assert plain.digest() == config("env.side=3", "learner.rate=0.1", "seeds=1").digest()
    assert config("env.side=4", "env.drift=1").digest() == config("env.drift=1.0", "env.side=4").digest()
    different = ["env.side=4", "learner.rate=1", "seeds=2", "steps=9", "log_every=9", "learner.hidden_sizes=()"]
    assert len({plain.digest(), *(config(token).digest() for token in different)}) == 1 + len(different)


def test_digest_is_the_same_in_another_process():
    tokens = ["env=test_cells:World", "learner=test_cells:Rule", "env.drift=0.1,0.2", "seeds=3"]
    code = f"from marl_bench.experiments.cells import SweepConfig as S; print(S.from_tokens({tokens}).digest())"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert other.stdout.strip() == SweepConfig.from_tokens(tokens).digest()


def test_experiment_file_with_overriding_tokens(tmp_path):
    path = tmp_path / "ein Versuch.yaml"
    path.write_text(
        "env: cells_test_world\nlearner: cells_test_learner\nenv.drift: range(0.1,0.4,0.1)\n"
        "learner.rate: [1e-3, 2]\nlearner.hidden_sizes: [[96], [64, 64]]\nlearner.double: false\nseeds: 2\n"
    )
    sweep = SweepConfig.from_tokens([str(path), "learner.rate=5"])
    assert sweep.learner_fields == {"rate": [5.0], "hidden_sizes": [(96,), (64, 64)], "double": [False]}
    assert sweep.environment_fields == {"drift": [0.1, 0.2, 0.3]}
    assert SweepConfig.from_yaml(path).learner_fields["rate"] == [0.001, 2.0]
    assert sweep.seeds == [0, 1]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env: !!python/object/apply:os.system ['touch executed']", "not a valid experiment file"),
        (BOMB, "aliases"),
        ("env: a\nenv: b", "given twice"),
        ("env: [", "not a valid experiment file"),
        ("- env", "expected lines such as"),
        ("3: x", "expected lines such as"),
        ("#" * 1_000_001, "larger than 1000000 bytes"),
        ("[" * 50_000, "not a valid experiment file"),
        ("\x00", "not a valid experiment file"),
    ],
)
def test_hostile_files(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"unknown": 1}, "unknown key 'unknown'"),
        ({"env.sid": 1}, "did you mean 'side'"),
        ({"env.side": []}, "list is empty"),
        ({"env.side": {"a": 1}}, "must be an integer"),
        ({"env.side": ["three"]}, "must be an integer"),
        ({"learner.hidden_sizes": [64, 64]}, "a tuple of integers"),
        ({"seeds": "x"}, "seeds="),
        ({"steps": [1]}, "steps="),
        ({"env": 3}, "env: missing"),
    ],
)
def test_bad_entries(tmp_path, extra, message):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"env": "cells_test_world", "learner": "cells_test_learner", **extra}))
    with pytest.raises(UsageError, match=message):
        SweepConfig.from_yaml(path)


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        SweepConfig.from_tokens([str(tmp_path / "none.yaml")])


def test_build_environment():
    world = build_environment("cells_test_world", ["side=4", "env.drift=0.25"])
    assert (world.side, world.drift, world.table.tolist()) == (4, 0.25, [0, 0])
    with pytest.raises(UsageError, match="one value is needed"):
        build_environment("cells_test_world", ["side=4,5"])
    with pytest.raises(UsageError, match="did you mean 'side'"):
        build_environment("cells_test_world", ["sde=4"])
