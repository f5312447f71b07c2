"""Why a path gives other scores: each usual cause is recognised by what it does to the numbers.
Shapes: M conversations, those that the gate holds for; C scores of each."""

import operator
from collections.abc import Sequence
from itertools import compress

import numpy as np

from smorm.arrays import Bools, Floats
from smorm.client.wires import chat_text
from smorm.evaluation.correlation import spearman
from smorm.evaluation.parity.paths import Comparison, PathResult, ScorePath
from smorm.evaluation.result import Cause, CauseKind
from smorm.model.export import RANDOM_BIAS_IN_SGLANG, PlainModel

_ASK = "ask for raw scores (problem_type regression in config.json, use_activation false)"
_CLOSE = 1e-3  # how near scores must be to a function of ours to be taken for it


def likely_causes(
    comparison: Comparison, result: PathResult, results: Sequence[PathResult]
) -> list[Cause]:
    """Likely causes of a path's failure, given the results of all paths; the surest first, never
    none."""
    path, gated = result.path, comparison.gated(result.path)
    refused = [_refused(comparison, path)] if path.refused else []
    if refused and (result.agrees or (path.rows is None and path.error is None)):
        return refused
    # Differing tokens explain a refusal better than its text does.
    tokens = _tokens(comparison, path, gated) if result.same_tokens is False else None
    if path.rows is None:
        error = path.error or "it gave no scores"
        # Of a head that it cannot read, tokens say nothing.
        if path.cause is CauseKind.HEAD:
            return [Cause(path.cause, error)]
        if path.cause is CauseKind.PAD_TOKEN:
            error = f"the folder names none, so that nothing can be batched ({error})"
        return [tokens or Cause(path.cause, error)]
    expected, scores = comparison.values(path)
    expected, scores = expected[gated], scores[gated]
    if not np.isfinite(scores).all():
        detail = "the scores are not finite: broken weights, or an overflow in this dtype"
        return [Cause(CauseKind.WEIGHTS, detail)]
    padding = None
    if comparison.plain is not None and path.kind in ("ids", "plain", "client"):
        ids = list(compress(path.tokens or [], gated))
        padding = pad_token(comparison.plain, ids, path.batch)
    recognised = [*refused, padding, tokens, _activation(expected, scores)]
    recognised.append(_shift(comparison, path, expected, scores))
    recognised.append(_exchanged(comparison, gated, expected, scores))
    if causes := list(filter(None, recognised)):
        return causes
    singles = set()
    for single in results:
        if single.path.kind == path.kind and single.path.batch == 1:
            singles.add(single.passed)
    if path.batch > 1 and singles == {True}:
        return [_only_batches(path)]
    return [_guess(comparison, expected, scores)]


def pad_token(plain: PlainModel, ids: Sequence[Sequence[int]], batch: int) -> Cause | None:
    """Whether plain transformers, which takes the last token that is not the pad token for the end,
    reads another one of these conversations, or pads batches with another token than it skips."""
    pad, tokenizer = plain.pad_id, plain.tokenizer
    # The first suspect: pad = EOS is the usual default, and silent.
    if any(len(sequence) > 0 and sequence[-1] == pad for sequence in ids):
        name = repr(tokenizer.convert_ids_to_tokens(pad))
        if pad == tokenizer.eos_token_id:
            name += ", which is also the EOS"
        detail = (
            f"conversations end with the pad token {name}, so that plain transformers reads an "
            "earlier one (transformers#35352): `smorm export` gives another pad token"
        )
        return Cause(CauseKind.PAD_TOKEN, detail)
    if batch == 1 or tokenizer.pad_token_id == pad:
        return None
    detail = f"the tokenizer pads with token {tokenizer.pad_token_id}, the config names {pad}"
    return Cause(CauseKind.PAD_TOKEN, detail)


def _refused(comparison: Comparison, path: ScorePath) -> Cause:
    """Which conversations a server refused, and in its words why it refused the first of them."""
    refused, first = sorted(path.refused), min(path.refused)
    requested = len(comparison.ours.conversations) - len(path.unsent)
    detail = f"{len(refused)} of {requested} conversations: {path.refused[first]}"
    lengths = np.array(list(map(len, comparison.ours.ids)))
    scored = lengths[comparison.scored(path)]
    # Two at least: one alone is always shorter or longer than all others.
    if len(scored) > 1 and lengths[refused].min() > scored.max():
        detail += (
            f" (the longest ones: it takes {scored.max():,} tokens, and not "
            f"{lengths[refused].min():,}; vLLM's --max-model-len, SGLang's --context-length)"
        )
    return Cause(CauseKind.REFUSED, detail)


