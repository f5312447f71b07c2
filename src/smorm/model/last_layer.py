"""Faster ways through decoder layers: fused where possible, and the last one for the leaves alone.

Only the hidden state at each sequence's last token is read, so the last layer needs queries, output
projection and feed-forward pass of the leaf rows alone. This is exact, and saves nearly a layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from smorm.model.attention import AttentionPlan, Capture, Captured, LeafQueries
from smorm.model.cpu.fuse import can_run, decoder_layers, fusible, run_fused
from smorm.model.cpu.matmul import forward_of, set_forward, use_fast_linears, use_plain_linears
from smorm.trees.forest import Leaves


def set_layer_forwards(backbone: nn.Module, layers: int, *, fuse: bool, prune: bool) -> None:
    """Choose how the backbone's `layers` run on forests; padded batches run as transformers does.
    `fuse` runs layers of a known structure as one function (on the CPU), and linear modules
    elsewhere through the faster library. `prune` runs the last layer for the leaves alone."""
    if fuse:
        use_fast_linears(backbone)
    else:
        use_plain_linears(backbone)
    module: Any
    for index, module in enumerate(decoder_layers(backbone, layers)):
        if forward_of(module) not in (None, *_FORWARDS.values()):
            continue  # someone else's hook: it must go on seeing every call
        # First as the class has it, since another choice may have been set before.
        module.__dict__.pop("forward", None)
        fused = fuse and fusible(module)
        pruned = prune and index == layers - 1
        if fused or pruned:
            set_forward(module, _FORWARDS[fused, pruned])


def _make_forward(fuse: bool, prune: bool) -> Callable[..., Any]:
    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        usual = partial(type(self).forward, self)
        plan = kwargs.get("plan")
        if not isinstance(plan, AttentionPlan):
            return usual(hidden_states, *args, **kwargs)
        rotary: Any = kwargs.get("position_embeddings")
        if fuse and can_run(self, hidden_states, plan, rotary):
            fused = partial(run_fused, self, plan=plan, rotary=rotary, only_leaves=prune)
            # Would the class's forward, which ours replaces, have been checkpointed? transformers
            # before 5.20 does it around the call, so around our forward as well.
            enabled = getattr(self, "gradient_checkpointing", False) and self.training
            if enabled and type(self).__call__ is nn.Module.__call__ and not prune:
                return self._gradient_checkpointing_func(fused, hidden_states)
            return fused(hidden_states)
        if prune:
            with _not_checkpointed(self):
                return _run_for_leaves(usual, plan, hidden_states, args, kwargs)
        return usual(hidden_states, *args, **kwargs)

    return forward


# One function per combination, so that `set_layer_forwards` knows its own from other people's.
_FORWARDS = {
    (fuse, prune): _make_forward(fuse, prune) for fuse in (False, True) for prune in (False, True)
}


@contextmanager
def _not_checkpointed(module: Any) -> Iterator[None]:
    """Compute the last layer without recomputing it in the backward pass."""
    # Its backward pass comes first, when memory is least needed, and the exception that ends its
    # first step must not be raised once more there.
    enabled = module.__dict__.pop("gradient_checkpointing", None)
    try:
        yield
    finally:
        if enabled is not None:
            module.gradient_checkpointing = enabled


def _run_for_leaves(
    usual: Callable[..., Any],
    plan: AttentionPlan,
    hidden: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    # Two steps, which need no knowledge of the architecture: up to the attention call for all rows,
    # where the interface captures keys and values and ends the layer by an exception; then the
    # layer in full for the leaf rows against these.
    try:
        usual(hidden, *args, **{**kwargs, "plan": Capture(plan)})
    except Captured as captured:
        queries = LeafQueries(plan.leaves, captured.key, captured.value)
    else:
        raise RuntimeError("the last layer does not attend through transformers' interface")
    leaves = plan.leaves.batch
    assert isinstance(leaves, Leaves)
    # Whatever has a row per token (positions, rotary embeddings, masks) gets the leaves' rows.
    select = partial(_select_rows, length=plan.batch.num_tokens, rows=leaves.rows)
    options = {name: select(value) for name, value in kwargs.items() if name != "plan"}
    return usual(select(hidden), *map(select, args), **options, plan=queries)


def _select_rows(value: Any, length: int, rows: Tensor) -> Any:
    """The rows of a tensor that has `length` of them [1, T, ...]; of a tuple, of each element."""
    if isinstance(value, tuple):
        return tuple(_select_rows(element, length, rows) for element in value)
    if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == length:
        return value.index_select(1, rows)
    return value
