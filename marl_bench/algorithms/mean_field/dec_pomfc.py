"""Decentralised partially observable mean-field control by policy gradients: `dec_pomfc`.

An upper-level policy reads features of the mean field and draws one vector xi, the parameters of a decision rule that all agents then
apply to their own views; it is trained by PPO as the planner of a `MeanFieldMDP`, with one sample for each step of the swarm, whatever
the number of agents. Training is centralised, execution is not: every agent computes the same xi from a plan, the features that the
swarm had in training at that step of an episode, so it needs its view and the time (an open-loop policy; other ways to execute are in
`execution`). Source: Cui et al. 2024 (arXiv 2307.06175) for the idea; everything that is a number here is a reconstruction.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.algorithms import rollout
from marl_bench.algorithms.mean_field import decision_rules, mean_field_mdp
from marl_bench.algorithms.mean_field.decision_rules import DecisionRule
from marl_bench.algorithms.mean_field.mean_field_mdp import MeanFieldMDP
from marl_bench.algorithms.networked import is_discrete
from marl_bench.algorithms.ppo import PPO, PPOState
from marl_bench.environment import Environment, Observation, check_choice, check_integer, check_range, field
from marl_bench.mean_field import KINDS, Features
from marl_bench.scripted import random_policy

LAYOUTS = ("grid", "polar", "samples")
_SAMPLED_STEPS, _SAMPLED_VIEWS = 20, 2048


@struct.dataclass
class DecPOMFCState(PPOState):
    """`PPOState` of the planner; `params` has besides "plan" [T, K] and "rule" (`centres` [M, d], `low` and `high` [D]).

    Attributes:
      kl_weight: [] float32, weight of the divergence now; 0 without one.
    """

    kl_weight: jax.Array


@struct.dataclass
class DecPOMFC(PPO):
    """PPO of a planner that chooses decision rules for a swarm.

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    num_envs: int = field(64, static=True, doc="copies of the swarm stepped side by side [E]")
    num_steps: int = field(100, static=True, doc="steps of each copy between two updates: whole episodes", unit="steps")
    minibatches: int = field(8, static=True, doc="parts of a pass, one gradient step each")
    epochs: int = field(8, static=True, doc="passes over the data of an update")
    normalize_values: bool = field(True, static=True, doc="learn values in units of the running scale of the targets")
    learning_rate: float = field(3e-4, doc="Adam step size")
    entropy_coefficient: float = field(0.0, doc="weight of the entropy bonus [c_e]", unit="1/nat")
    max_grad_norm: float = field(10.0, doc="global L2 norm a gradient is clipped to")
    value_clip: float | None = field(None, doc="clipping of the change of a value; None for none")
    initial_log_std: float = field(-0.5, doc="logarithm of the standard deviation of xi at the start")
    features: str = field("rbf", static=True, doc="what is known of the mean field: rbf (kernel means), hist, none")
    feature_centres: tuple[int, ...] | None = field(
        None,
        static=True,
        doc="kernel centres along each axis of the mean field; 1 leaves it out; None for the world's own",
    )
    feature_bandwidth: float = field(0.5, doc="of these kernels, as a share of their spacing")
    canonical: bool = field(False, static=True, doc="see the mean field from its mean direction")
    time: str = field("none", static=True, doc="appended to the features: none, scalar, one_hot")
    rule: str = field("rbf", static=True, doc="decision rules: rbf (blend of all centres), hist (nearest centre)")
    rule_layout: str = field(
        "grid",
        static=True,
        doc="centres of the rule: grid over [-1, 1]^d, polar (d = 2), samples (clusters of random play)",
    )
    rule_centres: int = field(
        5, static=True, doc="centres of the rule: along each entry of a view (grid), in all (samples); polar has 17"
    )
    rule_bandwidth: float = field(0.5, doc="of the rule's kernels [sigma_Y], as a share of the spacing of its centres")
    mix: str = field("params", static=True, doc="what a rule blends: means and spreads (params), or laws (components)")
    min_std: float = field(1e-3, doc="least standard deviation of an action", unit="action")
    max_std: float = field(0.5, doc="largest one beyond it", unit="action")
    kl_target: float = field(
        0.03,
        doc="with kl_coefficient, its weight grows or falls by half when the divergence leaves [1/2, 2] x this",
        unit="nat",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "features", KINDS)
        check_choice(self, "time", mean_field_mdp.TIMES)
        check_choice(self, "rule", decision_rules.KINDS)
        check_choice(self, "rule_layout", LAYOUTS)
        check_choice(self, "mix", decision_rules.MIXES)
        check_integer(self, "rule_centres", 1)
        if not isinstance(self.canonical, bool):
            raise TypeError(f"canonical={self.canonical!r}: must be True or False (field of DecPOMFC)")
        if self.feature_centres is not None and not (
            isinstance(self.feature_centres, tuple) and all(isinstance(n, int) and n > 0 for n in self.feature_centres)
        ):
            raise TypeError(f"feature_centres={self.feature_centres!r}: must be a tuple of positive integers")
        for name in ("feature_bandwidth", "rule_bandwidth", "kl_target"):
            check_range(self, name, 0.0, open_low=True)
        for name in ("min_std", "max_std"):
            check_range(self, name, 0.0)
        # The planner is one agent and every agent of the swarm applies the same rule.
        for name, only in (
            ("sharing", "shared"),
            ("groups", None),
            ("agent_id", False),
            ("recurrent_size", 0),
            ("channels", ()),
        ):
            if getattr(self, name) != only:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: dec_pomfc has one memoryless rule for all; use {only!r}"
                )

    def validate(self, environment: Environment) -> None:
        """Check that the world is a swarm of a fixed horizon with bounded vector actions, and that rollouts are whole episodes."""
        name = type(environment.unwrapped).__name__
        self._features.validate(environment)
        if is_discrete(environment):
            raise ValueError(
                f"dec_pomfc gives actions that are vectors, those of {name} are numbered; use learner=ippo"
            )
        horizon = environment.fixed_horizon
        if horizon is None or self.num_steps % horizon:
            wanted = "a fixed horizon" if horizon is None else f"num_steps to be a multiple of its horizon, {horizon}"
            raise ValueError(f"num_steps={self.num_steps}: dec_pomfc plans whole episodes; {name} needs {wanted}")
        shape = environment.observation_shape
        if len(shape) != 1 or (self.rule_layout == "polar" and shape != (2,)):
            raise ValueError(f"rule_layout={self.rule_layout!r}: does not fit the views {shape} of {name}")
        if self.rule_layout == "grid" and self.rule_centres ** shape[0] > 10_000:
            raise ValueError(
                f"rule_centres={self.rule_centres}: {self.rule_centres ** shape[0]} centres for the views {shape} of {name}; "
                "use rule_layout=samples"
            )

    # --- the planner's world ---------------------------------------------------------------------

    @property
    def _features(self) -> Features:
        return Features(self.features, self.feature_centres, self.feature_bandwidth, self.canonical)

    def decision_rule(self, rule: dict[str, jax.Array]) -> DecisionRule:
        """The rule whose parameters the planner chooses. `rule`: of `params`."""
        spread = {"grid": 2 / self.rule_centres, "polar": 0.5}.get(self.rule_layout)
        if spread is None:
            gaps = jnp.sum(jnp.square(rule["centres"][:, None] - rule["centres"]), -1)
            gaps += jnp.where(jnp.eye(gaps.shape[0], dtype=bool), jnp.inf, 0.0)
            spread = jnp.maximum(jnp.mean(jnp.sqrt(jnp.min(gaps, axis=1))), 1e-3)
        bandwidth = self.rule_bandwidth * spread
        return DecisionRule(
            **rule, bandwidth=bandwidth, min_std=self.min_std, max_std=self.max_std, kind=self.rule, mix=self.mix
        )

    def mdp(self, params: Any, env: Environment) -> MeanFieldMDP:
        """`env` as its planner sees it. `params`: with "rule"."""
        return MeanFieldMDP(env, self._features, self.decision_rule(params["rule"]), self.time)

    def _centres(self, env: Environment, key: jax.Array) -> jax.Array:
        """[M, d] of the decision rule."""
        (width,) = env.observation_shape
        if self.rule_layout == "polar":
            return jnp.asarray(decision_rules.polar())
        if self.rule_layout == "grid":
            return jnp.asarray(decision_rules.grid(self.rule_centres, width))
        play = random_policy(env)
        state, timestep = env.reset(key)

        def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            state, observation = carry
            state, timestep = env.step(state, play(state, observation, key))
            return (state, timestep.observation), timestep.observation.agents_view

        keys = jax.random.split(key, min(_SAMPLED_STEPS, env.fixed_horizon or _SAMPLED_STEPS))
        _, views = jax.lax.scan(step, (state, timestep.observation), keys)
        views = views.reshape(-1, width)
        chosen = jnp.asarray(np.linspace(0, views.shape[0] - 1, _SAMPLED_VIEWS).astype(np.int32))
        return decision_rules.k_means(views[chosen], self.rule_centres)

    # --- training --------------------------------------------------------------------------------

    def init(self, key: jax.Array, source: Environment) -> DecPOMFCState:
        """Draw networks, the rule's centres and the first state of the swarms."""
        key_planner, key_rule = jax.random.split(key)
        low, high = np.float32(source.action_spec.minimum), np.float32(source.action_spec.maximum)
        width = source.action_spec.shape[-1:]
        rule = {
            "centres": self._centres(source, key_rule),
            "low": jnp.broadcast_to(low if low.ndim == 0 else low[0], width),
            "high": jnp.broadcast_to(high if high.ndim == 0 else high[0], width),
        }
        mdp = self.mdp({"rule": rule}, source)
        state = super().init(key_planner, mdp)
        plan = jnp.zeros((source.fixed_horizon, *mdp.observation_shape))
        weight = jnp.float32(0) if self.kl_coefficient is None else jnp.asarray(self.kl_coefficient, jnp.float32)
        parts = {part.name: getattr(state, part.name) for part in dataclasses.fields(state)}
        parts["params"] = {**state.params, "plan": plan, "rule": rule}
        return DecPOMFCState(**parts, kl_weight=weight)

    def collect(self, state: PPOState, source: Environment, key: jax.Array) -> tuple[rollout.World, rollout.Steps, Any]:
        """As `PPO.collect`, with the mean features of each step of an episode, [T, K], as "plan" among the metrics."""
        world, steps, played = super().collect(state, source, key)
        plan = jnp.mean(steps.view[:, :, 0], axis=1)
        plan = jnp.mean(plan.reshape(-1, source.fixed_horizon, plan.shape[-1]), axis=0)  # pyright: ignore[reportArgumentType]
        return world, steps, {**played, "plan": plan}

    def update(self, state: Any, source: Environment) -> tuple[Any, dict[str, jax.Array]]:
        """One iteration of the planner's PPO; then its plan and the weight of the divergence follow.

        Logs besides `xi_std`, the mean standard deviation of xi along the plan, and `kl_weight`, the weight that was used [1/nat].
        """
        learner = self
        if self.kl_coefficient is not None:
            learner = dataclasses.replace(self, kl_coefficient=state.kl_weight)
        following, metrics = PPO.update(learner, state, self.mdp(state.params, source))
        plan = metrics.pop("plan")
        far, near = metrics["kl"] > 2 * self.kl_target, metrics["kl"] < 0.5 * self.kl_target
        weight = state.kl_weight * jnp.where(far, np.float32(1.5), jnp.where(near, np.float32(0.5), np.float32(1)))
        std = jnp.mean(jnp.exp(self.planner(following.params, plan).log_std))
        following = dataclasses.replace(following, params={**following.params, "plan": plan}, kl_weight=weight)
        return following, {**metrics, "xi_std": std, "kl_weight": state.kl_weight}

    # --- execution -------------------------------------------------------------------------------

    def planner(self, params: Any, view: jax.Array) -> Any:
        """`Normal` law of xi [..., M * D * 2] given what the planner reads [..., K]."""
        actor = jax.tree.map(lambda leaf: leaf[0], params["actor"])
        network = self.actor(view.shape[-1:], 1, 0)
        flat = view.reshape(-1, view.shape[-1])
        _, output = jax.vmap(lambda one: network.apply(actor, jnp.zeros(0), one, jnp.bool_(False)))(flat)
        output = output.reshape(*view.shape[:-1], output.shape[-1])
        return self.policy(actor, output, jnp.zeros((1, 0), bool))

    def initial_memory(self, num_agents: int) -> jax.Array:
        """[N, 0]: the time is part of an observation."""
        return jnp.zeros((num_agents, 0))

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """[N, D] float32: each agent applies the rule of this step of the plan to its own view.

        After the end of the plan its last entry holds. `greedy`: the rule's mean action instead of a draw.
        """
        step = jnp.minimum(observation.step_count, params["plan"].shape[0] - 1)
        xi = self.planner(params, params["plan"][step]).mode()
        return self.apply_rule(params, xi, observation.agents_view, key, greedy), memory

    def apply_rule(
        self, params: Any, xi: jax.Array, view: jax.Array, key: jax.Array, greedy: bool = False
    ) -> jax.Array:
        """[N, D] actions of N agents with views [N, d] under parameters [M * D * 2], or [N, M * D * 2], one for each agent."""
        rule = self.decision_rule(params["rule"])
        if greedy:
            return jnp.clip(rule.mean(xi, view), rule.low, rule.high)
        key_noise, key_choice = jax.random.split(key)
        noise = jax.random.normal(key_noise, (*view.shape[:-1], rule.low.shape[0]))
        return rule.sample(xi, view, noise, jax.random.uniform(key_choice, view.shape[:-1]))
