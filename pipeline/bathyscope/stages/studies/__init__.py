"""Studies of a family of models: which models, what is measured of each, and what follows."""
