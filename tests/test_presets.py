"""Names that set fields, and policies that need no training."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import marl_bench
from marl_bench import listing, presets, registry
from marl_bench.environment import Environment
from marl_bench.errors import UsageError
from marl_bench.experiments.cells import SweepConfig, build_environment, expand
from marl_bench.scripted import random_policy, scripted_policy
from marl_bench.specs import BoundedArray
from marl_bench.wrappers import EpisodeMetrics


def parse_torus(name):
    side = name.removeprefix("Torus-")
    if not side.isdecimal():
        raise ValueError(f"{side!r} is not a side")
    return "network_dilemma", {"side": int(side)}


@pytest.fixture
def names(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "mild", ("network_dilemma", {"side": 4, "dilemma_strength": 0.1}))
    monkeypatch.setitem(presets.GRAMMARS, "Torus-", f"{__name__}:parse_torus")


def test_a_preset_sets_fields_and_gives_way_to_those_beside_it(names):
    env = marl_bench.make("mild", dilemma_strength=0.3)
    assert (env.side, env.dilemma_strength) == (4, 0.3)
    assert build_environment("mild", ["dilemma_strength=0.2"]).side == 4
    assert marl_bench.make("Torus-5").side == 5


def test_a_preset_can_be_swept_and_written_to_a_configuration(names, tmp_path):
    config = SweepConfig.from_tokens(["env=mild", "env.dilemma_strength=0.2,0.4", "learner=dqn"])
    assert [(cell.environment.side, cell.environment.dilemma_strength) for cell in expand(config)] == [
        (4, 0.2),
        (4, 0.4),
    ]
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert SweepConfig.from_yaml(tmp_path / "config.yaml").digest() == config.digest()
    assert expand(config)[0].columns["env"] == "mild"


def test_unknown_names_and_bad_grammar_say_what_is_wrong(names):
    with pytest.raises(LookupError, match="did you mean 'mild'"):
        marl_bench.make("mld")
    with pytest.raises(LookupError, match=r"'Torus-x'.*'x' is not a side"):
        marl_bench.make("Torus-x")
    with pytest.raises(UsageError, match="is not a side"):
        build_environment("Torus-x", [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "spred",
            r"^unknown environment 'spred'; did you mean 'spread', '\w+' or '\w+'\? \('marl-bench list envs' shows all\)$",
        ),
        ("qqqqq", r"^unknown environment 'qqqqq' \('marl-bench list envs' shows all\)$"),
        ("foraging-8x8-2p-2f-v3", "did you mean 'Foraging-8x8-2p-2f-v3'"),
        ("8x8-2p-2f-coop", "did you mean 'Foraging-8x8-2p-2f-coop'"),
        ("foraging-8x8-0p-2f-v3", r"read as environment 'Foraging-8x8-0p-2f-v3': '0p': agents must be at least 1"),
        ("jumangi:Snake-v1", r"cannot import 'jumangi' .*; did you mean 'jumanji'"),
    ],
)
def test_unknown_names_come_with_the_nearest_and_where_to_look(name, message):
    with pytest.raises(LookupError, match=message):
        marl_bench.make(name)


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_every_preset_is_well_formed(name):
    base, fields = presets.PRESETS[name]
    assert base in registry._BUILT_IN["environment"] and name not in registry._BUILT_IN["environment"]
    env = marl_bench.make(name)
    assert isinstance(env, registry.resolve(base, "environment"))
    assert all(field in type(env).__dataclass_fields__ for field in fields)


@struct.dataclass
class Box(Environment):
    """Two agents with actions in [0, 2] x [-1, 1]."""

    num_agents = property(lambda self: 2)
    num_actions = property(lambda self: 0)
    action_spec = property(lambda self: BoundedArray((2, 2), np.float32, "action", np.array([0, -1]), np.array([2, 1])))


def test_random_play_is_uniform_over_legal_actions():
    env = marl_bench.make("network_dilemma", side=3)
    mask = jnp.asarray([[True, False, True, True], [False, False, True, False]])
    observation = env.reset(jax.random.key(0))[1].observation._replace(action_mask=mask)
    keys = jax.random.split(jax.random.key(1), 6000)
    actions = jax.vmap(lambda key: random_policy(env)(None, observation, key))(keys)
    assert actions.dtype == jnp.int32 and (actions[:, 1] == 2).all()
    counts = np.bincount(actions[:, 0], minlength=4)
    assert counts[1] == 0
    np.testing.assert_allclose(counts[[0, 2, 3]], 2000, atol=4 * np.sqrt(6000 * 2 / 9))


def test_random_play_fills_a_box():
    actions = jax.vmap(lambda key: random_policy(Box())(None, None, key))(jax.random.split(jax.random.key(0), 2000))
    assert actions.shape == (2000, 2, 2)
    np.testing.assert_allclose(actions.min(axis=(0, 1)), [0, -1], atol=0.01)
    np.testing.assert_allclose(actions.max(axis=(0, 1)), [2, 1], atol=0.01)


@struct.dataclass
class Scripted(Box):
    """Its policy plays the state."""

    def scripted_policies(self):
        return {"good": lambda state, observation, key: state, "bad": lambda state, observation, key: -state}


def test_scripted_policies_are_found_by_name_and_through_wrappers():
    env = Scripted()
    assert scripted_policy(env)(3, None, None) == 3 and scripted_policy(env, "bad")(3, None, None) == -3
    wrapped = EpisodeMetrics(env)
    state = struct.dataclass(type("S", (), {"__annotations__": {"inner": int}}))(5)
    assert scripted_policy(wrapped)(state, None, None) == 5
    with pytest.raises(LookupError, match=r"has no policy 'god'; did you mean 'good'\? \(known: random, good, bad\)"):
        scripted_policy(env, "god")
    with pytest.raises(LookupError, match="known: random"):
        scripted_policy(Box())


def test_presets_are_listed_with_their_environment(names):
    stream = io.StringIO()
    listing.print_classes("environment", stream)
    assert "  preset mild: side=4, dilemma_strength=0.1\n" in stream.getvalue()