def _tokens(comparison: Comparison, path: ScorePath, gated: Bools) -> Cause:
    expected = list(compress(comparison.ours.ids, gated))
    if path.tokens is not None:
        # The first conversation whose ids differ shows what differs in all of them.
        differs = list(map(operator.ne, expected, compress(path.tokens, gated))).index(True)
        ours, index = expected[differs], int(np.flatnonzero(gated)[differs])
        theirs = path.tokens[index]
        messages = comparison.ours.conversations[index].messages
        # Where transformers makes our ids, it is what the client does that makes others.
        by_client = False
        if path.remedy and comparison.plain is not None:
            by_client = comparison.plain.tokens(messages) == ours
        tokenizer = (comparison.plain or comparison.ours.model.renderer).tokenizer
        detail = _end_tokens(ours, theirs)
        if by_client and ours[: len(theirs)] == theirs:
            left_out = tokenizer.decode(ours[len(theirs) :])
            detail = f"it ends before {left_out!r}, which the template writes last"
        detail = detail or _tokenizer_class(comparison, index)
        if detail is None:
            # One may only be longer than the other.
            first = [*map(operator.ne, ours, theirs), True].index(True)
            around = tokenizer.decode(theirs[max(0, first - 4) : first + 4])
            detail = f"another chat template (first at token {first}, in {around!r})"
        if by_client:
            detail += f": {path.remedy}"
        return Cause(CauseKind.TOKEN_IDS, detail)
    pairs = zip(expected, compress(path.counts or [], gated), strict=True)
    # Of every conversation the same number more or less: a token that is always there.
    more = {count - len(ids) for ids, count in pairs if count is not None}
    if path.sends_ids:
        detail = "the server adds or cuts tokens of the ids that it was sent"
        return Cause(CauseKind.TOKEN_COUNTS, detail)
    detail = "another chat template, tokenizer or truncation"
    if more == {1}:
        detail = "one more in each conversation, most likely a doubled BOS"
    elif more == {-1}:
        detail = "one less in each conversation, most likely the BOS or EOS"
    return Cause(CauseKind.TOKEN_COUNTS, detail)


def _end_tokens(ours: list[int], theirs: list[int]) -> str | None:
    """What the target adds or lacks at either end, if that is all."""
    if theirs[1:] == ours and theirs[:1] == ours[:1]:
        return "a doubled BOS (its template writes one and its tokenizer another)"
    if theirs == ours[1:]:
        return "no BOS"
    if theirs == ours[:-1]:
        return "the last token (EOS) is missing"
    if theirs[:-1] == ours:
        return "one more token (EOS) at the end"
    return None


def _tokenizer_class(comparison: Comparison, index: int) -> str | None:
    """Whether their tokenizer makes other tokens of the text that our template makes."""
    if comparison.plain is None:
        return None
    tokenizer, renderer = comparison.plain.tokenizer, comparison.ours.model.renderer
    # Our text through both tokenizers: if that differs, the template is not to blame.
    text = chat_text(renderer, begin=True)(comparison.ours.conversations[index].messages)
    ours = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
    if ours == tokenizer(text, add_special_tokens=False)["input_ids"]:
        return None
    return (
        f"AutoTokenizer takes the class {type(tokenizer).__name__}, which splits plain text in "
        "another way than the tokenizer that is written down: send token ids, or load it with "
        "PreTrainedTokenizerFast"
    )


def _activation(expected: Floats, scores: Floats) -> Cause | None:
    # Clipped, since the exponential of a large negative score overflows.
    sigmoid = 1 / (1 + np.exp(-np.clip(expected, -500, 500)))
    if np.allclose(scores, sigmoid, rtol=0.0, atol=_CLOSE):
        return Cause(CauseKind.ACTIVATION, f"the scores are the sigmoid of ours: {_ASK}")
    # Less the largest, which changes no softmax and keeps the exponential finite.
    powers = np.exp(expected - expected.max(axis=1, keepdims=True))
    softmax = powers / powers.sum(axis=1, keepdims=True)
    if np.allclose(scores, softmax, rtol=0.0, atol=_CLOSE):
        of = "of one label, which is always 1" if expected.shape[1] == 1 else "of ours"
        return Cause(CauseKind.ACTIVATION, f"the scores are the softmax {of}: {_ASK}")
    return None


