"""Study: do models of other sizes, seeds and architectures learn the same latents?"""
