"""From a configuration to everything that a run needs: data, tokenizer, network, order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smorm.config import Architecture, Config, TrainedTokenizer
from smorm.data.census import Census
from smorm.data.encode import Encoder
from smorm.data.mixing import DataOrder
from smorm.data.reading import Source
from smorm.data.scaling import AttributeScale
from smorm.data.tokenising import Tokeniser
from smorm.errors import ConfigError, DataError, ModelError
from smorm.model.backbone import (
    build_backbone,
    fit_embeddings,
    load_backbone,
    load_tokenizer,
    position_limit,
)
from smorm.model.cpu.malloc import keep_freed_memory
from smorm.model.device import pick_device
from smorm.model.head_file import find_head, start_head
from smorm.model.heads import GatedHead, MlpHead
from smorm.model.language import LanguageHead, load_language_model
from smorm.model.lora import add_lora
from smorm.model.network import RewardNetwork
from smorm.model.store import ModelCard, versions
from smorm.model.verify import choose_layout
from smorm.text.bpe import train_bpe
from smorm.text.chat import Renderer
from smorm.text.padding import ensure_pad_token
from smorm.training.sources import (
    TokenSet,
    attribute_means,
    data_fingerprint,
    fit_attributes,
    to_source,
    token_set,
    tokenised_sources,
    training_texts,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that the loop uses. Nothing in it changes but the network's weights."""

    config: Config
    network: RewardNetwork
    tokenizer: Any
    card: ModelCard
    train: TokenSet
    dev: TokenSet
    order: DataOrder
    census: Census
    data_hash: str

    @property
    def batch_tokens(self) -> int:
        """Tokens of a forward pass. `auto` is a number by now: see `smorm.training.auto_batch`."""
        tokens = self.config.training.max_batch_tokens
        assert isinstance(tokens, int), tokens
        return tokens


def prepare(config: Config) -> Prepared:
    """Read, encode and build.

    Raises:
        DataError: a record or source is not usable, or none are left.
        ConfigError, ModelError: tokenizer, template or backbone are not usable.
    """
    config = with_precision(config)
    census, held_out = Census(), Census()
    objective = config.objective
    preference = [to_source(s) for s in config.data.preference if objective.uses_pairs]
    rated = [to_source(s) for s in config.data.rated if objective.uses_ratings]
    tokenizer = _tokenizer(config, preference, rated)
    renderer = _renderer(config, tokenizer)
    encoder = Encoder(renderer, config.data.max_tokens, config.data.overlong)
    with Tokeniser(encoder, config.data.workers) as tokeniser:
        stores = tokenised_sources(config, preference, rated, tokeniser, census)
        names, scales = fit_attributes(config, stores, census)
        train = token_set(stores, scales, census)
        if (objective.uses_pairs and not train.pairs) or (
            objective.uses_ratings and not train.rated
        ):
            raise DataError("no usable training record is left: " + "; ".join(census.lines()))
        given = config.evaluation
        dev_preference = [to_source(s) for s in given.preference if objective.uses_pairs]
        dev_rated = [to_source(s) for s in given.rated if names]
        dev_stores = tokenised_sources(
            config, dev_preference, dev_rated, tokeniser, held_out, limit=given.limit
        )
        dev = token_set(dev_stores, scales, held_out)
    for line in [*_unmeasured(config), *held_out.lines()]:
        log.info("held-out data: %s", line)
    if objective.kind == "odin":
        # The length row is on no scale of ratings: it is trained by its correlation alone.
        scales = [AttributeScale("length")]
    network = _network(config, tokenizer, len(scales))
    data_hash = data_fingerprint(train)
    card = _card(config, renderer, scales, train, data_hash)
    return Prepared(
        config, network, tokenizer, card, train, dev, _order(config, train), census, data_hash
    )


def _unmeasured(config: Config) -> list[str]:
    """Held-out sources that the objective trains no row for."""
    objective, given = config.objective, config.evaluation
    unused = [("preference", given.preference, objective.uses_pairs, "preference row"),
              ("rated", given.rated, objective.uses_ratings, "attribute rows")]  # fmt: skip
    return [
        f"evaluation.{name}: not measured: objective.kind {objective.kind} trains no {rows}"
        for name, sources, used, rows in unused
        if sources and not used
    ]


def _tokenizer(config: Config, preference: Sequence[Source], rated: Sequence[Source]) -> Any:
    spec = config.model.tokenizer
    if isinstance(spec, TrainedTokenizer):
        tokenizer = train_bpe(training_texts(config, preference, rated), spec.vocab_size)
    else:
        assert spec is not None or isinstance(config.model.backbone, str)
        tokenizer = load_tokenizer(spec if spec is not None else str(config.model.backbone))
    ensure_pad_token(tokenizer, _template(config))
    return tokenizer


def _template(config: Config) -> str | None:
    path = config.model.chat_template
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"model.chat_template: {path}: {error.strerror}") from error


