"""The coin game with two coins against JaxMARL's: states injected, every step compared. Needs the extra `jaxmarl`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_bench.envs.coin_game.coin_game import CoinGame, State

pytest.importorskip("jaxmarl")
STEPS, GAMES = 64, 256


@pytest.mark.parametrize("view", ["absolute", "egocentric"])
def test_every_step_equals_jaxmarls(view):
    from jaxmarl.environments.coin_game.coin_game import CoinGame as Peer

    env = CoinGame(view=view, horizon=10 * STEPS)
    peer = Peer(num_inner_steps=10 * STEPS, num_outer_steps=1, cnn=True, egocentric=view == "egocentric")

    def injected(theirs) -> State:
        places = [theirs.red_pos, theirs.blue_pos, theirs.red_coin_pos, theirs.blue_coin_pos]
        row, col = (
            jnp.stack([p[0] for p in places]).astype(jnp.int8),
            jnp.stack([p[1] for p in places]).astype(jnp.int8),
        )
        return State(row[:2], col[:2], row[2:], col[2:], jnp.int8([0, 1]), jax.random.key(1), theirs.step)

    def one(theirs, inputs):
        key, actions = inputs
        ours, timestep = env.step(injected(theirs), actions)
        # Where nothing is collected the coins must agree too; a collected coin is drawn by each side for itself.
        view_now, after, reward, _, _ = peer.step_env(key, theirs, {"0": actions[0], "1": actions[1]})
        mine = injected(after)
        still = (ours.coin_row == mine.coin_row) & (ours.coin_col == mine.coin_col)
        same = jnp.all(ours.row == mine.row) & jnp.all(ours.col == mine.col)
        taken = jnp.stack([jnp.any((mine.row == injected(theirs).coin_row[c]) & (mine.col == injected(theirs).coin_col[c]))
                           for c in range(2)])  # fmt: skip
        observation = env._observation(mine).agents_view
        views = jnp.all(observation == jnp.stack([view_now["0"], view_now["1"]]).astype(jnp.uint8))
        rewards = jnp.stack([reward["0"], reward["1"]])
        return after, (same & jnp.all(still | taken) & views, timestep.reward, rewards, taken)

    @jax.jit
    @jax.vmap
    def play(key):
        key_start, key_actions, key_steps = jax.random.split(key, 3)
        actions = jax.random.randint(key_actions, (STEPS, 2), 0, 5)
        _, theirs = peer.reset(key_start)
        return jax.lax.scan(one, theirs, (jax.random.split(key_steps, STEPS), actions))[1]

    same, ours, theirs, taken = play(jax.random.split(jax.random.key(0), GAMES))
    assert np.asarray(same).all()
    np.testing.assert_array_equal(ours, theirs)
    # Every pair of rewards that the rules allow has occurred.
    seen = {tuple(pair) for pair in np.asarray(ours).reshape(-1, 2).tolist()}
    assert seen >= {(0, 0), (1, 0), (0, 1), (1, 1), (1, -2), (-2, 1), (-1, -1), (-1, 1), (1, -1), (2, -2), (-2, 2)}
    assert np.asarray(taken).any(axis=(0, 1)).all()
