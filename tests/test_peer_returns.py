"""Returns beside the peer's loop: both sides are judged alike."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jaxmarl")

from marl_bench.experiments import peer_returns


@pytest.mark.slow
def test_both_sides_begin_at_the_return_of_random_play():
    """After two updates: -27.6 in JaxMARL's rules (specification: sd of an episode 8.3, an agent's)."""
    found = peer_returns.compare(steps=4096, seeds=2)
    assert found["steps"] == 4096
    for side in ("ours", "peer"):
        assert len(found[side]["returns"]) == 2
        np.testing.assert_allclose(found[side]["returns"], -27.6, atol=2.5)
        low, high = found[side]["mean"][1:]
        assert low <= found[side]["mean"][0] <= high
    low, high = found["ours_minus_peer"][1:]
    assert low <= found["ours"]["mean"][0] - found["peer"]["mean"][0] <= high
