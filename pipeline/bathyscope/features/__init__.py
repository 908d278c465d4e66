"""Methods that say what a latent responds to: densities, examples, promoted tokens."""
