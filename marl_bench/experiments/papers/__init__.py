"""Papers: one module each (or one folder), with grid, tables, figures and claims."""

PAPERS = {
    "exploration_collapse": "How Exploration Breaks Cooperation in Shared-Policy MARL (Weng and Lee 2026, arXiv 2601.05509)",
}
"""Names that `marl-bench reproduce` knows, with what they reproduce."""
