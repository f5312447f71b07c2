"""Stand-ins of packages that a client imports always and, here, never calls."""

import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def stand_in(name: str, functions: Iterable[str] = ()) -> None:
    """Put an empty module where `import NAME` finds it; its functions raise."""

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError(f"{name} is not installed")

    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__path__ = []
    for function in functions:
        setattr(module, function, refuse)
    sys.modules[name] = module