def _renderer(config: Config, tokenizer: Any) -> Renderer:
    renderer = Renderer(tokenizer, _template(config), config.data.max_tokens)
    # What is exported renders the same ids in any other program.
    tokenizer.chat_template = renderer.chat_template
    return renderer


def _network(config: Config, tokenizer: Any, attributes: int) -> RewardNetwork:
    spec, seed = config.model.backbone, config.training.seed
    language: LanguageHead | None = None
    torch.manual_seed(seed)  # rows that are added to the embedding are drawn too
    if isinstance(spec, Architecture):
        backbone = build_backbone(
            spec.architecture,
            spec.fields(),
            seed=seed if spec.seed is None else spec.seed,
            tokenizer=tokenizer,
            max_tokens=config.data.max_tokens,
        )
    elif config.objective.kind == "grm":
        # Where the language head is the embedding, only the score head tells the two apart.
        if Path(spec).is_dir() and find_head(Path(spec)) is not None:
            raise ModelError(
                f"{spec}: objective.kind grm needs a language model, not a reward model"
            )
        backbone, language = load_language_model(spec, len(tokenizer))
    else:
        backbone = load_backbone(spec)
    fit_embeddings(backbone, len(tokenizer))
    limit = position_limit(backbone)
    if limit is not None and config.data.max_tokens > limit:
        raise ConfigError(f"data.max_tokens: {config.data.max_tokens}, the backbone has {limit}")
    if config.model.lora is not None:
        backbone = add_lora(backbone, **config.model.lora.model_dump())
        if language is not None:
            language.requires_grad_(False)
    if config.model.freeze:
        backbone.requires_grad_(False)
    network = RewardNetwork(backbone, 1 + attributes, pad_id=tokenizer.pad_token_id)
    network.language, network.whole_last_layer = language, language is not None
    network.head.unit_rows = config.objective.kind == "odin"
    if config.model.head == "mlp":
        network.head = MlpHead(backbone.config.get_text_config().hidden_size)
    elif config.objective.kind == "armo":
        backbone.requires_grad_(False)  # its head is fitted afterwards, not begun from another
    elif isinstance(spec, str) and Path(spec).is_dir() and start_head(network.head, Path(spec)):
        log.info("the preference row starts from that of %s, attribute rows start anew", spec)
    if config.objective.kind == "regression":
        # Row 0 is never trained here: zeros say so, where random weights would pass for a score.
        network.head.weight.data[0] = 0.0
    network.to(pick_device(config.training.device, "training.device"))
    if network.device.type == "cpu":
        keep_freed_memory()
    layout = config.model.layout
    choose_layout(network, None if layout == "auto" else layout)
    if config.training.gradient_checkpointing:
        network.checkpoint_activations()
    return network.train()


def with_precision(config: Config) -> Config:
    """`precision: auto` is bf16 where the device multiplies it in hardware, else fp32.

    What was chosen is told, and stands in the run's `config.yaml`.
    """
    if config.training.precision != "auto":
        return config
    if pick_device(config.training.device, "training.device").type == "cuda":
        half = torch.cuda.is_bf16_supported()
    else:
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        half = any(getattr(torch.cpu, probe, bool)() for probe in probes)
    chosen = "bf16" if half else "fp32"
    log.info("precision: %s", chosen)
    training = config.training.model_copy(update={"precision": chosen})
    return config.model_copy(update={"training": training})


def _order(config: Config, train: TokenSet) -> DataOrder:
    mixing = config.data.mixing
    grouped = mixing.group_by_prompt
    return DataOrder(
        num_pairs=len(train.pairs),
        num_rated=len(train.rated),
        batch_size=config.training.batch_size,
        rated_per_pair=mixing.rated_per_pair,
        mode=mixing.mode,
        seed=config.training.seed,
        pair_groups=train.pair_prompts if grouped else None,
        rated_groups=train.rated_prompts if grouped else None,
    )


def _card(
    config: Config,
    renderer: Renderer,
    scales: list[AttributeScale],
    train: TokenSet,
    data_hash: str,
) -> ModelCard:
    kind = config.objective.kind
    default = {"joint": "M", "regression": "L"}.get(kind, "F")
    backbone = config.model.backbone
    return ModelCard(
        attributes=tuple(scale.name for scale in scales),
        scales=tuple(scales),
        means=attribute_means(scales, train) if config.objective.uses_ratings else {},
        default_view=config.output.default_view or default,
        preference_trained=kind != "regression",
        head={"armo": GatedHead.kind}.get(kind, config.model.head),
        max_tokens=config.data.max_tokens,
        overlong=config.data.overlong,
        chat_template=renderer.chat_template,
        renderer=renderer.fingerprint,
        base=_base(backbone) if config.model.lora is not None else None,
        hashes={"config": config.hash, "data": data_hash},
        versions=versions(),
    )


def _base(backbone: str | Architecture) -> str:
    path = Path(str(backbone))
    return str(path.resolve()) if path.is_dir() else str(backbone)
