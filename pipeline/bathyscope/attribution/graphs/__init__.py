"""Attribution graphs: latents of a whole forward pass and what each gives to each."""
