"""Train, check, attack and serve reward models that resist reward hacking."""

__version__ = "0.1.0"
