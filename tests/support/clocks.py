"""Clocks that tests move."""


class Clock:
    """Seconds that stand still until they are moved."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now
