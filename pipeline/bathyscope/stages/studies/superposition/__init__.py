"""Study: do larger models pack more directions into each dimension?"""
