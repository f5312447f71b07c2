"""From a configuration to everything that a run needs: data, tokenizer, network, order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smorm.config import Architecture, Config
from smorm.data.census import Census
from smorm.data.encode import Encoder
from smorm.data.mixing import DataOrder
from smorm.data.scaling import AttributeScale, restore_scales
from smorm.data.tokeniser import Tokeniser
from smorm.errors import ConfigError, DataError, ModelError
from smorm.model.backbone import add_lora, build_backbone, fit_embeddings, position_limit
from smorm.model.base_dtype import STORED, convert_base
from smorm.model.card import ModelCard, card_errors, check_card
from smorm.model.device import keep_freed_memory, pick_device
from smorm.model.heads import MlpHead, ScoreHead, find_head, start_head
from smorm.model.language import LanguageHead, load_language_model
from smorm.model.network import Layout, RewardNetwork
from smorm.model.shallow import Opened, ReadWholeError, take_tables
from smorm.model.store import load_start, open_start, resolve, versions
from smorm.model.verify import choose_layout
from smorm.objectives.terms import Rows
from smorm.printing import get_logger
from smorm.text.bos import ensure_bos
from smorm.text.chat import Renderer
from smorm.text.tokenizers import ensure_pad_token
from smorm.training import sources
from smorm.training.batches import Batcher, MicroBatch
from smorm.training.distributed.ranks import ALONE, Ranks, current
from smorm.training.limit import within_positions
from smorm.training.methods import method_class
from smorm.training.sources import TokenSet

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a run uses. Nothing in it changes but the network's weights."""

    config: Config
    network: RewardNetwork
    tokenizer: Any
    card: ModelCard
    train: TokenSet
    dev: Mapping[str, TokenSet]  # the held-out sets by name
    order: DataOrder
    census: Census
    data_hash: str
    ranks: Ranks = ALONE

    @property
    def batch_tokens(self) -> int:
        """Tokens of a forward pass. `auto` is a number by now: see `smorm.training.memory`."""
        tokens = self.config.training.max_batch_tokens
        assert isinstance(tokens, int), tokens
        return tokens

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        training = self.config.training
        return training.max_steps or self.order.num_steps(training.epochs)

    @property
    def batcher(self) -> Batcher:
        multiple = self.config.training.step_parts
        return Batcher(
            self.network, self.train, self.batch_tokens, self.config.objective.use_margin,
            multiple_of=1 if multiple == "auto" else multiple, ranks=self.ranks,
        )  # fmt: skip

    def batches(self, step: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches of a step (from 0), prepared as they are read."""
        return self.batcher.split(*self.order.step(step))

    @property
    def renderer(self) -> Renderer:
        """Renders conversations as the training data was."""
        return Renderer(self.tokenizer, self.card.chat_template)

    def autocast(self) -> torch.autocast:
        """The precision of forward passes. The head is fp32 in any case."""
        half = self.config.training.precision == "bf16"
        return torch.autocast(self.network.device.type, dtype=torch.bfloat16, enabled=half)


def prepare(config: Config) -> Prepared:
    """Read, encode and build: DataError where a record is not usable or all were dropped."""
    ranks = current()
    config = within_positions(with_precision(config))
    method, data, held = method_class(config), config.data, config.evaluation
    census, held_census = Census(), Census()
    used = sources.sources_of(data, pairs=method.uses_pairs, rated=method.uses_ratings)
    tokenizer = sources.run_tokenizer(config, used)
    template = sources.run_template(config, tokenizer)
    if template is None and not tokenizer.chat_template:
        log.warning(
            "neither the backbone nor its tokenizer has a chat template: conversations are "
            "rendered as `User: …`, `Assistant: …`; model.chat_template names another"
        )
    ensure_pad_token(tokenizer, template)
    renderer = Renderer(tokenizer, template, data.max_tokens)
    ensure_bos(renderer)
    # Any other program that loads the model renders the same ids.
    tokenizer.chat_template = renderer.chat_template
    encoder = Encoder(renderer, data.max_tokens, data.overlong)
    # One process of a machine tokenises; the others find the tokens of large sources in the cache.
    with ranks.one_first(), Tokeniser(encoder, data.workers) as tokeniser:
        extra = sources.augment_of(config)
        stores = sources.tokenised_sources(config, used, tokeniser, census, augment=extra)
        scales = sources.fit_attributes(config, stores, census)
        train = sources.token_set(stores, scales, census)
        no_pairs = method.uses_pairs and not train.pairs
        if no_pairs or (method.uses_ratings and not train.rated):
            raise DataError("no usable training record is left: " + "; ".join(census.lines()))
        dev = {}
        for name, section in held.sets().items():
            used = sources.sources_of(section, pairs=method.uses_pairs, rated=bool(scales))
            stores = sources.tokenised_sources(config, used, tokeniser, held_census, held.limit)
            # Held-out ratings are on the scales of the training ratings.
            dev[name] = sources.token_set(stores, scales, held_census)
    lines, without = [], f"not measured: objective.kind {config.objective.kind} trains no"
    if held.preference and not method.uses_pairs:
        lines.append(f"evaluation.preference: {without} preference row")
    if held.rated and not method.uses_ratings:
        lines.append(f"evaluation.rated: {without} attribute rows")
    for line in (*lines, *held_census.lines()):
        log.info("held-out data: %s", line)
    # From here on the scales are those of the head's rows, which a method may change.
    scales = method.rows(scales)
    network = build_network(config, tokenizer, len(scales), ranks)
    card = _card(config, renderer, scales, train)
    order = _order(config, train)
    data_hash = train.fingerprint
    if len(set(ranks.gather(data_hash))) > 1:
        problem = "ranks read different training data: every machine needs the same files"
        raise DataError(f"{problem}, and the same versions of the libraries")
    return Prepared(config, network, tokenizer, card, train, dev, order, census, data_hash, ranks)


def build_network(
    config: Config, tokenizer: Any, attributes: int, ranks: Ranks = ALONE
) -> RewardNetwork:
    """The network that a run begins with, on its device, in a layout that was verified. Where the
    `ranks` are sharded, each has its part of the backbone, and reads no more than that where the
    files allow it."""
    method, spec, max_tokens = method_class(config), config.model.backbone, config.data.max_tokens
    # Seeded before the backbone: rows that are added to its embedding are drawn too.
    torch.manual_seed(config.training.seed)
    opened, shallow = _opened(config, tokenizer) if ranks.sharded else (None, None)
    if opened is not None:
        backbone, language = opened.backbone, None
    else:
        backbone, language = _backbone(config, tokenizer)
        fit_embeddings(backbone, len(tokenizer))
    limit = position_limit(backbone)
    # Beyond it, backbones with a table of positions fail, and others were never pretrained.
    if limit is not None and max_tokens > limit:
        raise ConfigError(f"data.max_tokens: {max_tokens}, the backbone has {limit}")
    # The order of the random draws decides the bits of a run: backbone, adapters, head.
    if config.model.lora is not None:
        convert_base(backbone, config.model.lora.base)
        backbone = add_lora(backbone, **config.model.lora.adapters())
        if language is not None:
            language.requires_grad_(False)
    if config.model.freeze or method.freezes_backbone:
        backbone.requires_grad_(False)
    network = RewardNetwork(backbone, 1 + attributes, pad_id=tokenizer.pad_token_id)
    # A language head reads every row of the last layer, a score head only the leaves.
    network.language, network.whole_last_layer = language, language is not None
    # `probe` begins as `random`: its rows are fitted to the data (`smorm.training.head_start`).
    if isinstance(network.head, ScoreHead) and config.head_start != "probe":
        network.head.scale(config.head_start)
    # An MLP has no row that could start from another model's.
    if config.model.head == "mlp":
        network.head = MlpHead(network.backbone.config.get_text_config().hidden_size)
    elif method.freezes_backbone or isinstance(spec, Architecture) or not Path(spec).is_dir():
        pass
    elif start_head(network.head, resolve(spec)):
        log.info("the preference row starts from that of %s, attribute rows start anew", spec)
    method.init_head(network)
    device = pick_device(config.training.device, "training.device")
    layout = None if config.model.layout == "auto" else config.model.layout
    if opened is None:
        network.to(device)
        # The layout is verified on the device and with the weights that will be trained.
        choose_layout(network, layout)
    else:
        network.head.to(device)
        _choose_layout_by(shallow, network, layout, ranks)
        del shallow  # before the weights come
    # Once the weights are there: every step frees and allocates the same sizes again. Not those of
    # gathered layers, of which pieces would stay until they are more than the whole model.
    if device.type == "cpu" and not ranks.sharded:
        keep_freed_memory()
    if config.training.gradient_checkpointing:
        network.checkpoint_activations()
    network.train()
    if ranks.sharded:
        from smorm.training.distributed import sharded

        half, offload = config.training.precision == "bf16", config.training.offload
        sharded.shard(network, ranks.world, half=half, offload=offload)
        if opened is not None:
            sharded.read_parts(network, opened.read, offload=offload)
    return network


def _opened(config: Config, tokenizer: Any) -> tuple[Opened | None, Any]:
    """The backbone that the run starts from, to be read in parts, and its shallow one; nothing
    where it is read whole, and the log says why."""
    spec = config.model.backbone
    if isinstance(spec, Architecture):
        return None, None  # drawn, and not read
    try:
        if config.model.lora is not None:
            raise ReadWholeError("adapters are put on it")
        return open_start(spec, len(tokenizer))
    except ReadWholeError as reason:
        log.info("%s: each rank reads all weights before it keeps its part: %s", spec, reason)
        return None, None


def _choose_layout_by(
    shallow: Any, network: RewardNetwork, layout: Layout | None, ranks: Ranks
) -> None:
    """Set the layout of a network without weights: that of its shallow backbone."""
    first = RewardNetwork(shallow, 1, pad_id=network.pad_id).to(network.device)
    choose_layout(first, layout)
    take_tables(network.backbone, first.backbone)
    # Ranks that differ would make other micro-batches of a step.
    of_this_rank = [first.layout, first.fast_layers, first.padded_attention]
    chosen, fast, padded_attention = ranks.gather(of_this_rank)[0]
    network.use_layout(chosen, fast_layers=fast, padded_attention=padded_attention)


def _backbone(config: Config, tokenizer: Any) -> tuple[Any, LanguageHead | None]:
    spec = config.model.backbone
    if isinstance(spec, Architecture):
        seed = config.training.seed if spec.seed is None else spec.seed
        options = {"tokenizer": tokenizer, "max_tokens": config.data.max_tokens}
        return build_backbone(spec.architecture, spec.fields(), seed=seed, **options), None
    if not method_class(config).keeps_language_head:
        lora = config.model.lora
        return load_start(spec, dtype=STORED[lora.base] if lora else torch.float32), None
    # A language head that is tied to the embedding is in every folder, a reward model's too: only
    # the score head distinguishes the two.
    if Path(spec).is_dir():
        folder, needed = resolve(spec), f"objective.kind {config.objective.kind} needs a"
        if find_head(folder) is not None:
            raise ModelError(f"{spec}: {needed} language model, not a reward model")
        if (folder / "adapter_config.json").is_file():
            problem = f"{needed} whole language model, these are adapters"
            raise ModelError(f"{spec}: {problem}: merge them first (peft: merge_and_unload)")
    return load_language_model(spec, len(tokenizer))


def with_precision(config: Config) -> Config:
    """`precision: auto` is bf16 where the device multiplies it in hardware, else fp32."""
    if config.training.precision != "auto":
        return config
    if pick_device(config.training.device, "training.device").type == "cuda":
        half = torch.cuda.is_bf16_supported()  # older devices emulate it, slower than fp32
    else:
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        # torch has these under private names only: one that is gone counts as no.
        half = any(getattr(torch.cpu, probe, bool)() for probe in probes)
    precision = "bf16" if half else "fp32"
    log.info("precision: %s", precision)
    training = config.training.model_copy(update={"precision": precision})
    return config.model_copy(update={"training": training})


def _order(config: Config, train: TokenSet) -> DataOrder:
    mixing = config.data.mixing
    order = DataOrder(
        len(train.pairs), len(train.rated), config.training.batch_size,
        rated_per_pair=mixing.rated_per_pair, mode=mixing.mode, seed=config.training.seed,
    )  # fmt: skip
    if mixing.group_by_prompt:
        order = replace(order, pair_groups=train.pair_prompts, rated_groups=train.rated_prompts)
    return order


def _card(
    config: Config, renderer: Renderer, scales: list[AttributeScale], train: TokenSet
) -> ModelCard:
    method, names, means, base = method_class(config), [scale.name for scale in scales], {}, None
    lora = config.model.lora
    if method.uses_ratings and scales:
        ratings = np.nanmean(restore_scales(scales, train.targets), axis=0)
        means = dict(zip(names, ratings.tolist(), strict=True))
    # Adapters are saved without their backbone: the card says where it is.
    if lora is not None:
        base = str(config.model.backbone)
        base = str(Path(base).resolve()) if Path(base).is_dir() else base
    # Now, and not after the training: a card that cannot be read again is no model's.
    with card_errors("data"):
        card = ModelCard(
            attributes=tuple(names), scales=tuple(scales), means=means,
            default_view=config.output.default_view or method.default_view,
            preference_trained=Rows.PREFERENCE in method.trains,
            head=method.card_head or config.model.head, max_tokens=config.data.max_tokens,
            overlong=config.data.overlong, chat_template=renderer.chat_template,
            renderer=renderer.fingerprint, base=base, base_dtype=lora.base if lora else "fp32",
            hashes={"config": config.hash, "data": train.fingerprint}, versions=versions(),
        )  # fmt: skip
    check_card("data", card)
    return card
