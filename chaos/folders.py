"""Model folders as hostile or careless people leave them: real ones, and changes of one of their
files. Everything follows from a seed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from smorm.data.scaling import AttributeScale
from smorm.model.backbone import add_lora, build_backbone, import_peft, load_backbone
from smorm.model.border import quiet
from smorm.model.card import ModelCard
from smorm.model.export import export_view
from smorm.model.heads import MlpHead
from smorm.model.network import RewardNetwork
from smorm.model.store import load_model, save_model
from smorm.model.views import named_view
from smorm.text.tokenizers import train_bpe

SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
NAMES = ("clarity", "depth")
SCALES = (AttributeScale("clarity", 2.0, 0.5), AttributeScale("depth", -1.0, 3.0))
MAX_TOKENS = 128
PAIRS = [("What is 2 + 2?", "It is four."), ("Name a metal.", "Tin")]


def make_folders(folder: Path) -> dict[str, Path]:
    """One model folder of each kind that is read, without their manifests."""
    tokenizer = train_bpe(["a few words to learn from"], 280)
    kinds = {kind: folder / kind for kind in KINDS}
    base = folder / "base"
    for kind, make in KINDS.items():
        make(kinds[kind], base, tokenizer)
        # A folder whose sums are right was changed by its owner.
        (kinds[kind] / "manifest.json").unlink(missing_ok=True)
    return kinds


def _network(tokenizer: Any, architecture: str = "llama", rows: int = 3) -> RewardNetwork:
    options = {"seed": 0, "tokenizer": tokenizer, "max_tokens": MAX_TOKENS}
    backbone = build_backbone(architecture, SIZES, **options)
    torch.manual_seed(0)
    return RewardNetwork(backbone, rows, pad_id=tokenizer.pad_token_id)


def _card(**changes: Any) -> ModelCard:
    return ModelCard(NAMES, SCALES, max_tokens=MAX_TOKENS, **changes)


def _llama(folder: Path, base: Path, tokenizer: Any) -> None:
    network = _network(tokenizer)
    save_model(folder, network, tokenizer, _card())
    # A language model's folder, on which adapters can stand.
    with quiet():
        network.backbone.save_pretrained(base)
        tokenizer.save_pretrained(base)


def _qwen2(folder: Path, base: Path, tokenizer: Any) -> None:
    save_model(folder, _network(tokenizer, "qwen2"), tokenizer, _card())


def _mlp(folder: Path, base: Path, tokenizer: Any) -> None:
    network = _network(tokenizer, rows=1)
    network.head = MlpHead(SIZES["hidden_size"], 8)
    save_model(folder, network, tokenizer, ModelCard(max_tokens=MAX_TOKENS, head="mlp"))


def _adapters(folder: Path, base: Path, tokenizer: Any) -> None:
    backbone = add_lora(
        load_backbone(str(base)), rank=2, alpha=4, dropout=0.0, targets="all-linear"
    )
    network = RewardNetwork(backbone, 3, pad_id=tokenizer.pad_token_id)
    save_model(folder, network, tokenizer, _card(base=str(base)))


def _export(folder: Path, base: Path, tokenizer: Any) -> None:
    network, tokenizer, card = load_model(folder.parent / "llama")
    export_view(folder, network, tokenizer, card, named_view("M", NAMES))


def _foreign(folder: Path, base: Path, tokenizer: Any) -> None:
    save_model(folder, _network(tokenizer, rows=1), tokenizer, ModelCard(max_tokens=MAX_TOKENS))
    (folder / "smorm.json").unlink()


def _foreign_adapters(folder: Path, base: Path, tokenizer: Any) -> None:
    from transformers import AutoModelForSequenceClassification

    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(
            folder.parent / "foreign", trust_remote_code=False
        )
    model.name_or_path = model.config.name_or_path = str(base)
    with import_peft() as peft:
        config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear")
        peft.get_peft_model(model, config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


Maker = Callable[[Path, Path, Any], None]
KINDS: dict[str, Maker] = {
    "llama": _llama, "qwen2": _qwen2, "mlp": _mlp, "adapters": _adapters, "export": _export,
    "foreign": _foreign, "foreign-adapters": _foreign_adapters,
}  # fmt: skip


# Changes of a folder


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 7, 10**9, 10**400, -(2**63), 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "x", "../x", "/dev/zero", "\x1b]0;x\x07", "\u202ex", "a/b", [], [1], [None],
    ["x"], {}, {"x": 1}, {"a": {"b": [1, {}]}}, "x" * 5000, [[]] * 50,
)  # fmt: skip
"""What stands in the place of a value."""

ADDED: dict[str, tuple[str, ...]] = {
    "config.json": (
        "auto_map", "quantization_config", "num_labels", "id2label", "rope_scaling", "layer_types",
        "attn_implementation", "transformers_weights", "torch_dtype", "text_config", "head_dim",
        "get_text_config", "__class__", "sliding_window", "tie_word_embeddings", "use_cache",
        "per_layer_config", "is_decoder", "sub_configs", "_name_or_path", "quantization",
    ),
    "tokenizer_config.json": (
        "auto_map", "chat_template", "model_max_length", "added_tokens_decoder", "pad_token",
        "tokenizer_class", "add_prefix_space", "extra_special_tokens", "model_input_names",
        "padding_side", "fast_tokenizer_files", "backend", "vocab_file", "tokenizer_file",
    ),
    "smorm.json": ("means", "view", "base", "head", "offset", "foreign", "classifier", "format"),
    "adapter_config.json": (
        "auto_mapping", "rank_pattern", "layer_replication", "megatron_config", "runtime_config",
        "loftq_config", "init_lora_weights", "use_dora", "trainable_token_indices",
    ),
}  # fmt: skip
"""Keys that are put beside those of a file."""

WHOLE = (
    b"", b"{", b"[]", b"[1, 2]", b"null", b"7", b'"text"', b"{}", b"\xff\xfe\x00{", b"[" * 5000,
    b'{"a":' * 3000, b'{"a": ' + b"9" * 6000 + b"}", b"\x00" * 64,
)  # fmt: skip
"""What stands in the place of a whole JSON file."""

TEMPLATES = (
    "{{ 1 // 0 }}", "{{ messages[99].content.x }}", "{{ raise_exception('no') }}", "{% if %}", "",
    "{{ messages | map(attribute='__class__') | list }}", "always the same", "{{ bos_token * 3 }}",
    "{% for message in messages %}{{ message.content | int // 0 }}{% endfor %}", "{{ nothing() }}",
    "{% for message in messages %}{{ message.content.upper() }}{% endfor %}", "{{ '\x00' }}",
)  # fmt: skip
"""Chat templates that fail; what they take stays small."""


def mutate(folder: Path, seed: int) -> str:
    """Change one thing in a folder; returns what, in words."""
    random = Random(seed)
    kinds: list[tuple[int, Callable[[Path, Random], str]]] = [
        (10, _json), (2, _whole_json), (3, _tensors), (2, _header), (2, _file), (1, _template),
        (1, _index),
    ]  # fmt: skip
    weights = [weight for weight, _ in kinds]
    _, change = random.choices(kinds, weights)[0]
    return change(folder, random)


def _json_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.is_file())


def _json(folder: Path, random: Random) -> str:
    """One value of a JSON file replaced, removed or added."""
    # The vocabulary's own file is the largest by far; most of it is tokens.
    path = random.choice(_json_files(folder))
    values = json.loads(path.read_text("utf-8"))
    added = ADDED.get(path.name, ())
    if added and random.random() < 0.4:
        key, value = random.choice(added), random.choice(VALUES)
        values[key] = value
        what = f"{key} is {value!r:.60}"
    else:
        what = _change(values, random)
    path.write_text(json.dumps(values), "utf-8")
    return f"{path.name}: {what}"


def _change(values: Any, random: Random) -> str:
    """Change one entry of an object or a list in place, however deep."""
    node, where = values, []
    while True:
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return "nothing"
        key = random.choice(keys)
        where.append(str(key))
        child = node[key]
        if isinstance(child, dict | list) and child and random.random() < 0.7:
            node = child
            continue
        break
    if random.random() < 0.2:
        del node[key]
        return f"{'.'.join(where)} removed"
    value = random.choice(VALUES)
    # Numbers that are nearly right are what a careless hand leaves.
    if isinstance(child, int) and random.random() < 0.5:
        value = random.choice((child + 1, child - 1, child * 2, -child, float(child), str(child)))
    node[key] = value
    return f"{'.'.join(where)[:80]} is {value!r:.60}"


def _whole_json(folder: Path, random: Random) -> str:
    path = random.choice(_json_files(folder))
    content = random.choice(WHOLE)
    if random.random() < 0.3:
        content = path.read_bytes()
        content = content[: random.randrange(len(content))]
    path.write_bytes(content)
    return f"{path.name} is {content[:20]!r}"


def _tensors(folder: Path, random: Random) -> str:
    """One tensor of the weights replaced, renamed or taken out."""
    path = random.choice(sorted(folder.glob("*.safetensors")))
    tensors = load_file(path)
    heads = [name for name in tensors if "score" in name or "layers.2" in name]
    name = random.choice(heads if heads and random.random() < 0.5 else list(tensors))
    tensor = tensors.pop(name)
    changes: dict[str, Any] = {
        "removed": None,
        "nan": torch.full_like(tensor, float("nan")),
        "infinite": torch.full_like(tensor, float("inf")),
        "integers": tensor.to(torch.int32),
        "bool": tensor > 0,
        "int8": tensor.to(torch.int8),
        "fp8": tensor.to(torch.float8_e4m3fn),
        "double": tensor.double(),
        "complex": tensor.to(torch.complex64),
        "half": tensor.half(),
        "3-D": tensor[None].contiguous(),
        "flat": tensor.flatten().contiguous(),
        "shorter": tensor[:-1].contiguous(),
        "empty": tensor[:0].contiguous(),
        "scalar": tensor.sum(),
        "twice": torch.cat([tensor, tensor]),
        "turned": tensor.transpose(0, -1).contiguous(),
    }
    what = random.choice([*changes, "renamed"])
    if what == "renamed":
        tensors[random.choice(("score.bias", "x", f"model.{name}", "v_head.weight"))] = tensor
    elif what != "removed":
        tensors[name] = changes[what]
    save_file(tensors, path, metadata={"format": "pt"})
    return f"{path.name}: {name} {what}"


def _header(folder: Path, random: Random) -> str:
    """The header of a safetensors file, edited as text."""
    path = random.choice(sorted(folder.glob("*.safetensors")))
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    if random.random() < 0.3:
        length = random.choice((0, size - 1, size + 1, 2**31, 2**63, 10**8))
        path.write_bytes(length.to_bytes(8, "little") + content[8:])
        return f"{path.name}: a header of {length} bytes"
    header = json.loads(content[8 : 8 + size])
    entry = random.choice([name for name in header if name != "__metadata__"])
    key = random.choice(("dtype", "shape", "data_offsets"))
    values: tuple[Any, ...] = ("F32", "I8", "XX", [1], [-1], [10**12], [0, 8], [8, 0], [0, 10**15])
    header[entry][key] = random.choice((*values, None, {}))
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return f"{path.name}: {entry}: {key} is {header[entry][key]!r}"


def _file(folder: Path, random: Random) -> str:
    """A file replaced by what is none."""
    path = random.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    what = random.choice(("removed", "empty", "short", "folder", "pipe", "loop", "zero", "nowhere"))
    content = path.read_bytes()
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path)
    elif what == "zero":
        path.symlink_to("/dev/zero")
    elif what == "nowhere":
        path.symlink_to(folder / "nowhere")
    elif what in ("empty", "short"):
        path.write_bytes(content[: len(content) // 2 if what == "short" else 0])
    return f"{path.name}: {what}"


def _template(folder: Path, random: Random) -> str:
    template = random.choice(TEMPLATES)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    card = folder / "smorm.json"
    if card.exists():
        values = json.loads(card.read_text("utf-8"))
        values["renderer"] = ""
        if random.random() < 0.5:
            values["chat_template"] = template
        card.write_text(json.dumps(values), "utf-8")
    return f"template {template!r}"


def _index(folder: Path, random: Random) -> str:
    """Weights in two places by an index, which is right or not."""
    weights = folder / "model.safetensors"
    if not weights.exists():
        return "no weights to share out"
    names = list(load_file(weights))
    shutil.move(weights, folder / "model-00001-of-00001.safetensors")
    placed: Any = dict.fromkeys(names, "model-00001-of-00001.safetensors")
    what = random.choice(("right", "missing", "outside", "none", "wrong", "list", "bin", "number"))
    if what == "missing":
        placed[names[0]] = "model-00002-of-00002.safetensors"
    elif what == "outside":
        placed[names[0]] = "../foreign/model.safetensors"
    elif what == "wrong":
        placed["model.other.weight"] = "model-00001-of-00001.safetensors"
    elif what == "bin":
        placed[names[0]] = "pytorch_model.bin"
    elif what == "number":
        placed[names[0]] = 7
    elif what == "list":
        placed = [placed]
    index = {"metadata": {}, "weight_map": placed} if what != "none" else {}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return f"index: {what}"


def mutated_copy(source: Path, target: Path, seed: int) -> str:
    """A copy of a folder with one change; returns what was changed."""
    shutil.copytree(source, target)
    return mutate(target, seed)
