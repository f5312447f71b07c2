"""Why a path gives other scores: the usual causes, each recognised by what it does to the numbers.

Shapes: M conversations, C scores of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smorm.arrays import Floats
from smorm.evaluation.correlation import spearman
from smorm.evaluation.failures import Cause, CauseKind
from smorm.evaluation.parity_paths import Path
from smorm.model.export import PlainModel
from smorm.scoring.protocols import chat_text
from smorm.text.chat import Messages, Renderer

Ids = Sequence[int]

_ASK = "ask for raw scores (problem_type regression in config.json, use_activation false)"
_CLOSE = 1e-3
"""How near scores must be to a function of ours to be taken for it."""


@dataclass(frozen=True, slots=True)
class FailureContext:
    """What is known of a failed path, over the conversations that the gate holds for.

    Attributes:
        scores: what was expected and what was found [M, C]; None where it gave none.
        allowed: the largest difference allowed [C].
        ours, theirs: token ids; `counts` where a server tells only their numbers.
        constant: the view's constant.
        others: scores [M] of each row of our head, for a target that gives one score.
        alone_passes: the same way passes with one conversation a batch.
        half: in bf16.
        plain: the target as plain transformers loads it.
        messages, renderer: the conversations, and what made `ours` of them.
    """

    path: Path
    scores: tuple[Floats, Floats] | None
    allowed: Floats
    ours: Sequence[Ids]
    theirs: Sequence[Ids] | None
    counts: Sequence[int | None] | None
    same_tokens: bool | None
    constant: float
    others: Mapping[str, Floats]
    alone_passes: bool
    half: bool
    plain: PlainModel | None
    messages: Sequence[Messages]
    renderer: Renderer


def causes(scene: FailureContext) -> list[Cause]:
    """Likely causes, the surest first; never none."""
    if scene.scores is None:
        return [_tokens(scene) or _refusal(scene)]
    expected, found = scene.scores
    if not np.isfinite(found).all():
        detail = "the scores are not finite: broken weights, or an overflow in this dtype"
        return [Cause(CauseKind.WEIGHTS, detail)]
    sure = [
        _pad_token(scene),
        _tokens(scene),
        _activation(expected, found),
        _shift(scene, expected, found),
        _mixed_up(scene, expected, found),
    ]
    likely = [cause for cause in sure if cause is not None]
    return likely or [_guess(scene, expected, found)]


def _refusal(scene: FailureContext) -> Cause:
    error = scene.path.error or "it gave no scores"
    if scene.path.kind == "plain" and "pad" in error.lower():
        missing = f"the folder names none, so that nothing can be batched ({error})"
        return Cause(CauseKind.PAD_TOKEN, missing)
    return Cause(scene.path.cause, error)


def _pad_token(scene: FailureContext) -> Cause | None:
    """Plain transformers takes the last token that is not the pad token for the end."""
    if scene.plain is None or scene.theirs is None or scene.path.kind not in ("ids", "plain"):
        return None
    pad = scene.plain.pad_id
    if any(bool(ids) and ids[-1] == pad for ids in scene.theirs):
        token = scene.plain.tokenizer.convert_ids_to_tokens(pad)
        return Cause(
            CauseKind.PAD_TOKEN,
            f"conversations end with the pad token {token!r}, so that plain "
            "transformers reads an earlier one (transformers#35352): `smorm export` gives another "
            "pad token",
        )
    own = scene.plain.tokenizer.pad_token_id
    if scene.path.batch > 1 and own != pad:
        return Cause(
            CauseKind.PAD_TOKEN, f"the tokenizer pads with token {own}, the config names {pad}"
        )
    return None


def _tokens(scene: FailureContext) -> Cause | None:
    """What is different about the token ids."""
    if scene.same_tokens is not False:
        return None
    if scene.theirs is None:
        return _counts(scene)
    pairs = list(zip(map(list, scene.ours), map(list, scene.theirs), strict=True))
    which = next(at for at, (a, b) in enumerate(pairs) if a != b)
    ours, theirs = pairs[which]
    if theirs[1:] == ours and theirs[:1] == ours[:1]:
        return Cause(
            CauseKind.TOKEN_IDS, "a doubled BOS (its template writes one and its tokenizer another)"
        )
    if theirs == ours[1:]:
        return Cause(CauseKind.TOKEN_IDS, "no BOS")
    if theirs == ours[:-1]:
        return Cause(CauseKind.TOKEN_IDS, "the last token (EOS) is missing")
    if theirs[:-1] == ours:
        return Cause(CauseKind.TOKEN_IDS, "one more token (EOS) at the end")
    if scene.plain is not None and _other_class(scene, which):
        kind = type(scene.plain.tokenizer).__name__
        return Cause(
            CauseKind.TOKEN_IDS,
            f"AutoTokenizer takes the class {kind}, which splits plain text in "
            "another way than the tokenizer that is written down: send token ids, or load it with "
            "PreTrainedTokenizerFast",
        )
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
    around = _around(scene, theirs, at)
    return Cause(CauseKind.TOKEN_IDS, f"another chat template (first at token {at}, in {around})")


def _around(scene: FailureContext, ids: Ids, at: int) -> str:
    tokenizer = scene.renderer.tokenizer if scene.plain is None else scene.plain.tokenizer
    return repr(tokenizer.decode(list(ids[max(0, at - 4) : at + 4])))


def _counts(scene: FailureContext) -> Cause:
    pairs = zip(scene.ours, scene.counts or [], strict=True)
    more = {count - len(ids) for ids, count in pairs if count is not None}
    if more == {1}:
        return Cause(
            CauseKind.TOKEN_COUNTS, "one more in each conversation, most likely a doubled BOS"
        )
    if more == {-1}:
        return Cause(
            CauseKind.TOKEN_COUNTS, "one less in each conversation, most likely the BOS or EOS"
        )
    return Cause(CauseKind.TOKEN_COUNTS, "another chat template, tokenizer or truncation")


def _other_class(scene: FailureContext, at: int) -> bool:
    """Whether their tokenizer makes other tokens of the text that our template makes."""
    if scene.plain is None:
        return False
    text = chat_text(scene.renderer, begin=True)(scene.messages[at])
    ours, theirs = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for tokenizer in (scene.renderer.tokenizer, scene.plain.tokenizer)
    )
    return bool(ours != theirs)


def _activation(expected: Floats, found: Floats) -> Cause | None:
    if _near(found, 1 / (1 + np.exp(-np.clip(expected, -500, 500)))):
        return Cause(CauseKind.ACTIVATION, f"the scores are the sigmoid of ours: {_ASK}")
    powers = np.exp(expected - expected.max(axis=1, keepdims=True))
    if _near(found, powers / powers.sum(axis=1, keepdims=True)):
        of_one = " of one label, which is always 1" if expected.shape[1] == 1 else " of ours"
        return Cause(CauseKind.ACTIVATION, f"the scores are the softmax{of_one}: {_ASK}")
    return None


def _near(found: Floats, other: Floats) -> bool:
    return bool(np.abs(found - other).max() <= _CLOSE)


def _shift(scene: FailureContext, expected: Floats, found: Floats) -> Cause | None:
    gaps = found - expected
    middle = np.median(gaps, axis=0)
    if (np.abs(gaps - middle) > 10 * scene.allowed).any() or (
        np.abs(middle) <= scene.allowed
    ).all():
        return None
    told = ", ".join(f"{value:+.6g}" for value in middle)
    constant = -scene.constant if scene.path.constant else scene.constant
    if scene.constant and (np.abs(middle - constant) <= 10 * scene.allowed).all():
        does = "lacks" if scene.path.constant else "adds"
        return Cause(
            CauseKind.OFFSET,
            f"all scores are shifted by {told}: the target {does} the view's constant",
        )
    return Cause(
        CauseKind.OFFSET,
        f"all scores are shifted by the same constant {told}: another view's offset",
    )


def _mixed_up(scene: FailureContext, expected: Floats, found: Floats) -> Cause | None:
    """The right numbers in the wrong places: of another row, or of another conversation."""
    if (np.abs(found - expected) <= 10 * scene.allowed).all():
        return None
    if expected.shape[1] == 1:
        for name, values in scene.others.items():
            if (np.abs(found[:, 0] - values) <= scene.allowed[0]).all():
                return Cause(CauseKind.HEAD, f"these are the scores of the row {name!r}")
    if scene.half:  # so wide a gate that any score is near some other
        return None
    near = (np.abs(found[:, None, :] - expected[None, :, :]) <= scene.allowed).all(axis=2)
    # Not all: a score may come from a conversation that is outside the gate.
    if np.mean(np.any(near, axis=1)) >= 0.8:
        return Cause(CauseKind.ORDER, "the same scores, given to other conversations")
    return None


def _guess(scene: FailureContext, expected: Floats, found: Floats) -> Cause:
    """What it may be, where no cause is certain."""
    if scene.alone_passes:
        return _only_batches(scene)
    ranks = min(spearman(a, b) for a, b in zip(expected.T, found.T, strict=True))
    if scene.half and ranks > 0.9:
        return Cause(
            CauseKind.PRECISION,
            "where scores spread little beside their size, rounding to bfloat16 alone "
            "does this; compare in float32, which tells a fault from rounding",
        )
    if not ranks > 0.99:
        return Cause(
            CauseKind.HEAD,
            "the order of the scores differs: another row of the head, another view, or "
            "other weights",
        )
    if (found >= 0).all() and (found <= 1).all() and not ((expected >= 0) & (expected <= 1)).all():
        return Cause(CauseKind.ACTIVATION, f"all scores lie between 0 and 1, ours do not: {_ASK}")
    return Cause(
        CauseKind.WEIGHTS_OR_PRECISION,
        "the order of the scores is nearly the same, their values are not: "
        "another dtype, checkpoint or scale",
    )


def _only_batches(scene: FailureContext) -> Cause:
    """Alone a conversation's score is right, with neighbours it is not."""
    if scene.path.side == "left":
        return Cause(CauseKind.PADDING, "only batches padded on the left differ: pad on the right")
    if scene.path.kind == "server":
        return Cause(
            CauseKind.BATCHING,
            "only conversations with neighbours differ: the server's padding or pooling",
        )
    return Cause(
        CauseKind.PADDING,
        "only batches differ: the pad token, its attention mask or the padding side",
    )
