"""A forward of one module instance, in place of its class's."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn


class InstanceForward:
    """Calls `function(module, ...)`; a copy of the module runs the copy's weights."""

    def __init__(self, function: Callable[..., Any], module: nn.Module) -> None:
        self.function = function
        # A bound method in the module's own dictionary would be a reference cycle: the weights of a
        # model that is no longer used would stay in memory until the garbage collector runs.
        self._module = weakref.ref(module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of the module."""
        return self.function(self._module(), *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> InstanceForward:
        module: Any = self._module()
        # The memo has the module's copy where the module is what is being copied.
        return InstanceForward(self.function, memo.get(id(module), module))


def set_forward(module: nn.Module, function: Callable[..., Any]) -> None:
    """Let this instance run `function(module, ...)`."""
    module.__dict__["forward"] = InstanceForward(function, module)


def forward_of(module: nn.Module) -> Callable[..., Any] | None:
    """The function that `set_forward` set, or somebody else's forward; None where the class's own
    runs."""
    forward: Callable[..., Any] | None = module.__dict__.get("forward")
    return forward.function if isinstance(forward, InstanceForward) else forward
