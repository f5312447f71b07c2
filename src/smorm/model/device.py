"""A torch device by its name."""

import torch

from smorm.errors import ConfigError


def pick_device(name: str, key: str = "device") -> torch.device:
    """The device of that name; `auto` is CUDA where there is one. A `ConfigError` names `key`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # The first sentence; torch goes on with a page about compilation.
        reason = str(error).splitlines()[0].partition(". This could be")[0]
        raise ConfigError(f"{key}: {name!r} cannot be used: {reason}") from error
    return device
