"""Layers' shorter ways: fused where they can be, and the last one for the leaves alone.

Only the hidden state at each sequence's last token is read. So the last layer runs in two parts:
up to its attention call for all rows, to get keys and values, then whole for the leaf rows against
these. This needs no knowledge of the architecture: the attention interface ends the first part by
an exception and gives the second part the captured keys and values. It is exact, and saves nearly
a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from smorm.model.attention import Capture, Captured
from smorm.model.cpu.fuse import can_run, decoder_layers, fusible, run_fused
from smorm.model.cpu.matmul import use_fast_linears, use_plain_linears
from smorm.model.instance_forward import forward_of, set_forward
from smorm.trees.forest import Forest
from smorm.trees.leaves import leaves_of


def shorten(backbone: nn.Module, layers: int, *, fuse: bool, prune: bool) -> None:
    """Set how the backbone's layers run on forests; padded batches pass them as they are.

    Args:
        layers: how many the decoder has.
        fuse: run layers of a known structure as one function (on the CPU), and linear modules
            elsewhere through the faster library (`smorm.model.cpu.matmul`).
        prune: run the last layer for the leaves alone.
    """
    if fuse:
        use_fast_linears(backbone)
    else:
        use_plain_linears(backbone)
    module: Any
    for index, module in enumerate(decoder_layers(backbone, layers)):
        if forward_of(module) not in (None, *_WAYS.values()):
            continue  # someone else's hook: it must go on seeing every call
        module.__dict__.pop("forward", None)
        last = prune and index == layers - 1
        own = fuse and fusible(module)
        if own or last:
            set_forward(module, _WAYS[own, last])


def _shorter(fuse: bool, prune: bool) -> Callable[..., Any]:
    def forward(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        whole = partial(type(self).forward, self)
        forest = kwargs.get("forest")
        if not isinstance(forest, Forest):
            return whole(hidden_states, *args, **kwargs)
        if prune:
            forest.cache["pruned"] = True
        rotary: Any = kwargs.get("position_embeddings")
        if fuse and can_run(self, hidden_states, forest, rotary):
            own = partial(run_fused, self, forest=forest, rotary=rotary, only_leaves=prune)
            if _checkpointed(self) and not prune:
                return self._gradient_checkpointing_func(own, hidden_states)
            return own(hidden_states)
        if prune:
            with _not_checkpointed(self):
                return _leaves_alone(whole, forest, hidden_states, args, kwargs)
        return whole(hidden_states, *args, **kwargs)

    return forward


_WAYS = {(fuse, prune): _shorter(fuse, prune) for fuse in (False, True) for prune in (False, True)}


def _checkpointed(module: Any) -> bool:
    """Whether the class's forward, which a shorter way passes by, would have been checkpointed."""
    asked = getattr(module, "gradient_checkpointing", False) and module.training
    # transformers before 5.20 does it around the call, so around the shorter way as well.
    return bool(asked and type(module).__call__ is nn.Module.__call__)


@contextmanager
def _not_checkpointed(module: Any) -> Iterator[None]:
    """The last layer is not computed again: its backward pass comes first, when memory is least
    needed, and the exception that ends its first part must not be raised once more there."""
    asked = module.__dict__.pop("gradient_checkpointing", None)
    try:
        yield
    finally:
        if asked is not None:
            module.gradient_checkpointing = asked


def _leaves_alone(
    whole: Callable[..., Any],
    forest: Forest,
    hidden: torch.Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    leaves = leaves_of(forest)
    try:
        whole(hidden, *args, **{**kwargs, "forest": Capture(forest)})
    except Captured as captured:
        leaves.cache["keys"] = (captured.key, captured.value)
    else:
        raise RuntimeError("the last layer does not attend through transformers' interface")
    select = partial(_selected, length=forest.num_tokens, rows=leaves.rows)
    try:
        return whole(
            select(hidden),
            *(select(value) for value in args),
            **{name: select(value) for name, value in kwargs.items() if name != "forest"},
            forest=leaves,
        )
    finally:
        del leaves.cache["keys"]


def _selected(value: Any, length: int, rows: torch.Tensor) -> Any:
    """Of a tensor with `length` rows [1, T, ...] the given ones; of a tuple, each of its parts."""
    if isinstance(value, tuple):
        return tuple(_selected(one, length, rows) for one in value)
    if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[1] == length:
        return value.index_select(1, rows)
    return value
