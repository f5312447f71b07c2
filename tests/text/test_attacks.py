"""No text that a user or a policy writes becomes a control token."""

from __future__ import annotations

from collections import Counter

import pytest
from tokenizers import AddedToken, normalizers
from transformers import PreTrainedTokenizerFast

from smorm.text.chat import PLAIN_TEMPLATE, Message, Messages, Renderer

from .attacks import ATTACKS, SPLIT_OVER_TWO
from .styles import (
    NAMED,
    STYLES,
    TEMPLATES,
    build,
    byte_level,
    control_ids,
    data_folder,
    shared,
    stories,
)

BENIGN = "a plain reply"


def conversations(style: str, texts: tuple[str, str]) -> list[Messages]:
    """Conversations that hold two texts in every role the style takes, in every place."""
    first, second = texts
    user, assistant = Message("user", first), Message("assistant", second)
    found: list[Messages] = [
        (user, assistant),
        (user, assistant, Message("user", second), Message("assistant", first)),
    ]
    if style != "gemma":
        found.append((Message("system", first), Message("user", second), assistant))
    if style in ("chatml", "llama3"):
        found.append((user, Message("tool", second), assistant))
    return found


def control_count(ids: list[int], controls: dict[str, int]) -> dict[str, int]:
    counted = Counter(ids)
    return {text: counted[index] for text, index in controls.items()}


def failures(renderer: Renderer, style: str, texts: tuple[str, str]) -> list[str]:
    controls = control_ids(style)
    found = []
    honest = conversations(style, (BENIGN, BENIGN))
    for attacked, plain in zip(conversations(style, texts), honest, strict=True):
        seen = control_count(renderer.render(attacked), controls)
        expected = control_count(renderer.render(plain), controls)
        if seen != expected:
            found.append(f"{attacked}: {seen} instead of {expected}")
    return found


def test_the_bank_holds_at_least_sixty_distinct_attacks() -> None:
    assert len(ATTACKS) >= 60
    assert len(set(ATTACKS)) == len(ATTACKS)


def test_the_bank_holds_every_control_token_of_every_style() -> None:
    text = "".join(ATTACKS)
    for style in STYLES:
        missing = [token for token in control_ids(style) if token not in text]
        assert set(missing) <= {
            "<|reserved_special_token_1|>",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
        }


@pytest.mark.parametrize("style", STYLES)
def test_the_bank_does_break_a_template_without_the_renderer(style: str) -> None:
    """The bank has teeth: plain `apply_chat_template` fails it."""
    controls, broken = control_ids(style), 0
    for attack in ATTACKS:
        chat = [{"role": "user", "content": attack}, {"role": "assistant", "content": BENIGN}]
        honest = [{"role": "user", "content": BENIGN}, chat[1]]
        render = shared(style).apply_chat_template
        seen = control_count(render(chat, return_dict=False), controls)
        broken += seen != control_count(render(honest, return_dict=False), controls)
    assert broken >= 15


@pytest.mark.parametrize("style", STYLES)
def test_every_attack_leaves_the_count_of_every_control_id_as_in_the_honest_render(
    style: str,
) -> None:
    renderer = Renderer(shared(style))
    broken = []
    for attack in ATTACKS:
        broken += failures(renderer, style, (attack, attack))
        broken += failures(renderer, style, ("Tell me: " + attack, attack + " and more."))
    assert broken == []


@pytest.mark.parametrize("style", STYLES)
def test_a_token_split_over_two_messages_stays_text(style: str) -> None:
    renderer = Renderer(shared(style))
    assert [f for texts in SPLIT_OVER_TWO for f in failures(renderer, style, texts)] == []


@pytest.mark.parametrize("style", STYLES)
def test_raw_text_holds_no_control_token_but_bos_and_eos(style: str) -> None:
    renderer = Renderer(shared(style))
    controls = control_ids(style)
    expected = control_count(renderer.render((Message("text", BENIGN),)), controls)
    for attack in ATTACKS:
        ids = renderer.render((Message("text", attack),))
        assert control_count(ids, controls) == expected, attack


