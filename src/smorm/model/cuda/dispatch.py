"""Forest attention on CUDA: the first kernel that can take a call, and what is said where not.

Order: variable-length flash attention (half precision), FlexAttention (fp32, soft-capping), and the
plain gathered products, which take anything and are slow.

Shapes: T packed tokens, H query heads, G key heads, D head size.
"""

from __future__ import annotations

import logging

import torch

from smorm.model.cuda import varlen as varlen_kernel
from smorm.model.cuda.flex import flex
from smorm.model.cuda.varlen import varlen
from smorm.model.gathered import gathered
from smorm.trees.forest import Forest
from smorm.trees.leaves import Leaves

log = logging.getLogger(__name__)
_refused: dict[str, str] = {}
"""Kernels that failed in this process, and why: they are not tried again."""


def attend(
    backend: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest | Leaves,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D], by `varlen` or `flex`.

    A kernel that is not there, or that cannot be compiled, is passed over; a warning says so once.

    Raises:
        torch.OutOfMemoryError: there is no kernel that needs less.
    """
    if backend == "varlen":
        reason = varlen_kernel.unfit(query)
        if reason is None:
            return varlen(query, key, value, forest, scale, window)
        refuse("varlen", reason, "FlexAttention")
    if isinstance(forest, Leaves):  # some dozens of rows, once a pass
        return gathered(query, key, value, forest, scale, window, softcap)
    if "flex" not in _refused:
        try:
            return flex(query, key, value, forest, scale, window, softcap)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ImportError, NotImplementedError) as error:  # dynamo's are the first
            refuse("flex", str(error).strip().splitlines()[0][:200], "plain products, slowly")
    return gathered(query, key, value, forest, scale, window, softcap)


def refuse(kernel: str, reason: str, instead: str) -> None:
    """Say once per kernel and reason that another is used."""
    if _refused.get(kernel) != reason:
        log.warning("attention kernel %s is passed over (%s): using %s", kernel, reason, instead)
        _refused[kernel] = reason
