"""Study: is more to be found in larger models, or is there a middle that is read best?"""
