"""The version of smorm."""

__version__ = "0.1.0"
