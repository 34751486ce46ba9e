"""From stored results to tables, figures and verdicts; imports no JAX."""
