"""Mean-field control: a swarm seen by its planner as one Markov decision process."""
