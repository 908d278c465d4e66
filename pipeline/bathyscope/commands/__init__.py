"""What is not a stage: run, plan."""
