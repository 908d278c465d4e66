"""Forward passes and generation with latents, heads, MLPs or positions changed."""
