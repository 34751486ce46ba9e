"""The coin game on a torus: rules, environment, scripted policies and viewer."""
