"""Particle worlds: physics, scenarios, frozen prey, scripted policies and viewer."""
