"""Export: a plain model folder that other programs load without smorm.

A view folds into one row; the folder is then an ordinary one-label `...ForSequenceClassification`.
`PlainModel` is such a folder as those programs load it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from smorm.arrays import Floats
from smorm.errors import ModelError, SmormError, third_party
from smorm.model.backbone import fit_embeddings, load_pretrained, merge_lora, missing_weights
from smorm.model.border import check_ids, check_model, quiet
from smorm.model.card import ModelCard
from smorm.model.device import pick_device
from smorm.model.network import RewardNetwork
from smorm.model.store import save_model, save_view
from smorm.model.views import View, fold
from smorm.text.bos import ensure_bos
from smorm.text.chat import RAW, ChatInputs, Messages, Renderer
from smorm.text.tokenizers import ensure_pad_token, load_tokenizer

Side = Literal["left", "right"]

# SGLang's classes for these model types make a `score.bias` that no folder holds, and leave it as
# it is drawn at each start (sglang#38768).
RANDOM_BIAS_IN_SGLANG = frozenset({"qwen2", "qwen3"})


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported folder. `offset` is the view's constant, which a bias-free head cannot hold;
    `new_pad` the pad token that replaced one that could end a conversation."""

    folder: Path
    offset: float = 0.0
    new_pad: str | None = None


def export_view(
    folder: Path | str, network: RewardNetwork, tokenizer: Any, card: ModelCard, view: View
) -> Exported:
    """Fold `view` into one row and write it. Adapters are merged into `network`, and `tokenizer`
    gets the chat template and a pad token that other programs can use. `ModelError`: the head is
    not linear, or transformers has no classification class for it."""
    row, offset = fold(view, network.head.weight, card.scales)
    new_pad = _make_plain(network, tokenizer, card)
    folded = replace(
        card,
        attributes=(),
        scales=(),
        default_view="F",
        preference_trained=True,
        # The one row is the view, whatever the labels were that it was made of.
        foreign=False,
        classifier=False,
        offset=offset,
        view=view.as_dict(),
        base=None,
        base_dtype="fp32",
    )
    save_view(folder, network, tokenizer, folded, row)
    return Exported(Path(folder), offset, new_pad)


def export_all_rows(
    folder: Path | str, network: RewardNetwork, tokenizer: Any, card: ModelCard
) -> Exported:
    """Write all rows as one folder without adapters; what changes is as in `export_view`."""
    network.head.rows()  # refuses a head that has none, before any work
    new_pad = _make_plain(network, tokenizer, card)
    save_model(folder, network, tokenizer, replace(card, base=None, base_dtype="fp32"))
    return Exported(Path(folder), new_pad=new_pad)


def _make_plain(network: RewardNetwork, tokenizer: Any, card: ModelCard) -> str | None:
    """Merge adapters, and give the tokenizer the renderer's template; returns a new pad token."""
    network.backbone = merge_lora(network.backbone)
    renderer = Renderer(tokenizer, card.chat_template, card.max_tokens)
    tokenizer.chat_template = renderer.chat_template
    # Plain transformers pools at the last token that is not the pad token, so one that can end a
    # conversation (the common pad = EOS) would move every score (transformers#35352).
    before = network.pad_id
    network.pad_id = ensure_pad_token(tokenizer, renderer.chat_template)
    ensure_bos(renderer)
    fit_embeddings(network.backbone, len(tokenizer))
    if network.pad_id == before:
        return None
    return str(tokenizer.pad_token)


@dataclass(frozen=True, slots=True)
class PlainModel:
    """A folder as `AutoTokenizer` and `AutoModelForSequenceClassification` load it."""

    model: Any
    tokenizer: Any
    template: str | None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        template: str | None = None,
    ) -> PlainModel:
        """Load a folder: `ModelError` where plain transformers cannot, `SmormError` where it would
        draw weights at random. `template` is a chat template for a tokenizer that has none."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        target = pick_device(str(device))
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"{folder}: adapters, not a whole model: export it first")
        problem = "plain transformers cannot load it"
        checked = check_model(folder)
        model, info = load_pretrained(AutoModelForSequenceClassification, checked, problem, dtype)
        # As the folder has it. Another class of transformers' choice may add tokens of its own:
        # where a text has one, `logits` refuses its id.
        check_ids(folder, load_tokenizer(str(folder)), checked.rows)
        with third_party(folder, problem):
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        if random := missing_weights(info):
            raise SmormError(
                f"{folder}: plain transformers finds no {random[0]} in it and draws it at random: "
                "do not use it"
            )
        # Its own template wins: other programs use no other.
        if tokenizer.chat_template is not None:
            template = None
        return cls(model.eval().to(target), tokenizer, template)

    @property
    def pad_id(self) -> int | None:
        """The token by which the classifier finds a conversation's end; None without one."""
        pad_id: int | None = self.model.config.get_text_config().pad_token_id
        return pad_id

    @property
    def rows(self) -> int:
        """The rows of its head."""
        return int(self.model.config.num_labels)

    def tokens(self, messages: Messages) -> list[int]:
        """Token ids of a conversation, as `apply_chat_template` makes them."""
        if messages[0].role == RAW:
            return list(self.tokenizer(messages[0].content)["input_ids"])
        inputs = ChatInputs.of(messages)
        options = {**inputs.options, "chat_template": self.template}
        ids: list[int] = self.tokenizer.apply_chat_template(
            inputs.messages, tokenize=True, return_dict=False, **options
        )
        return ids

    def logits(
        self, sequences: Sequence[Sequence[int]], *, batch: int, side: Side = "right"
    ) -> Floats:
        """Scores [N, labels] of token ids in padded batches, which need a pad token. `ModelError`:
        the embedding has no row for one of them."""
        rows = self.model.get_input_embeddings().weight.shape[0]
        if (largest := max(map(max, sequences))) >= rows:
            raise ModelError(f"token id {largest:,}, and the embedding has {rows:,} rows")
        logits = []
        with torch.inference_mode(), quiet():
            for start in range(0, len(sequences), batch):
                inputs = self._inputs(sequences[start : start + batch], side)
                logits.append(self.model(**inputs).logits.double().cpu())
        return np.asarray(torch.cat(logits).numpy())

    def _inputs(self, sequences: Sequence[Sequence[int]], side: Side) -> dict[str, Tensor]:
        device = self.model.device
        if len(sequences) == 1:  # needs no pad token, and a tokenizer may have none
            ids = torch.tensor([list(sequences[0])], device=device)
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        batch = {"input_ids": list(map(list, sequences))}
        inputs = self.tokenizer.pad(batch, padding_side=side, return_tensors="pt").to(device)
        return {name: inputs[name] for name in ("input_ids", "attention_mask")}
