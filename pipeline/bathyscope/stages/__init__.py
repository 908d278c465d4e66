"""One file per verb; each lists units, runs one, and finishes the artifact."""
