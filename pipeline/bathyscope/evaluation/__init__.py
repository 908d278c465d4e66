"""Methods that measure a dictionary inside its model."""
