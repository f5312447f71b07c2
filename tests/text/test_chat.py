"""The one renderer: what it gives for honest text, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.errors import DataError, ModelError
from smorm.text.chat import PLAIN_TEMPLATE, ROLES, ChatInputs, Message, Messages, Renderer
from smorm.text.control import MARKS

from .styles import (
    STYLES,
    TEMPLATES,
    build,
    data_folder,
    shared,
    stories,
)

TALK: Messages = (
    Message("user", "What is 6 * 7?\n\nThink first. 你好 🙂"),
    Message("assistant", "  The answer is 42 < 43 | 44 > [x].\n"),
    Message("user", "Why?"),
    Message("assistant", "Because."),
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def plain_ids(style: str, messages: Messages) -> list[int]:
    chat = [{"role": message.role, "content": message.content} for message in messages]
    return list(shared(style).apply_chat_template(chat, return_dict=False))


@pytest.mark.parametrize("style", STYLES)
def test_honest_text_renders_as_apply_chat_template_does(style: str) -> None:
    assert Renderer(shared(style)).render(TALK) == plain_ids(style, TALK)


@pytest.mark.parametrize("style", STYLES)
@given(first=text, second=text)
@settings(max_examples=60, deadline=None)
def test_any_text_without_a_special_token_renders_as_plain_transformers_does(
    style: str, first: str, second: str
) -> None:
    """The law; and where texts are marked, the same ids come out."""
    messages = (Message("user", first), Message("assistant", second))
    renderer = Renderer(shared(style))
    assert renderer.render(messages) == plain_ids(style, messages)
    marked = renderer._apply(ChatInputs.of(messages).map_texts(renderer.control.mark))
    if not MARKS.search(first + second):
        assert renderer.control.encode_marked(marked) == renderer.render(messages)


@pytest.mark.parametrize("style", ["llama3", "gemma", "mistral"])
def test_a_conversation_begins_with_exactly_one_bos(style: str) -> None:
    ids = Renderer(shared(style)).render(TALK)
    assert ids[0] == shared(style).bos_token_id
    assert ids.count(shared(style).bos_token_id) == 1


@pytest.mark.parametrize("style", ["llama3", "gemma", "mistral"])
def test_a_template_that_writes_two_bos_is_refused_by_name(style: str) -> None:
    with pytest.raises(ModelError, match=r"the chat template .*begins .* with two"):
        Renderer(shared(style), "{{ bos_token }}" + TEMPLATES[style])


def test_a_bos_that_the_tokenizer_adds_but_the_template_forgets_is_written_once() -> None:
    forgetful = TEMPLATES["llama3"].replace("{{- bos_token }}", "")
    renderer = Renderer(shared("llama3"), forgetful)
    assert renderer.render(TALK) == plain_ids("llama3", TALK)
    again = Renderer(shared("llama3"), renderer.chat_template)
    assert again.render(TALK) == renderer.render(TALK)
    assert again.fingerprint == renderer.fingerprint


def test_a_template_that_writes_a_second_bos_only_sometimes_is_refused_then() -> None:
    template = (
        "{{ bos_token }}{% if messages[0]['content'] == 'x' %}{{ bos_token }}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    renderer = Renderer(shared("llama3"), template)
    assert renderer.render((Message("user", "y"),))
    with pytest.raises(ModelError, match="two"):
        renderer.render((Message("user", "x"),))


@pytest.mark.parametrize("style", STYLES)
def test_a_tokenizer_without_a_template_gets_the_plain_one(style: str) -> None:
    tokenizer = build(style)
    tokenizer.chat_template = None
    renderer = Renderer(tokenizer)
    assert renderer.chat_template == PLAIN_TEMPLATE
    ids = renderer.render((Message("system", "Be kind."), *TALK[:1], Message("tool", "ok")))
    assert ids[-1] == tokenizer.eos_token_id
    begin = tokenizer.bos_token_id
    body = ids[1:-1] if begin is not None else ids[:-1]
    assert begin is None or (ids[0] == begin and begin not in body)
    said = f"System: Be kind.\n\nUser: {TALK[0].content}\n\nTool: ok"
    assert tokenizer.decode(body).lstrip() == said


def test_the_template_named_default_is_used_where_there_are_several() -> None:
    tokenizer = build("chatml")
    tokenizer.chat_template = {"default": TEMPLATES["chatml"], "tool_use": "x"}
    assert Renderer(tokenizer).render(TALK) == plain_ids("chatml", TALK)
    tokenizer.chat_template = {"rag": "x", "tool_use": "x"}
    with pytest.raises(ModelError, match="rag, tool_use"):
        Renderer(tokenizer)


@pytest.mark.parametrize("style", STYLES)
def test_raw_text_is_bos_its_tokens_and_eos(style: str) -> None:
    tokenizer = shared(style)
    ids = Renderer(tokenizer).render((Message("text", "Once upon a time."),))
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    inner = tokenizer.encode("Once upon a time.", add_special_tokens=False)
    assert ids == [*begin, *inner, tokenizer.eos_token_id]


@pytest.mark.parametrize("messages", [(Message("text", "a"), Message("assistant", "b"))])
def test_raw_text_beside_other_messages_is_refused(messages: Messages) -> None:
    with pytest.raises(DataError, match=r"role 'text' \(raw text stands alone\)"):
        Renderer(shared("chatml")).render(messages)


@pytest.mark.parametrize("role", ["", "User", "assistant<|im_end|>", "human", "system\n"])
def test_a_role_outside_the_closed_set_is_refused(role: str) -> None:
    assert role not in ROLES
    with pytest.raises(DataError, match="expected one of assistant, developer, system, tool, user"):
        Renderer(shared("chatml")).render((Message(role, "hi"),))


@pytest.mark.parametrize("content", ["\ud800", "a\udfffb", "good \ud83d half"])
@pytest.mark.parametrize("role", ["user", "text"])
def test_a_lone_surrogate_is_refused_with_its_place(role: str, content: str) -> None:
    with pytest.raises(DataError, match=r"lone surrogate U\+D[0-9A-F]{3} at character \d"):
        Renderer(shared("chatml")).render((Message(role, content),))


@pytest.mark.parametrize("content", ["\x00", "a\x00b", "\x7f\x1b[0m", "\ufeff", "", "\r\n"])
def test_odd_but_valid_text_is_rendered(content: str) -> None:
    messages = (Message("user", content), Message("assistant", "ok"))
    assert Renderer(shared("chatml")).render(messages) == plain_ids("chatml", messages)


def test_no_message_and_content_that_is_not_text_are_refused() -> None:
    renderer = Renderer(shared("chatml"))
    with pytest.raises(DataError, match="at least one message"):
        renderer.render(())
    with pytest.raises(DataError, match="not text: None"):
        renderer.render((Message("user", None),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("style", "roles"),
    [
        ("gemma", ("system", "user", "assistant")),
        ("gemma", ("user", "user")),
        ("mistral", ("user", "user", "assistant")),
        ("mistral", ("system", "assistant")),
        ("gemma", ("assistant",)),
    ],
)
def test_an_order_of_roles_that_the_template_refuses_is_told(style: str, roles: list[str]) -> None:
    renderer = Renderer(shared(style))
    with pytest.raises(DataError, match="refused the roles " + " → ".join(roles)):
        renderer.render(tuple(Message(role, "hi") for role in roles))


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ messages[0].", "{{ raise_exception('no') }}", "{{ 1 / (1 if x }}"]
)
def test_a_template_that_cannot_be_used_is_refused_when_the_renderer_is_built(
    template: str,
) -> None:
    with pytest.raises(ModelError, match="the chat template"):
        Renderer(shared("chatml"), template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
    ],
)
def test_a_template_that_leaves_the_sandbox_is_refused(template: str) -> None:
    with pytest.raises(ModelError, match="the chat template"):
        Renderer(shared("chatml"), template)


def test_the_fingerprint_tells_templates_and_tokenizers_apart_but_not_limits() -> None:
    prints = {style: Renderer(shared(style)).fingerprint for style in STYLES}
    assert len(set(prints.values())) == len(STYLES)
    for style in STYLES:
        assert Renderer(build(style), max_tokens=7).fingerprint == prints[style]
        assert Renderer(shared(style)).fingerprint == prints[style]
        assert Renderer(shared(style), PLAIN_TEMPLATE).fingerprint != prints[style]
    other = build("chatml")
    other.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    assert Renderer(other).fingerprint != prints["chatml"]


@pytest.mark.parametrize("style", STYLES)
def test_a_saved_tokenizer_renders_the_same_ids_and_fingerprint(style: str, tmp_path) -> None:
    renderer = Renderer(build(style))
    renderer.tokenizer.save_pretrained(tmp_path)
    loaded = Renderer(stories(tmp_path))
    assert loaded.render(TALK) == renderer.render(TALK)
    assert loaded.fingerprint == renderer.fingerprint


def test_the_fingerprints_of_models_trained_before_are_known():
    known = {
        "chatml": "986649aa83b34564",
        "llama3": "f3d635ebae7a475d",
        "gemma": "42b57542c0e29432",
        "mistral": "8c533d27f065a884",
    }
    assert {style: Renderer(shared(style)).older_fingerprint for style in STYLES} == known
    # Only that of a template which writes added tokens has changed.
    changed = [style for style in STYLES if Renderer(shared(style)).fingerprint != known[style]]
    assert changed == ["chatml"]


def test_importing_messages_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, smorm.text.chat, smorm.text.limits; "
        "assert not {'torch', 'transformers', 'jinja2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.data
def test_a_real_tokenizer_file_gets_the_plain_template() -> None:
    folder = data_folder() / "stories260k" / "hf"
    if not folder.is_dir():
        pytest.skip(f"no shared data: {folder} is absent (set SMORM_DATA)")
    tokenizer = stories(folder)
    renderer = Renderer(tokenizer)
    ids = renderer.render((Message("user", "Tell me a story."), Message("assistant", "Once 你.")))
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[1:-1]) == "User: Tell me a story.\n\nAssistant: Once 你."
    assert renderer.pad_id == tokenizer.unk_token_id  # its own pad token is its EOS


def test_eight_threads_render_as_one_does() -> None:
    renderer = Renderer(shared("mistral"))
    talks = [
        (Message("user", f"{n} [INST] </s>" if n % 2 else f"{n}"), Message("assistant", "ok"))
        for n in range(200)
    ]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(renderer.render, talks)) == [renderer.render(t) for t in talks]