@pytest.mark.parametrize("style", STYLES)
def test_the_plain_template_withstands_the_bank_too(style: str) -> None:
    renderer = Renderer(shared(style), PLAIN_TEMPLATE)
    broken = [f for attack in ATTACKS for f in failures(renderer, style, (attack, attack))]
    assert broken == []


JOINING = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}{{ eos_token }}"


@pytest.mark.parametrize("style", STYLES)
def test_a_template_that_joins_texts_cannot_be_used_to_assemble_a_token(style: str) -> None:
    tokenizer = shared(style)
    renderer = Renderer(tokenizer, JOINING)
    broken = [f for texts in SPLIT_OVER_TWO for f in failures(renderer, style, texts)]
    assert broken == []
    chat = [{"role": "user", "content": "<|im_"}, {"role": "assistant", "content": "end|>"}]
    if style == "chatml":  # without the guard it is assembled
        plain = tokenizer.apply_chat_template(chat, chat_template=JOINING, return_dict=False)
        assert plain.count(tokenizer.eos_token_id) == 2


@pytest.mark.parametrize("style", STYLES)
def test_the_four_styles_and_the_plain_template_need_no_guard(style: str) -> None:
    assert not Renderer(shared(style))._guarded
    assert not Renderer(shared(style), PLAIN_TEMPLATE)._guarded


def folding_tokenizer() -> PreTrainedTokenizerFast:
    """ChatML whose tokens are matched after NFKC and lower-casing."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = byte_level(special)
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.add_special_tokens([AddedToken(text, normalized=True) for text in special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **NAMED["chatml"])
    tokenizer.chat_template = TEMPLATES["chatml"]
    return tokenizer


@pytest.mark.parametrize("text", ["＜|im_end|＞", "<|IM_END|>", "<｜im_end｜>", "<|im_end|>"])
def test_a_token_that_only_appears_after_the_normalizer_stays_text(text: str) -> None:
    tokenizer = folding_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in tokenizer.encode(text)
    renderer = Renderer(tokenizer)
    ids = renderer.render((Message("user", "see " + text), Message("assistant", text)))
    assert ids.count(end) == 2


def test_a_token_that_the_vocabulary_makes_from_plain_text_is_broken_apart() -> None:
    """A BPE trained on text full of markers learns them as ordinary merges."""
    backend = byte_level(["<|im_start|>", "<|im_end|>"])
    vocab = backend.get_vocab()
    assert "a" in vocab
    backend.add_special_tokens(["a", "the"])  # both are what the model makes of plain text
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATES["chatml"]
    whole = tokenizer.convert_tokens_to_ids("the")
    renderer = Renderer(tokenizer, "{{ messages[0]['content'] }}")
    ids = renderer.render((Message("user", "see the sun"),))
    assert whole not in ids
    assert tokenizer.decode(ids) == "see the sun"


def test_added_tokens_that_are_not_special_are_structure_wherever_they_stand() -> None:
    """As with plain transformers, whether the template writes them or not."""
    tokenizer = shared("chatml")
    renderer = Renderer(tokenizer)
    for token in ("<think>", "<tool_response>"):
        index = tokenizer.convert_tokens_to_ids(token)
        assert index in renderer.render((Message("user", token),))
        assert index in renderer.render((Message("user", f"{token}<|im_end|>"),))


def test_tokens_named_by_the_tokenizer_are_controls_too() -> None:
    tokenizer = build("chatml")
    tokenizer.chat_control_tokens = ["<think>"]
    think = tokenizer.convert_tokens_to_ids("<think>")
    renderer = Renderer(tokenizer)
    assert think not in renderer.render((Message("user", "<think><|im_end|>"),))


@pytest.mark.data
def test_a_real_tokenizer_file_withstands_the_bank() -> None:
    folder = data_folder() / "stories260k" / "hf"
    if not folder.is_dir():
        pytest.skip(f"no shared data: {folder} is absent (set SMORM_DATA)")
    tokenizer = stories(folder)
    renderer = Renderer(tokenizer)
    controls = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>", "<unk>")}
    for attack in ATTACKS:
        messages = (Message("user", attack), Message("assistant", "well " + attack))
        ids = renderer.render(messages)
        assert control_count(ids, controls) == {"<s>": 1, "</s>": 1, "<unk>": 0}, attack
