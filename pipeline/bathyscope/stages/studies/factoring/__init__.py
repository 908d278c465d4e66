"""Study: do larger models fall apart into more, and more separate, modules?"""
