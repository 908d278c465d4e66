"""What studies of a family of models measure and fit: pure functions, each with its source."""
