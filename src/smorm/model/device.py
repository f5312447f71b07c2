"""Where tensors live: a device by name, or a word on why not."""

from __future__ import annotations

import torch

from smorm.errors import ConfigError


def pick_device(name: str, key: str = "device") -> torch.device:
    """The device of that name; `auto` is CUDA where there is one.

    Raises:
        ConfigError: torch does not know the device, or it is not there; `key` says who asked.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        told = str(error).splitlines()[0].partition(". This could be")[0]
        raise ConfigError(f"{key}: {name!r} cannot be used: {told}") from error
    return device
