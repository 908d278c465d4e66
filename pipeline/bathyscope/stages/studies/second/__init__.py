"""Study: does a dictionary of one model make that of the next one cheaper?"""
