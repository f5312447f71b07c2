"""A model folder: a Hugging Face folder that says what its rows mean.

Beside `config.json`, safetensors weights with `score.weight`, and the tokenizer, it holds
`smorm.json` (`smorm.model.card`). A LoRA run holds adapters and `head.safetensors` instead of
weights. A nonlinear head is in `head.safetensors` beside its backbone; other programs cannot load
it."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smorm import files
from smorm.data.readers import may_be_hub_id
from smorm.data.scaling import AttributeScale
from smorm.errors import ModelError
from smorm.model import adapters, foreign, heads
from smorm.model.backbone import (
    adapted_model,
    fit_embeddings,
    is_lora,
    load_backbone,
    load_decoder,
    load_lora,
    merge_lora,
    position_limit,
    save_lora,
    warn_of_unread_head,
)
from smorm.model.base_dtype import STORED, round_base
from smorm.model.border import check_ids, check_model, quiet, read_config
from smorm.model.card import CARD, MAX_TOKENS, ModelCard, card_errors, check_card, read_card
from smorm.model.foreign import Unreadable, UnreadableModelError
from smorm.model.heads import WEIGHT, NonlinearHead
from smorm.model.network import RewardNetwork
from smorm.model.run_folder import why_no_model
from smorm.model.shallow import Opened, ReadWholeError, open_decoder
from smorm.model.views import PREFERENCE
from smorm.model_files import check_files, fetch
from smorm.printing import get_logger
from smorm.text.tokenizers import load_tokenizer

log = get_logger(__name__)


def versions() -> dict[str, str]:
    """The versions that decide a score."""
    import transformers

    from smorm.version import __version__

    return {
        "smorm": __version__,
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
    }


def save_model(
    folder: Path | str,
    network: RewardNetwork,
    tokenizer: Any,
    card: ModelCard,
    *,
    prove: Callable[[Path], None] | None = None,
) -> None:
    """Write a model folder, whole or not at all; not at all where `prove`, which is called with
    the written folder before it gets its name, raises an error."""
    linear = not isinstance(network.head, NonlinearHead)
    check_card(Path(folder) / CARD, card)
    size = 0 if is_lora(network.backbone) else _size(network)
    with files.atomic_folder(folder, size) as scratch, quiet():
        if is_lora(network.backbone):
            save_lora(network.backbone, scratch)
            heads.save_head(network.head, scratch)
        elif not linear or not _save_classifier(network, scratch, card.labels):
            network.backbone.save_pretrained(scratch)
            heads.save_head(network.head, scratch)
        save_tokenizer_and_card(scratch, tokenizer, card)
        if prove is not None:
            prove(scratch)


def save_view(
    folder: Path | str, network: RewardNetwork, tokenizer: Any, card: ModelCard, row: Tensor
) -> None:
    """Write a plain one-label folder whose head is `row` [1, D]. LoRA must be merged before.
    `ModelError` where transformers has no classification class for the architecture."""
    # A network of its own for the one row, on the same backbone: no weight is copied.
    folded = RewardNetwork(network.backbone, 1, pad_id=network.pad_id)
    folded.head.weight.data = row.clone()
    with files.atomic_folder(folder, _size(folded)) as scratch, quiet():
        if not _save_classifier(folded, scratch, (PREFERENCE,)):
            kind = network.backbone.config.model_type
            raise ModelError(f"transformers has no sequence classification class for {kind}")
        save_tokenizer_and_card(scratch, tokenizer, card)


def _size(network: RewardNetwork) -> int:
    """Bytes of the weights of a network as a model folder holds them."""
    weights = [*network.backbone.parameters(), *network.head.parameters()]
    return sum(weight.nbytes for weight in weights)


def save_tokenizer_and_card(folder: Path, tokenizer: Any, card: ModelCard) -> None:
    tokenizer.save_pretrained(folder)
    add_older_names(folder)
    files.write_json(folder / CARD, card.as_dict())


def _save_classifier(network: RewardNetwork, folder: Path, rows: tuple[str, ...]) -> bool:
    """Write transformers' own `...ForSequenceClassification`; False where there is none."""
    from transformers import AutoModelForSequenceClassification

    # A copy: the backbone goes on being used, in training for example.
    config = copy.deepcopy(network.backbone.config)
    config.num_labels = len(rows)
    config.id2label = dict(enumerate(rows))
    config.label2id = dict(zip(rows, range(len(rows)), strict=True))
    # vLLM and others apply a softmax or sigmoid unless this says regression.
    config.problem_type = "regression"
    config.pad_token_id = network.pad_id
    try:
        # On the meta device: the class is only the frame into which our modules are put.
        with torch.device("meta"):
            shell = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except ValueError:  # no such class for this architecture
        return False
    setattr(shell, shell.base_model_prefix, network.backbone)
    shell.score = torch.nn.Linear(network.head.weight.shape[1], len(rows), bias=False)
    # Of labels without a preference row the first row is none of them.
    shell.score.weight = torch.nn.Parameter(network.head.weight.detach()[-len(rows) :])
    shell.config.architectures = [type(shell).__name__]
    shell.save_pretrained(folder)
    return True


