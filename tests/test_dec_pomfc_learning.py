"""dec_pomfc learns: a linear-quadratic problem to its optimum, gathering, alignment; and a pack of cells is one program."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_swarm import LinearSwarm
from test_sweep import compiled

from marl_bench import make, make_learner
from marl_bench.algorithms.mean_field import execution
from marl_bench.experiments.cells import SweepConfig
from marl_bench.experiments.sweep import run_sweep

# Deviations of the agents from their mean are cheaper than the mean's own from 0, so the best rule is linear in two things with
# different gains: -K_t (x - m) - L_t m. Rules of two wide kernels are affine in the agent's view but for the curvature of tanh.
REGULATOR: Any = LinearSwarm(
    **{"agents": 20, "horizon": 10, "gain": 0.5, "noise": 0.1, "start": 1.0, "start_spread": 0.5, "span": 2.0},
    **{"largest": 4.0, "mean_price": 1.0, "deviation_price": 0.25, "action_price": 0.5},
)


def returns(env, policy, episodes, seed=7):
    """[episodes] undiscounted returns of the team."""

    def play(key):
        state, timestep = env.reset(key)

        def step(carry, key):
            state, observation = carry
            state, timestep = env.step(state, policy(state, observation, key))
            return (state, timestep.observation), timestep.reward[0]

        return jnp.sum(jax.lax.scan(step, (state, timestep.observation), jax.random.split(key, env.horizon))[1])

    return jax.vmap(play)(jax.random.split(jax.random.key(seed), episodes))


def trained(env, updates, protocols, episodes, seed=0, **fields):
    """Returns of the trained policy by protocol, and the metrics of all updates."""
    learner = make_learner("dec_pomfc", **fields)
    learner.validate(env)

    @jax.jit
    def run(key):
        state = learner.init(key, env)
        state, metrics = jax.lax.scan(lambda state, _: learner.update(state, env), state, None, updates)
        policies = [execution.policy(learner, state.params, env, name, jax.random.key(3)) for name in protocols]
        return [returns(env, policy, episodes) for policy in policies], metrics

    found, metrics = run(jax.random.key(seed))
    return [np.asarray(one, np.float64) for one in found], metrics


# --- the linear-quadratic problem ----------------------------------------------------------------------------


def gains(swarm, price):
    """[T] optimal feedback of one coordinate, by the Riccati recursion."""
    value, found = 0.0, []
    for _ in range(swarm.horizon):
        found.append(value * swarm.gain / (swarm.action_price + value * swarm.gain**2))
        value = price + value * swarm.action_price / (swarm.action_price + value * swarm.gain**2)
    return np.array(found[::-1])


def test_the_optimum_is_what_its_gains_earn_and_no_others_earn_more():
    """Simulated in float64: the two feedbacks reach the closed form; changed by a tenth or made equal they do not."""
    swarm, rng = REGULATOR, np.random.default_rng(0)
    start, noise = rng.normal(size=(20_000, 20)), rng.normal(size=(10, 20_000, 20))

    def earned(deviation, mean):
        x, total = swarm.start + swarm.start_spread * start, 0.0
        for step in range(swarm.horizon):
            m = x.mean(1, keepdims=True)
            push = -deviation[step] * (x - m) - mean[step] * m
            total -= swarm.mean_price * m[:, 0] ** 2 + swarm.deviation_price * ((x - m) ** 2).mean(1)
            total -= swarm.action_price * (push**2).mean(1)
            x = x + swarm.gain * push + swarm.noise * noise[step]
        return total.mean(), total.std() / 20_000**0.5

    best = gains(swarm, swarm.deviation_price), gains(swarm, swarm.mean_price)
    reached, error = earned(*best)
    assert reached == pytest.approx(swarm.optimum(), abs=3 * error)
    for scale in ((0.9, 1), (1.1, 1), (1, 0.9), (1, 1.1)):
        assert earned(scale[0] * best[0], scale[1] * best[1])[0] < reached
    for same in best:
        assert earned(same, same)[0] < 1.01 * reached


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_the_optimum_of_a_linear_quadratic_problem_is_reached(seed):
    """Within 2 % of the best that any policy can earn, one that sees all states included; nobody earns more."""
    (central, planned), metrics = trained(
        *(REGULATOR, 1000, ("CE-mode", "OL"), 4096, seed),
        **{"num_envs": 32, "num_steps": 10, "minibatches": 4, "epochs": 4, "hidden_sizes": (64,), "time": "scalar"},
        **{"learning_rate": 1.5e-3, "anneal_steps": 320_000, "discount": 1.0, "initial_log_std": -1.0},
        **{"rule_centres": 2, "rule_bandwidth": 1.0, "min_std": 0.0, "max_std": 0.05},
    )
    optimum = REGULATOR.optimum()
    for found in (central, planned):
        error = found.std() / len(found) ** 0.5
        assert 1.02 * optimum < found.mean() < optimum + 3 * error
    assert metrics["episode_return"][0] < 4 * optimum


# --- swarms --------------------------------------------------------------------------------------------------

PROTOTYPE = {"num_envs": 16, "epochs": 4, "learning_rate": 1e-3}


@pytest.mark.slow
def test_gathering_is_learned():
    """A small budget, with fast agents: at rest they lose 16 in 12 steps, the scripted rule loses 8."""
    env = make("aggregation", agents=5, horizon=12, max_speed=0.5)
    rest = np.asarray(jax.jit(lambda: returns(env, env.scripted_policies()["rest"], 64))()).mean()
    small = {**PROTOTYPE, "learning_rate": 3e-3, "minibatches": 4, "hidden_sizes": (16,), "rule_centres": 3}
    (found,), metrics = trained(env, 30, ("CE-mode",), 64, **small, num_steps=12)
    assert found.mean() > 0.8 * rest > metrics["episode_return"][0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least", "rest"), [("aggregation", -30, -147), ("vicsek", 50, 16)])
def test_swarms_are_learned_within_a_quarter_of_a_million_steps(name, least, rest):
    """25 agents, one seed; thresholds of the specification. Nobody needs to know the mean field when it is played."""
    env = make(name, agents=25)
    (central, planned), metrics = trained(env, 156, ("CE-mode", "OL"), 64, **PROTOTYPE)
    assert central.mean() > least and planned.mean() > least
    assert metrics["episode_return"][0] < (least + rest) / 2


# --- packs ---------------------------------------------------------------------------------------------------


def test_a_pack_over_coupling_noise_and_seed_compiles_once(tmp_path):
    tokens = [
        "env=kuramoto",
        "env.agents=5",
        "env.horizon=4",
        "env.graph=all",
        "env.coupling=0,0.4",
        "env.noise=0,0.3",
    ]
    sizes = {
        "num_envs": 2,
        "num_steps": 4,
        "minibatches": 1,
        "epochs": 1,
        "hidden_sizes": "(4,)",
        "evaluation_episodes": 2,
    }
    learner = ["learner=dec_pomfc", *(f"learner.{name}={value}" for name, value in sizes.items())]
    config = SweepConfig.from_tokens([*tokens, *learner, "seeds=2", "steps=16"])
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("jax").addHandler(handler)
    try:
        with jax.log_compiles():
            results = run_sweep(config, tmp_path / "out", wandb="disabled", quiet=True)
    finally:
        logging.getLogger("jax").removeHandler(handler)
    counts = compiled(type("Log", (), {"records": records}))
    assert len(results) == 8 and results["order"].nunique() == 8
    assert all(counts[name] == 1 for name in ("start_pack", "train_chunk", "evaluate_pack")), counts
    assert sum(counts.values()) <= 6, counts
