"""Which parts of a model, and which latents in it, an output comes from; and changing them."""