def add_older_names(folder: Path) -> None:
    """Let transformers before 5 read a folder: many tools for reward models are pinned to it."""
    # Transformers 5 writes rotary settings and tokenizers under new names. An older release ignores
    # the first silently (every Llama 3 would be read with Llama 2's frequencies) and refuses the
    # second. The old names are written beside the new ones; transformers 5 reads both.
    changes = {"config.json": _older_rotary, "tokenizer_config.json": _older_tokenizer}
    for name, change in changes.items():
        path = folder / name
        if path.is_file():
            config = files.read_json(path)
            changed = change(config)
            if changed != config:
                files.write_json(path, changed)


def _older_rotary(config: dict[str, Any]) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` from `rope_parameters`, where one set holds for all layers."""
    rotary = config.get("rope_parameters")
    if not isinstance(rotary, dict) or "rope_theta" not in rotary:
        return config
    scaling = dict(rotary)
    changed = {**config, "rope_theta": scaling.pop("rope_theta")}
    if scaling.get("rope_type", "default") != "default":
        changed["rope_scaling"] = scaling
    return changed


def _older_tokenizer(config: dict[str, Any]) -> dict[str, Any]:
    """The class that both know for a `tokenizer.json`, and special tokens under their old name."""
    changed = dict(config)
    if changed.get("tokenizer_class") == "TokenizersBackend":
        changed["tokenizer_class"] = "PreTrainedTokenizerFast"
        # An older release's plain class gives token types too, which no decoder takes.
        changed.setdefault("model_input_names", ["input_ids", "attention_mask"])
    extra = changed.get("extra_special_tokens")
    if isinstance(extra, list):  # before 5 it had to be a mapping
        del changed["extra_special_tokens"]
        if extra:
            changed["additional_special_tokens"] = extra
    return changed


def load_model(path: Path | str, *, dtype: torch.dtype = torch.float32) -> Any:
    """(RewardNetwork, tokenizer, ModelCard) of a model folder, ours or another trainer's, also as
    PEFT adapters; the head is in fp32, the backbone in `dtype`. `ModelError`: no such folder, no
    head that can be read, other rows than the card names, damaged or foreign weights."""
    folder = resolve(path)
    # A folder of somebody else has no manifest.
    if files.is_sealed(folder):
        files.verify_folder(folder)
    _refuse_loop(folder)
    if (folder / CARD).is_file():
        return _load_ours(folder, dtype)
    if adapters.holds_adapters(folder):
        return _load_adapters(folder, dtype)
    return _load_foreign(folder, dtype)


def _load_ours(folder: Path, dtype: torch.dtype) -> Any:
    # The head first: a folder that has none is refused before gigabytes of weights are read.
    card, head = _card_and_head(folder)
    tokenizer = load_tokenizer(str(folder))
    if adapters.holds_adapters(folder):
        adapters.check_adapters(folder)
        if card.base is None:
            raise ModelError(f"{folder / CARD}: names no base model for the adapters")
        rounded = card.base_dtype != "fp32"
        backbone = load_start(card.base, dtype=STORED[card.base_dtype] if rounded else dtype)
        if rounded:
            round_base(backbone, card.base_dtype, dtype)
        heads.check_width(folder, head, backbone.config.get_text_config().hidden_size)
        check_ids(folder, tokenizer, len(backbone.get_input_embeddings().weight))
        fit_embeddings(backbone, len(tokenizer))
        backbone = load_lora(backbone, folder)
    else:
        checked = check_model(folder)
        heads.check_width(folder, head, checked.width)
        check_ids(folder, tokenizer, checked.rows)
        backbone, _ = load_decoder(checked, dtype)
    network = _network(backbone, tokenizer, len(card.rows))
    if isinstance(head, NonlinearHead):
        network.head = head
    else:
        network.head.weight.data = head.float()
    return network.eval(), tokenizer, card


def _load_foreign(folder: Path, dtype: torch.dtype) -> Any:
    """A `...ForSequenceClassification` of another trainer."""
    # What is no decoder has another reason than its head; what has no config, another still.
    if (folder / "config.json").exists():
        foreign.refuse_architecture(folder, read_config(folder))
    weight, tensors = heads.read_head(folder), foreign.stored_tensors(folder)
    bias, config = heads.find_bias(folder, len(weight)), foreign.read_config(folder)
    checked = check_model(folder)
    heads.check_width(folder, weight, checked.width)
    foreign.check_labels(folder, config, len(weight))
    tokenizer = load_tokenizer(str(folder))
    check_ids(folder, tokenizer, checked.rows)
    backbone, unread = load_decoder(checked, dtype)
    more = [name for name in foreign.heads_beside(tensors) if name in unread]
    if more:
        raise UnreadableModelError(folder, Unreadable.MORE_PARTS, ", ".join(more[:3]))
    return _with_labels(folder, backbone, tokenizer, weight, bias, config)


def _load_adapters(folder: Path, dtype: torch.dtype) -> Any:
    """Adapters and a head of another trainer, on their base."""
    base = adapters.find_base(folder, adapters.check_adapters(folder))
    check_files(base)
    head = adapters.read_adapted_head(folder, base)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(str(folder if has_tokenizer else base))
    backbone, weight = adapters.load_adapted(folder, base, head[WEIGHT], tokenizer, dtype)
    # Full precision where the head is stored as it is applied.
    if not adapters.adapts_head(folder):
        weight = head[WEIGHT]
    config = foreign.read_config(folder) or {"problem_type": "regression"}
    return _with_labels(folder, backbone, tokenizer, weight, head.get(heads.BIAS), config)


def _with_labels(
    folder: Path,
    backbone: Any,
    tokenizer: Any,
    weight: Tensor,
    bias: Tensor | None,
    config: dict[str, Any],
) -> Any:
    """A network whose rows are another trainer's labels, the preference row (if any) first."""
    names = foreign.row_names(config, len(weight))
    offsets = [0.0] * len(names) if bias is None else bias.double().tolist()
    weight = weight.float()
    first = foreign.preference_row(names)
    order = [row for row in range(len(names)) if row != first]
    top = torch.zeros_like(weight[:1]) if first is None else weight[first : first + 1]
    network = _network(backbone, tokenizer, 1 + len(order))
    network.head.weight.data = torch.cat([top, weight[order]])
    with card_errors(folder / "config.json"):
        card = ModelCard(
            attributes=tuple(names[row] for row in order),
            scales=tuple(AttributeScale(names[row], offsets[row]) for row in order),
            preference_trained=first is not None,
            offset=0.0 if first is None else offsets[first],
            foreign=first is None,
            classifier=foreign.is_classifier(config, len(names)),
            max_tokens=position_limit(backbone) or MAX_TOKENS,
        )
    return network.eval(), tokenizer, card


def _network(backbone: Any, tokenizer: Any, rows: int) -> RewardNetwork:
    # The config's first: a classifier of somebody else pools by it.
    pad_id = backbone.config.get_text_config().pad_token_id
    if pad_id is None:
        pad_id = tokenizer.pad_token_id or 0
    # A pad token that others added without a row for it: nothing ever reads the row.
    fit_embeddings(backbone, pad_id + 1)
    return RewardNetwork(backbone, rows, pad_id=int(pad_id))


def _card_and_head(folder: Path) -> tuple[ModelCard, Tensor | NonlinearHead]:
    """What the rows mean, and the linear head's weight or the nonlinear head."""
    card = read_card(folder)
    if card.head != "linear":
        return card, heads.read_nonlinear_head(folder, card.head, len(card.rows))
    weight = heads.read_head(folder)
    if len(weight) != len(card.labels):
        rows = ", ".join(card.labels)
        raise ModelError(f"{folder}: {WEIGHT} has {len(weight)} rows, {CARD} names {rows}")
    if card.foreign:
        weight = torch.cat([torch.zeros_like(weight[:1]), weight])
    return card, weight


def load_start(path: str, *, dtype: torch.dtype = torch.float32) -> Any:
    """The decoder that training starts from: as `load_backbone`, or of a run's folder; adapters are
    merged into the model that they were trained on."""
    if os.path.isdir(path):
        folder = resolve(path)
        if adapters.holds_adapters(folder):
            return _merged(folder, dtype)
        path = str(folder)
    return load_backbone(path, dtype=dtype)


def open_start(path: str, rows: int) -> tuple[Opened, Any]:
    """As `load_start`, to be read in parts, and its shallow backbone (`smorm.model.shallow`);
    `rows` of the embedding are needed. `ReadWholeError` where that cannot be."""
    if os.path.isdir(path):
        folder = resolve(path)
        if adapters.holds_adapters(folder):
            raise ReadWholeError("adapters are merged into their base")
        path = str(folder)
    checked = check_model(path)
    if checked.rows < rows:
        raise ReadWholeError("its embedding is enlarged")
    opened, shallow = open_decoder(checked)
    warn_of_unread_head(path, checked.weights.keys() - set(opened.names.values()))
    return opened, shallow


def _merged(folder: Path, dtype: torch.dtype) -> Any:
    try:
        network, _, _ = load_model(folder, dtype=dtype)
    except ModelError as error:
        step = (
            "merge them first (peft: merge_and_unload, then save_pretrained), and name the result"
        )
        raise ModelError(
            f"{folder}: adapters that cannot be started from: {step}: {error}"
        ) from error
    base = adapted_model(folder) or "their base"
    log.info("%s: adapters, merged into %s to start from", folder, base)
    return merge_lora(network.backbone)


def _refuse_loop(folder: Path) -> None:
    """Refuse adapters whose base is, by way of other adapters or not, themselves."""
    earlier: set[Path] = set()
    model: Path | None = folder
    while model is not None:
        if model.resolve() in earlier:
            raise ModelError(f"{folder}: its base models lead back to {model}: name another base")
        earlier.add(model.resolve())
        model = _base_of(model)


def _base_of(folder: Path) -> Path | None:
    """The local folder of the base of adapters; None without adapters or such a folder."""
    if not adapters.holds_adapters(folder):
        return None
    name = adapted_model(folder)
    if (folder / CARD).is_file():
        name = read_card(folder).base
    for path in (Path(name), folder / name) if name else ():
        if os.path.isdir(path):
            return resolve(path)
    return None


def resolve(path: Path | str) -> Path:
    """The model folder itself, the `model` folder of a run, or a hub model's cached folder. Its
    files are checked, and none is loaded."""
    folder = Path(path)
    if not os.path.exists(folder) and may_be_hub_id(str(path)):
        folder = fetch(str(path))
    if not os.path.isdir(folder):
        raise ModelError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file():
        if (folder / "model").is_dir():
            folder = folder / "model"
        elif reason := why_no_model(folder):
            raise ModelError(reason)
    check_files(folder)
    return folder
