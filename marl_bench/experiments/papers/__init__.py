"""Papers and tables of baselines: one module each, with grid, tables, figures and claims."""

PAPERS = {
    "exploration_collapse": "How Exploration Breaks Cooperation in Shared-Policy MARL (Weng and Lee 2026, arXiv 2601.05509)",
    "matrix_baselines": "Cooperative matrix games and the two-step game: which learner represents what",
    "foraging_baselines": "Level-based foraging: iql, vdn, qmix, ippo and mappo in four tasks",
    "social_dilemmas": "Coin game, cleanup, harvest and games in the matrix: shared against independent ippo",
    "particle_baselines": "Spread, tag and speaker-listener: seven learners",
    "cfcql": "Counterfactual conservative Q-learning from recorded data (Shao et al. 2023, arXiv 2309.12696)",
    "dec_pomfc": "Mean-field control of swarms (Cui et al. 2024, arXiv 2307.06175; a reconstruction)",
}
"""Names that `marl-bench reproduce` knows, with what they reproduce."""