def _shift(
    comparison: Comparison, path: ScorePath, expected: Floats, scores: Floats
) -> Cause | None:
    # The median: a few conversations may differ for another reason.
    differences, allowed = scores - expected, comparison.allowed
    shift = np.median(differences, axis=0)
    # Ten times the gate: a shifted score is rounded at another place than ours.
    uneven = (np.abs(differences - shift) > 10 * allowed).any()
    if uneven or (np.abs(shift) <= allowed).all():
        return None
    amounts = ", ".join(f"{value:+.6g}" for value in shift)
    # A server of ours adds the constant itself, so there a fault takes it away.
    verb, constant = "adds", comparison.constant
    if path.constant:
        verb, constant = "lacks", -constant
    if constant and (np.abs(shift - constant) <= 10 * allowed).all():
        detail = f"all scores are shifted by {amounts}: the target {verb} the view's constant"
    else:
        detail = f"all scores are shifted by the same constant {amounts}: another view's offset"
    kind = comparison.ours.model.network.backbone.config.model_type
    if path.name.startswith("sglang") and kind in RANDOM_BIAS_IN_SGLANG:
        detail += (
            f". SGLang draws a `score.bias` of {kind} at random at each start (sglang#38768): its "
            "rewards have an offset that is another one in each replica, and of each row"
        )
    return Cause(CauseKind.OFFSET, detail)


def _exchanged(
    comparison: Comparison, gated: Bools, expected: Floats, scores: Floats
) -> Cause | None:
    """The right numbers of another row, or of another conversation."""
    ours, allowed = comparison.ours, comparison.allowed
    # Nearly right scores are no others' scores, even where a gate is narrow.
    if (np.abs(scores - expected) <= 10 * allowed).all():
        return None
    # A target that gives all rows is compared row by row: no row can stand for another.
    if comparison.view is not None and expected.shape[1] == 1:
        rows = comparison.reference[gated].T
        for name, values in zip(ours.model.card.rows, rows, strict=True):
            if (np.abs(scores[:, 0] - values) <= allowed[0]).all():
                return Cause(CauseKind.HEAD, f"these are the scores of the row {name!r}")
    if ours.dtype != "float32":  # its gate is so wide that any score is near some conversation's
        return None
    near = (np.abs(scores[:, None, :] - expected[None, :, :]) <= allowed).all(axis=2)
    # Not all of them: a score may come from a conversation that is outside the gate.
    if np.mean(np.any(near, axis=1)) >= 0.8:
        return Cause(CauseKind.ORDER, "the same scores, given to other conversations")
    return None


def _guess(comparison: Comparison, expected: Floats, scores: Floats) -> Cause:
    # The worst of all columns: one wrong row is enough.
    ranks = min(map(spearman, expected.T, scores.T))
    if comparison.ours.dtype != "float32" and ranks > 0.9:
        small = "where scores differ little beside their size, rounding to bfloat16 alone does this"
        remedy = "compare in float32, which separates a fault from rounding"
        return Cause(CauseKind.PRECISION, f"{small}; {remedy}")
    if not ranks > 0.99:  # NaN too: constant scores have no order
        faults = "another row of the head, another view, or other weights"
        return Cause(CauseKind.HEAD, f"the order of the scores differs: {faults}")
    if _is_share(scores) and not _is_share(expected):
        detail = f"all scores lie between 0 and 1, ours do not: {_ASK}"
        return Cause(CauseKind.ACTIVATION, detail)
    order = "the order of the scores is nearly the same, their values are not"
    detail = f"{order}: another dtype, checkpoint or scale"
    return Cause(CauseKind.WEIGHTS_OR_PRECISION, detail)


def _is_share(scores: Floats) -> bool:
    return bool(((scores >= 0) & (scores <= 1)).all())


def _only_batches(path: ScorePath) -> Cause:
    """Alone a conversation's score is right, with neighbours it is not."""
    if path.side == "left":
        return Cause(CauseKind.PADDING, "only batches padded on the left differ: pad on the right")
    if path.kind == "server":
        detail = "only conversations with neighbours differ: the server's padding or pooling"
        return Cause(CauseKind.BATCHING, detail)
    detail = "only batches differ: the pad token, its attention mask or the padding side"
    return Cause(CauseKind.PADDING, detail)
