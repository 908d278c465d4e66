"""How much single nodes, and edges between them, change a metric of the output."""
