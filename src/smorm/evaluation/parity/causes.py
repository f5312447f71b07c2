"""Why a path gives other scores: each usual cause is recognised by what it does to the numbers.
Shapes: M conversations, C scores of each."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from smorm.arrays import Floats
from smorm.evaluation.correlation import spearman
from smorm.evaluation.failures import Cause, CauseKind
from smorm.evaluation.parity.conversations import Conversation
from smorm.evaluation.parity.paths import ScorePath
from smorm.model.export import PlainModel
from smorm.rewards.wires import chat_text
from smorm.text.chat import Renderer

Ids = Sequence[int]

_ASK = "ask for raw scores (problem_type regression in config.json, use_activation false)"
_CLOSE = 1e-3  # how near scores must be to a function of ours to be taken for it


@dataclass(slots=True)
class FailureContext:
    """What is known of a failed path, over the conversations that the gate holds for."""

    path: ScorePath
    allowed: Floats  # the largest difference allowed [C]
    expected_ids: Sequence[Ids]  # our token ids
    same_tokens: bool | None  # whether the path's are the same; None if not known
    constant: float  # the view's constant
    single_passes: bool  # the same kind of path passes with one conversation a batch
    bfloat16: bool
    plain: PlainModel | None  # the target as plain transformers loads it
    # conversations, renderer: what was rendered, and what made `expected_ids` of it
    conversations: Sequence[Conversation]
    renderer: Renderer
    # expected, scores: what was expected and what the path gave [M, C]; None where it gave none
    expected: Floats | None = None
    scores: Floats | None = None
    # the path's token ids; `target_counts` where a server reports only their numbers
    target_ids: Sequence[Ids] | None = None
    target_counts: Sequence[int | None] | None = None
    # scores [M] of each row of our head, for a target that gives one score
    head_rows: Mapping[str, Floats] = field(default_factory=dict)


def likely_causes(context: FailureContext) -> list[Cause]:
    """Likely causes, the surest first; never none."""
    # Differing tokens explain a refusal better than its text does.
    expected, scores = context.expected, context.scores
    if expected is None or scores is None:
        return [_tokens(context) or _no_scores(context.path)]
    if not np.isfinite(scores).all():
        detail = "the scores are not finite: broken weights, or an overflow in this dtype"
        return [Cause(CauseKind.WEIGHTS, detail)]
    recognised = [_pad_token(context), _tokens(context), _activation(expected, scores)]
    recognised += [_shift(context, expected, scores), _exchanged(context, expected, scores)]
    return list(filter(None, recognised)) or [_guess(context, expected, scores)]


def _no_scores(path: ScorePath) -> Cause:
    error = path.error or "it gave no scores"
    if path.cause is CauseKind.PAD_TOKEN:
        error = f"the folder names none, so that nothing can be batched ({error})"
    return Cause(path.cause, error)


def _pad_token(context: FailureContext) -> Cause | None:
    """Plain transformers takes the last token that is not the pad token for the end."""
    plain, ids = context.plain, context.target_ids
    if plain is None or ids is None or context.path.kind not in ("ids", "plain"):
        return None
    # With its pad token at the end, a conversation is one token short for plain transformers.
    pad, tokenizer_pad = plain.pad_id, plain.tokenizer.pad_token_id
    if any(len(sequence) > 0 and sequence[-1] == pad for sequence in ids):
        token = plain.tokenizer.convert_ids_to_tokens(pad)
        detail = (
            f"conversations end with the pad token {token!r}, so that plain transformers reads an "
            "earlier one (transformers#35352): `smorm export` gives another pad token"
        )
        return Cause(CauseKind.PAD_TOKEN, detail)
    if context.path.batch == 1 or tokenizer_pad == pad:
        return None
    detail = f"the tokenizer pads with token {tokenizer_pad}, the config names {pad}"
    return Cause(CauseKind.PAD_TOKEN, detail)


def _tokens(context: FailureContext) -> Cause | None:
    """What is different about the token ids."""
    if context.same_tokens is not False:
        return None
    if context.target_ids is None:
        return _counts(context)
    # The first conversation whose ids differ shows what differs in all of them.
    index = list(map(operator.eq, context.expected_ids, context.target_ids)).index(False)
    ours, theirs = list(context.expected_ids[index]), list(context.target_ids[index])
    detail = _end_tokens(ours, theirs) or _tokenizer_class(context, index)
    return Cause(CauseKind.TOKEN_IDS, detail or _first_difference(context, ours, theirs))


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


def _tokenizer_class(context: FailureContext, index: int) -> str | None:
    """Whether their tokenizer makes other tokens of the text that our template makes."""
    if context.plain is None:
        return None
    tokenizer = context.plain.tokenizer
    # Our text through both tokenizers: if that differs, the template is not to blame.
    text = chat_text(context.renderer, begin=True)(context.conversations[index].messages)
    ours = context.renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
    if ours == tokenizer(text, add_special_tokens=False)["input_ids"]:
        return None
    return (
        f"AutoTokenizer takes the class {type(tokenizer).__name__}, which splits plain text in "
        "another way than the tokenizer that is written down: send token ids, or load it with "
        "PreTrainedTokenizerFast"
    )


def _first_difference(context: FailureContext, ours: list[int], theirs: list[int]) -> str:
    tokenizer = context.renderer.tokenizer
    if context.plain is not None:
        tokenizer = context.plain.tokenizer
    first, shorter = 0, min(len(ours), len(theirs))
    while first < shorter and ours[first] == theirs[first]:
        first += 1
    around = tokenizer.decode(theirs[max(0, first - 4) : first + 4])
    return f"another chat template (first at token {first}, in {around!r})"


def _counts(context: FailureContext) -> Cause:
    pairs = zip(context.expected_ids, context.target_counts or [], strict=True)
    # Of every conversation the same number more or less: a token that is always there.
    more = {count - len(ids) for ids, count in pairs if count is not None}
    detail = "another chat template, tokenizer or truncation"
    if more == {1}:
        detail = "one more in each conversation, most likely a doubled BOS"
    elif more == {-1}:
        detail = "one less in each conversation, most likely the BOS or EOS"
    return Cause(CauseKind.TOKEN_COUNTS, detail)


def _activation(expected: Floats, scores: Floats) -> Cause | None:
    # Clipped, since the exponential of a large negative score overflows.
    if _close(scores, 1 / (1 + np.exp(-np.clip(expected, -500, 500)))):
        return Cause(CauseKind.ACTIVATION, f"the scores are the sigmoid of ours: {_ASK}")
    # Less the largest, which changes no softmax and keeps the exponential finite.
    powers = np.exp(expected - expected.max(axis=1, keepdims=True))
    if _close(scores, powers / powers.sum(axis=1, keepdims=True)):
        of = "of one label, which is always 1" if expected.shape[1] == 1 else "of ours"
        return Cause(CauseKind.ACTIVATION, f"the scores are the softmax {of}: {_ASK}")
    return None


def _close(scores: Floats, values: Floats) -> bool:
    return bool(np.abs(scores - values).max() <= _CLOSE)


def _shift(context: FailureContext, expected: Floats, scores: Floats) -> Cause | None:
    # The median: a few conversations may differ for another reason.
    differences = scores - expected
    shift = np.median(differences, axis=0)
    # Ten times the gate: a shifted score is rounded at another place than ours.
    uneven = (np.abs(differences - shift) > 10 * context.allowed).any()
    if uneven or (np.abs(shift) <= context.allowed).all():
        return None
    amounts = ", ".join(f"{value:+.6g}" for value in shift)
    # A server of ours adds the constant itself, so there a fault takes it away.
    verb, constant = "adds", context.constant
    if context.path.constant:
        verb, constant = "lacks", -context.constant
    if context.constant and (np.abs(shift - constant) <= 10 * context.allowed).all():
        detail = f"all scores are shifted by {amounts}: the target {verb} the view's constant"
    else:
        detail = f"all scores are shifted by the same constant {amounts}: another view's offset"
    return Cause(CauseKind.OFFSET, detail)


def _exchanged(context: FailureContext, expected: Floats, scores: Floats) -> Cause | None:
    """The right numbers of another row, or of another conversation."""
    # Nearly right scores are no others' scores, even where a gate is narrow.
    if (np.abs(scores - expected) <= 10 * context.allowed).all():
        return None
    if expected.shape[1] == 1:
        for name, values in context.head_rows.items():
            if (np.abs(scores[:, 0] - values) <= context.allowed[0]).all():
                return Cause(CauseKind.HEAD, f"these are the scores of the row {name!r}")
    if context.bfloat16:  # its gate is so wide that any score is near some conversation's
        return None
    near = (np.abs(scores[:, None, :] - expected[None, :, :]) <= context.allowed).all(axis=2)
    # Not all of them: a score may come from a conversation that is outside the gate.
    if np.mean(np.any(near, axis=1)) >= 0.8:
        return Cause(CauseKind.ORDER, "the same scores, given to other conversations")
    return None


def _guess(context: FailureContext, expected: Floats, scores: Floats) -> Cause:
    """What it may be, where no cause is certain."""
    if context.single_passes:
        return _only_batches(context.path)
    # The worst of all columns: one wrong row is enough.
    ranks = min(spearman(ours, theirs) for ours, theirs in zip(expected.T, scores.T, strict=True))
    if context.bfloat16 and ranks > 0.9:
        small = "where scores differ little beside their size, rounding to bfloat16 alone does this"
        remedy = "compare in float32, which separates a fault from rounding"
        kind, detail = CauseKind.PRECISION, f"{small}; {remedy}"
    elif not ranks > 0.99:  # NaN too: constant scores have no order
        faults = "another row of the head, another view, or other weights"
        kind, detail = CauseKind.HEAD, f"the order of the scores differs: {faults}"
    elif _is_share(scores) and not _is_share(expected):
        kind, detail = CauseKind.ACTIVATION, f"all scores lie between 0 and 1, ours do not: {_ASK}"
    else:
        order = "the order of the scores is nearly the same, their values are not"
        kind = CauseKind.WEIGHTS_OR_PRECISION
        detail = f"{order}: another dtype, checkpoint or scale"
    return Cause(kind, detail)


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
