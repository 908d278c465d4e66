"""Does a night differ from earlier ones? Sums per document, tests with proved tails, power."""
