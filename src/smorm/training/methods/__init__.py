"""Training methods: one class each, registered in `smorm.config.METHODS`; see docs/training.md."""

from smorm.config import METHODS
from smorm.training.methods.base import Method, Outputs, make_method, method_class

__all__ = ["METHODS", "Method", "Outputs", "make_method", "method_class"]
