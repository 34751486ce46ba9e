"""dec_pomfc's estimate of the policy gradient, against swarms whose gradients are known exactly.

Scalar agents that all start at m0 and move by x' = x + v u + sigma eps; the team pays (mean x)^2; decision rules of one centre, not squashed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_swarm import LinearSwarm

from marl_bench import make_learner
from marl_bench.algorithms.mean_field.decision_rules import DecisionRule

HORIZON, DECAY, GAIN, NOISE, THETA = 10, 0.9, 0.3, 0.2, -0.5
MEAN_STD, SPREAD_STD = 0.4, 0.3
TIMES = np.arange(HORIZON)
ROUNDS = 32
"""Batches that a standard error is taken over."""

EXACT = {
    # xi_t ~ N(theta, s^2) is the common action: E m_t^2 = (m0 + v t theta)^2 + v^2 t s^2 + sigma^2 t / N
    "mean": -np.sum(DECAY**TIMES * 2 * GAIN * TIMES * (1 + GAIN * TIMES * THETA)),
    # e^xi_t, xi_t ~ N(theta, s^2), is the standard deviation of an action: E m_t^2 = t (v^2 e^(2 theta + 2 s^2) + sigma^2) / N; times N
    "spread": -np.sum(DECAY**TIMES * 2 * GAIN**2 * TIMES * np.exp(2 * THETA + 2 * SPREAD_STD**2)),
}


def test_exact_gradients_are_those_of_the_specification():
    assert EXACT["mean"] == pytest.approx(-1.87924, abs=1e-5) and EXACT["spread"] == pytest.approx(-1.88293, abs=1e-5)


def expected_values(parameter, agents):
    """[T] expected sums of what is paid from each step on: a baseline, which lowers the error and shifts nothing."""
    paid = TIMES * NOISE**2 / agents
    if parameter == "mean":
        paid = paid + (1 + GAIN * TIMES * THETA) ** 2 + GAIN**2 * TIMES * MEAN_STD**2
    else:
        paid = paid + TIMES * GAIN**2 * np.exp(2 * THETA + 2 * SPREAD_STD**2) / agents
    return -np.cumsum((DECAY**TIMES * paid)[::-1])[::-1]


def unsquashed(self, xi):
    """xi as an action's mean (`max_std` 0) or as the logarithm of its spread around 0 (`max_std` 1)."""
    xi = xi.reshape(*xi.shape[:-1], 1, 1, 2)
    return (1 - self.max_std) * xi[..., 0], self.max_std * jnp.exp(xi[..., 1])


@functools.cache
def program(agents, copies):
    """Gradients of the expected return with respect to theta, [ROUNDS, 2], and the metrics of the loss in every round."""

    @jax.jit
    def run(key, learner, env, values):
        state = learner.init(key, env)
        mdp = learner.mdp(state.params, env)
        actor, critic = state.params["actor"], state.params["critic"]
        actor["output"] = {"w": 0 * actor["output"]["w"], "b": jnp.full((1, 2), THETA)}
        actor["log_std"] = jnp.log(jnp.array([[MEAN_STD, SPREAD_STD]]))
        critic["output"] = {"w": jnp.concatenate([jnp.zeros(1), values])[None, :, None], "b": jnp.zeros((1, 1))}
        networks = {"actor": actor, "critic": critic}
        state = state.replace(params={**state.params, **networks})

        def one(world, key):
            now = state.replace(world=world)
            world, steps, _ = learner.collect(now, mdp, key)
            _, *parts = learner.advantages_of(now, mdp, steps)
            gradient, metrics = jax.grad(learner.loss, has_aux=True)(networks, mdp, learner.rows(now, steps, *parts))
            return world, (-HORIZON * gradient["actor"]["output"]["b"][0], metrics)

        return jax.lax.scan(one, state.world, jax.random.split(key, ROUNDS))[1]

    def estimates(parameter):
        fields = {"gain": GAIN, "noise": NOISE, "decay": DECAY, "start": float(parameter == "mean")}
        env = LinearSwarm(agents=agents, horizon=HORIZON, **fields)
        learner = make_learner(
            "dec_pomfc",
            **{"num_envs": copies, "num_steps": HORIZON, "hidden_sizes": (), "minibatches": 1},
            **{"features": "none", "time": "one_hot", "rule_centres": 1, "max_std": float(parameter == "spread")},
            # The world discounts what it pays, so that the loss has no weight to leave out.
            **{"discount": 1.0, "gae_lambda": 1.0, "advantages": "none", "normalize_values": False},
        )
        learner.validate(env)
        return run(jax.random.key(agents), learner, env, np.float32(expected_values(parameter, agents)))

    return estimates


@pytest.mark.parametrize(
    ("parameter", "agents", "copies"),
    [
        *(("mean", 1, 1024), ("mean", 10, 512), ("mean", 1000, 32), ("spread", 1, 1024), ("spread", 10, 512)),
        pytest.param("mean", 1000, 512, marks=pytest.mark.slow),
        pytest.param("spread", 100, 2048, marks=pytest.mark.slow),
    ],
)
def test_gradient_is_exact(parameter, agents, copies, monkeypatch):
    """Of a parameter of the mean it does not depend on N; of one that moves the agents apart it is C / N, and 0 in the limit."""
    monkeypatch.setattr(DecisionRule, "squashed", unsquashed)
    found, metrics = program(agents, copies)(parameter)
    found = np.asarray(found, np.float64)[:, ("mean", "spread").index(parameter)]
    exact = EXACT[parameter] / (1 if parameter == "mean" else agents)
    error = found.std(ddof=1) / ROUNDS**0.5
    assert found.mean() == pytest.approx(exact, abs=3 * error)
    assert error < 0.12 * abs(exact)
    # What is differentiated is the loss where it was sampled: no ratio has moved.
    np.testing.assert_allclose(metrics["kl"], 0, atol=1e-6)
    assert not np.asarray(metrics["clipped"]).any()
