"""Training methods: one class each, registered by name in `smorm.config.METHODS`.

Adding one takes a pure function in `smorm.objectives` and a class here (or, from another package, a
class with the entry point `smorm.methods`): see docs/training.md.
"""

from smorm.config import METHODS
from smorm.training.methods.base import Method, Outputs, make_method, method_class

__all__ = ["METHODS", "Method", "Outputs", "make_method", "method_class"]
