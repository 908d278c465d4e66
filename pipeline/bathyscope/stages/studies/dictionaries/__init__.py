"""Study: do larger models leave more for a dictionary to explain?"""
