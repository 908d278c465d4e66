"""Study: what share of its weights, blocks and bits can a model spare?"""
