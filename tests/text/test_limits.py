"""Over-long conversations: the prompt gives way, the response never, and nothing is silent."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.errors import DataError, OverLimitError, UnboundedError
from smorm.text.chat import Message, Messages, Renderer
from smorm.text.limits import UnscoredReason, fit

from .styles import STYLES, data_folder, shared, stories

WORDS = ["river", "the", "bridge", "story ", "42", "你好", "🙂", "\n", "<|im_end|>", "</s>", "a+b"]
RENDERERS = {style: Renderer(shared(style)) for style in STYLES}
prose = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)


def answer(text: str) -> Messages:
    return (Message("assistant", text),)


def longer_prompt(style: str, texts: list[str]) -> Messages:
    """Alternating turns that end with the user's, after a system message where one may be."""
    head = (Message("system", texts[0]),) if style != "gemma" else ()
    turns = texts[1:] if len(texts) % 2 == 0 else texts[:-1] if len(texts) > 1 else texts
    turns = turns if len(turns) % 2 else turns[:-1] or ["hi"]
    roles = ("user", "assistant")
    return head + tuple(Message(roles[i % 2], text) for i, text in enumerate(turns))


def common_suffix(left: list[int], right: list[int]) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[-1 - count] == right[-1 - count]:
        count += 1
    return count


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
@given(
    texts=st.lists(prose, min_size=2, max_size=5),
    responses=st.lists(prose.filter(lambda t: bool(t.strip())), min_size=1, max_size=4),
    limit=st.integers(20, 200),
)
@settings(max_examples=40, deadline=None)
def test_what_fits_is_within_the_limit_and_keeps_its_roles_and_responses(
    style: str, texts: list[str], responses: list[str], limit: int
) -> None:
    renderer, prompt = RENDERERS[style], longer_prompt(style, texts)
    answers = [answer(text) for text in responses]
    whole = [renderer.render(prompt + response) for response in answers]
    fitted = fit(renderer, prompt, answers, limit, "truncate_prompt")
    empty = tuple(Message(message.role, "") for message in prompt)
    shortest = max(len(renderer.render(empty + response)) for response in answers)
    if fitted.tokens is None:
        assert (fitted.dropped, fitted.prompt) == (UnscoredReason.RESPONSE_TOO_LONG, prompt)
        assert shortest > limit
        return
    assert all(len(tokens) <= limit for tokens in fitted.tokens)
    assert fitted.tokens == [renderer.render(fitted.prompt + response) for response in answers]
    assert [m.role for m in fitted.prompt] == [m.role for m in prompt]
    for old, new in zip(prompt, fitted.prompt, strict=True):
        assert old.content.endswith(new.content)
    assert fitted.truncated == (max(map(len, whole)) > limit)
    if not fitted.truncated:
        assert fitted.tokens == whole
        assert fitted.prompt == prompt
    bare = [renderer.render(empty + response) for response in answers]
    alone = renderer.render(empty + answer("Q"))
    for before, after, lone in zip(whole, fitted.tokens, bare, strict=True):
        header = next(i for i, (a, b) in enumerate(zip(lone, alone, strict=False)) if a != b)
        assert common_suffix(before, after) >= len(lone) - header


LONG = " ".join(["the quick brown fox jumps over the lazy dog"] * 40)


@pytest.mark.parametrize("style", STYLES)
def test_no_more_is_taken_than_needed(style: str) -> None:
    renderer, answers = RENDERERS[style], [answer("Yes, of course."), answer("No.")]
    whole = len(renderer.render((Message("user", LONG), *answers[0])))
    for limit in range(whole - 60, whole):
        fitted = fit(renderer, (Message("user", LONG),), answers, limit, "truncate_prompt")
        assert fitted.truncated
        assert fitted.tokens is not None
        assert limit - 3 <= len(fitted.tokens[0]) <= limit


class Counting(Renderer):
    """A real renderer that counts its calls."""

    calls = 0

    def render(self, messages: Messages) -> list[int]:  # type: ignore[override]
        self.calls += 1
        return super().render(messages)


@pytest.mark.parametrize("style", STYLES)
def test_a_record_is_rendered_about_four_times_at_most(style: str) -> None:
    prompt = (Message("user", LONG), Message("assistant", LONG), Message("user", "why? " + LONG))
    counts = []
    for limit in range(60, 600, 20):
        renderer = Counting(shared(style))
        assert fit(renderer, prompt, [answer("Yes.")], limit, "truncate_prompt").tokens
        counts.append(renderer.calls)
    assert max(counts) <= 5
    assert sum(counts) / len(counts) <= 4


def test_the_oldest_turn_goes_first_and_the_system_message_last() -> None:
    renderer = RENDERERS["chatml"]
    prompt = (
        Message("system", "Be kind and brief."),
        Message("user", LONG),
        Message("assistant", LONG),
        Message("user", "why " + LONG),
    )
    sizes = []
    empty = tuple(Message(message.role, "") for message in prompt)
    least = len(renderer.render(empty + answer("Yes.")))
    for limit in (1200, 800, 400, 60, least + 2):
        fitted = fit(renderer, prompt, [answer("Yes.")], limit, "truncate_prompt")
        assert fitted.truncated
        sizes.append([len(message.content) for message in fitted.prompt])
    full = [len(message.content) for message in prompt]
    for size in sizes:
        touched = [i for i in (1, 2, 3, 0) if size[i] < full[i]]
        assert touched == [1, 2, 3, 0][: len(touched)]
        assert all(size[i] == 0 for i in touched[:-1])
    assert sizes[0][0] == full[0]
    assert sizes[-1][0] < full[0]


def test_empty_messages_in_the_prompt_do_not_stop_the_cutting() -> None:
    prompt = (Message("user", ""), Message("assistant", ""), Message("user", LONG))
    whole = len(RENDERERS["chatml"].render(prompt + answer("Yes.")))
    fitted = fit(RENDERERS["chatml"], prompt, [answer("Yes.")], whole - 1, "truncate_prompt")
    assert fitted.truncated
    assert fitted.tokens


@pytest.mark.parametrize("policy", ["error", "drop", "truncate_prompt"])
def test_what_fits_is_left_alone_under_every_policy(policy: str) -> None:
    renderer, prompt = RENDERERS["llama3"], (Message("user", "Hello there"),)
    whole = renderer.render(prompt + answer("Hi."))
    fitted = fit(renderer, prompt, [answer("Hi.")], len(whole), policy)
    assert (fitted.tokens, fitted.truncated, fitted.dropped) == ([whole], False, None)


def test_an_error_names_the_tokens_and_the_limit() -> None:
    prompt = (Message("user", LONG),)
    tokens = len(RENDERERS["chatml"].render(prompt + answer("Hi.")))
    with pytest.raises(DataError, match=rf"has {tokens} tokens and the limit is 50"):
        fit(RENDERERS["chatml"], prompt, [answer("Hi.")], 50, "error")


def test_a_dropped_record_says_why() -> None:
    renderer, prompt = RENDERERS["chatml"], (Message("user", "Hi"),)
    assert fit(renderer, prompt, [answer(LONG)], 50, "drop").dropped == UnscoredReason.TOO_LONG
    fitted = fit(renderer, prompt, [answer("ok"), answer(LONG)], 50, "truncate_prompt")
    assert (fitted.tokens, fitted.dropped) == (None, UnscoredReason.RESPONSE_TOO_LONG)


def test_raw_text_is_a_response_and_so_is_never_cut() -> None:
    raw = (Message("text", LONG),)
    fitted = fit(RENDERERS["mistral"], (), [raw], 50, "truncate_prompt")
    assert fitted.dropped == UnscoredReason.RESPONSE_TOO_LONG


def stories_folder() -> Path:
    return data_folder() / "stories260k" / "hf"


@pytest.mark.data
def test_a_real_tokenizer_file_is_cut_to_the_limit() -> None:
    if not stories_folder().is_dir():
        pytest.skip(f"no shared data: {stories_folder()} is absent (set SMORM_DATA)")
    renderer = Renderer(stories(stories_folder()))
    for limit in (64, 128, 512):
        fitted = fit(
            renderer,
            (Message("user", LONG + " <s> 你好 " + LONG),),
            [answer("Once upon a time."), answer("The end.")],
            limit,
            "truncate_prompt",
        )
        assert fitted.tokens is not None
        assert limit - 6 <= max(map(len, fitted.tokens)) <= limit


def test_more_text_than_is_tokenised_is_refused_or_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMORM_LIMIT_CONVERSATION_BYTES", "4000")
    renderer = Renderer(next(iter(RENDERERS.values())).tokenizer)
    prompt = (Message("user", "q"),)
    large = answer("é" * 2001)
    with pytest.raises(
        OverLimitError, match=r"conversation has 4,003 bytes, over the limit of 4,0"
    ):
        fit(renderer, prompt, [answer("a"), large], 10_000, "error")
    for policy in ("drop", "truncate_prompt"):
        fitted = fit(renderer, prompt, [answer("a"), large], 10_000, policy)
        assert (fitted.tokens, fitted.dropped) == (None, UnscoredReason.TOO_LONG)
    assert renderer.render((*prompt, *answer("é" * 1500)))


def test_a_template_that_writes_a_text_many_times_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMORM_LIMIT_CONVERSATION_BYTES", "4000")
    template = "{% for m in messages %}{{ m.content * 50 }}{% endfor %}"
    renderer = Renderer(next(iter(RENDERERS.values())).tokenizer, template)
    assert renderer.render((Message("user", "a"),))
    with pytest.raises(UnboundedError, match="over the limit of 4,000 bytes a conversation"):
        renderer.render((Message("user", "a" * 100),))
