"""`smorm train --plan`: what a configuration needs on each device, without weights and data.

The run's own modules are built under `FakeTensorMode`, which computes shapes alone, and take the
forward and backward pass of two micro-batches while `LiveBytes` counts: what layers keep, the
copies that autocast makes of weights, what checkpointing and adapters save. Attention keeps what a
fused CUDA kernel keeps. Weights, gradients and moments are counted from the parameters."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from smorm.arrays import Tokens
from smorm.config import Architecture, Config, TrainedTokenizer
from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError, ModelError, first_line
from smorm.model import last_layer
from smorm.model.attention import AttentionPlan
from smorm.model.backbone import adapted_model, add_lora
from smorm.model.base_dtype import replace_linears
from smorm.model.border import quiet, read_config
from smorm.model.cpu.fuse import decoder_layers
from smorm.model.heads import MlpHead
from smorm.model.network import Batch, RewardNetwork
from smorm.model.run_folder import why_no_model
from smorm.model.shapes import SHAPES
from smorm.model_files import local_folder
from smorm.text.tokenizers import load_tokenizer
from smorm.training.head_start import RECORDS
from smorm.training.memory import (
    CUDA_MOST,
    PROBE,
    LiveBytes,
    MemoryModel,
    Unit,
    largest_batch,
    parse_bytes,
)
from smorm.training.methods import method_class
from smorm.training.optim import moment_bytes
from smorm.trees.forest import Forest

Parallel = Literal["replicated", "sharded"]
SIZES = (4096, CUDA_MOST)
"""Tokens of the two micro-batches that are counted. The peak is the largest of several moments,
each a constant and a share per token: a line through two sizes is never below it in between."""
PAIR = (768, 128)
"""Tokens of the prompt and of each response of the pairs that are counted."""
CONTEXT = 1_000_000_000
"""Bytes of a device that no tensor gets: CUDA's context, the libraries' workspaces and buffers."""
GATHERED_LAYERS = 3
"""Of a sharded model: the layer that computes, the next one, and the buffer that it comes in."""


@dataclass(frozen=True, slots=True)
class Machine:
    """So many devices of so many bytes each."""

    devices: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.devices} x {self.size / 1e9:g} GB"


_GB = 10**9
MACHINES = (
    Machine(1, 24 * _GB), Machine(1, 80 * _GB), Machine(1, 141 * _GB), Machine(8, 80 * _GB)
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes on each device: those that are there in every step, and of a micro-batch a constant and
    a share per token. `gathered`: what a sharded model has of weights that are together."""

    weights: int
    gradients: int
    moments: int
    gathered: int
    constant: float
    per_token: float

    @property
    def model(self) -> MemoryModel:
        """The same as `max_batch_tokens: auto` has it."""
        base, state = self.weights + self.gathered, self.gradients + self.moments
        return MemoryModel(base, state, self.constant, self.per_token)


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train on one machine. `tokens`: `max_batch_tokens`, the largest that fits, or the
    values of the configuration (`configured`); where it does not `fit`, so many as a longest pair
    has."""

    machine: Machine
    parallel: Parallel
    tokens: int
    needs: Needs
    fits: bool
    configured: bool = False

    @property
    def activations(self) -> int:
        """Bytes of a micro-batch, with the reserve for what a count cannot see."""
        model = self.needs.model
        return model.of(self.tokens) - model.base - model.state

    @property
    def total(self) -> int:
        return self.needs.model.of(self.tokens)

    def as_dict(self) -> dict[str, Any]:
        needs = asdict(self.needs)
        del needs["constant"]
        return {
            "devices": self.machine.devices, "device_bytes": self.machine.size,
            "parallel": self.parallel, "max_batch_tokens": self.tokens, **needs,
            "activations": self.activations, "total": self.total, "fits": self.fits,
            "configured": self.configured,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """Of a configuration: its parameters, rows by machine with its own one last, and notes."""

    parameters: int
    trained: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the configuration's own values fit any machine."""
        return self.rows[-1].fits

    def as_dict(self) -> dict[str, Any]:
        rows = [row.as_dict() for row in self.rows]
        return {"kind": "plan", "parameters": self.parameters, "trained": self.trained,
                "rows": rows, "notes": list(self.notes)}  # fmt: skip


def plan(config: Config) -> Plan:
    """What a configuration needs, and what fits on `MACHINES`. `ConfigError` for a method whose
    memory is not that of forward and backward passes; `ModelError` where there is no shape."""
    counter = Counter(config)
    rows = list(counter.rows())
    total = count_weights(counter.network)
    parameters = counter.network.parameters()
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return Plan(total, trained, (*rows, counter.own_row()), counter.notes())


class Counter:
    """Counts each kind of parallelism once: the machines differ in numbers alone."""

    def __init__(self, config: Config) -> None:
        self.config, self.network = config, build_fake(config)
        self.half = config.training.precision != "fp32"
        # A sequence is never cut, nor a pair, whose sides may have nothing in common.
        self.longest = 2 * config.data.max_tokens
        lora = config.model.lora
        smaller = lora is not None and lora.base != "fp32"
        self.can_shard = not smaller and config.training.optimizer == "adamw"
        self._activations: dict[Parallel, tuple[float, float]] = {}

    def rows(self) -> Iterator[Row]:
        for machine in MACHINES:
            yield self.best(machine, "replicated")
            if machine.devices > 1 and self.can_shard:
                yield self.best(machine, "sharded")

    def best(self, machine: Machine, parallel: Parallel) -> Row:
        """With the largest micro-batches that fit."""
        needs = self.needs(parallel, machine.devices)
        try:
            tokens = largest_batch(needs.model, machine.size - CONTEXT, torch.device("cuda"))
        except ConfigError:
            tokens = 0
        if tokens < min(self.longest, CUDA_MOST):
            return Row(machine, parallel, self.longest, needs, fits=False)
        return Row(machine, parallel, tokens, needs, fits=True)

    def own_row(self) -> Row:
        """With the configuration's own values, on the first machine that holds them, else on the
        last one."""
        training = self.config.training
        parallel: Parallel = "sharded" if training.parallel == "sharded" else "replicated"
        for machine in MACHINES:
            row = replace(self.best(machine, parallel), configured=True)
            if training.max_batch_tokens != "auto":
                tokens = training.max_batch_tokens
                total = row.needs.model.of(max(tokens, self.longest))
                fits = total <= machine.size - CONTEXT
                row = replace(row, tokens=tokens, fits=fits)
            if training.memory_budget is not None and row.fits:
                row = replace(row, fits=row.total <= parse_bytes(training.memory_budget))
            if row.fits:
                break
        return row

    def needs(self, parallel: Parallel, devices: int) -> Needs:
        network, sharded = self.network, parallel == "sharded"
        backbone = sum(parameter.nbytes for parameter in network.backbone.parameters())
        head = sum(parameter.nbytes for parameter in network.head.parameters())
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradients = sum(parameter.nbytes for parameter in trained)
        moments = moment_bytes(trained, self.config.training.optimizer)
        gathered = 0
        if sharded:
            of_all_weights = gradients
            backbone, moments = -(-backbone // devices), -(-moments // devices)
            gradients = -(-gradients // devices)
            # They are added up over the ranks in the last backward pass of a step: until then each
            # rank has those of all weights, in fp32.
            if not self.one_micro_batch(devices):
                gradients += of_all_weights
            # Of these the host has all parts, and the device what it computes with.
            if self.config.training.offload:
                backbone = moments = 0
                gradients -= -(-of_all_weights // devices)
            gathered = self.gathered()
        constant, per_token = self.activations(parallel)
        return Needs(backbone + head, gradients, moments, gathered, constant, per_token)

    def one_micro_batch(self, devices: int) -> bool:
        """Whether a step is surely one micro-batch on each rank."""
        training = self.config.training
        tokens = training.max_batch_tokens if training.max_batch_tokens != "auto" else CUDA_MOST
        sequences = 2 * training.batch_size * (1 + self.config.data.mixing.rated_per_pair)
        return sequences * self.config.data.max_tokens <= devices * tokens

    def gathered(self) -> int:
        """Of a sharded model: some layers, and what is no layer."""
        backbone: Any = self.network.backbone
        size = 2 if self.half else 4
        layers = decoder_layers(backbone, backbone.config.get_text_config().num_hidden_layers)
        counts = [count_weights(layer) for layer in layers]
        rest = count_weights(backbone) - sum(counts)
        return size * (rest + GATHERED_LAYERS * max(counts, default=0))

    def activations(self, parallel: Parallel) -> tuple[float, float]:
        """The constant and the share per token."""
        if not self.half:
            parallel = "replicated"
        if parallel not in self._activations:
            network = self.network
            # FSDP gathers bf16 weights: autocast has nothing to copy.
            if parallel == "sharded":
                network = build_fake(self.config, dtype=torch.bfloat16)
            self._activations[parallel] = count_activations(network, half=self.half)
        return self._activations[parallel]

    def notes(self) -> tuple[str, ...]:
        training = self.config.training
        lines = [
            f"{CONTEXT / 1e9:g} GB of each device are left to CUDA and its libraries, and 10 % of "
            "a micro-batch to what a count cannot see",
            f"micro-batches of pairs with {PAIR[0]} tokens of prompt and 2 x {PAIR[1]} of answers; "
            f"a pair of the longest conversations may have {self.longest:,} tokens, and is not "
            "split: what fits holds one",
        ]
        if not self.one_micro_batch(8):
            lines.append(
                "sharded: until the last backward pass of a step each rank has the gradients of "
                "all weights, unless it has one micro-batch a step"
            )
        if self.config.head_start == "probe":
            lines.append(self.probe_note())
        if training.precision == "auto":
            lines.append("precision: auto is counted as bf16")
        return tuple(lines)

    def probe_note(self) -> str:
        """What `model.head_start: probe` takes before the first step."""
        method, width = method_class(self.config), self.network.head.weight.shape[1]
        kinds, responses = [], 0
        if method.uses_pairs:
            kinds.append("pairs")
            responses += 2 * RECORDS
        if method.uses_ratings:
            kinds.append("rated responses")
            responses += RECORDS
        size = 4 * responses * width / 1e9
        return (
            f"head_start: probe: before the first step one forward pass over at most {RECORDS:,} "
            f"{' and as many '.join(kinds)}; {size:.2g} GB of the first rank's host for their "
            "hidden states, and up to three times that while it fits the rows"
        )


def count_weights(module: torch.nn.Module) -> int:
    """How many weights there are, two in each byte of 4-bit ones."""
    total = sum(parameter.numel() for parameter in module.parameters())
    for layer in module.modules():
        if isinstance(layer, FourBits):
            total += layer.in_features * layer.out_features - layer.weight.numel()
    return total


class FourBits(torch.nn.Linear):
    """What bitsandbytes' `Linear4bit` takes: half a byte a weight, a byte for the scale of 64, four
    for the scale of 256 of these; and the whole weight in bf16 while it is multiplied."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        count = self.in_features * self.out_features
        size = count // 2 + count // 64 + count // (64 * 64)
        packed = linear.weight.new_empty(size, dtype=torch.uint8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., K] -> [..., N]."""
        shape = (self.out_features, self.in_features)
        out: torch.Tensor = _Unpacked.apply(x.to(torch.bfloat16), shape)
        return (out if self.bias is None else out + self.bias).to(x.dtype)


class _Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        return x @ x.new_empty(shape).t()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0] @ grads[0].new_empty(ctx.shape), None


def build_fake(
    config: Config, *, dtype: torch.dtype = torch.float32, on_cpu: bool = False
) -> RewardNetwork:
    """The network that a run would begin with, without weights, in the forest layout; its backbone
    in `dtype`. `on_cpu`: its layers run as on a CPU, else as on CUDA."""
    method = method_class(config)
    if method.keeps_language_head or not method.over_ranks:
        kind = config.objective.kind
        raise ConfigError(f"--plan: objective.kind {kind}: its memory is not counted here")
    from transformers import AutoModel

    shape, lora = _shape(config), config.model.lora
    if lora is not None and lora.base != "fp32":
        dtype = torch.bfloat16
    # On the meta device: peft moves its modules, which tensors of the mode do not bear.
    with torch.device("meta"), quiet():
        backbone: Any = AutoModel.from_config(shape, dtype=dtype, trust_remote_code=False)
        if lora is not None:
            if lora.base == "nf4":
                replace_linears(backbone, FourBits)
            backbone = add_lora(backbone, **lora.adapters())
        if config.model.freeze or method.freezes_backbone:
            backbone.requires_grad_(False)
        scales = [AttributeScale(name) for name in config.data.attributes or ()]
        network = RewardNetwork(backbone, 1 + len(method.rows(scales)), pad_id=0)
        if config.model.head == "mlp":
            network.head = MlpHead(backbone.config.get_text_config().hidden_size)
        method.init_head(network)
        network.use_layout("forest", fast_layers=on_cpu)
        if not on_cpu:
            layers = backbone.config.get_text_config().num_hidden_layers
            last_layer.set_layer_forwards(backbone, layers, fuse=False, prune=True)
        if config.training.gradient_checkpointing:
            network.checkpoint_activations()
    _make_fake(network)
    return network.train()


def _make_fake(network: RewardNetwork) -> None:
    """Let meta tensors pass for tensors of a CPU, whose types autocast changes."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        # A tied weight stays one.
        if id(tensor) not in made:
            made[id(tensor)] = FakeTensor(mode, tensor.detach(), torch.device("cpu"))
        return made[id(tensor)]

    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                with mode:
                    weight = torch.nn.Parameter(fake(parameter), parameter.requires_grad)
                made[id(parameter)] = weight
                module._parameters[name] = weight


def network_mode(network: RewardNetwork) -> FakeTensorMode:
    """The mode that a network was built under."""
    weight: Any = next(network.backbone.parameters())
    mode: FakeTensorMode = weight.fake_mode
    return mode


def _shape(config: Config) -> Any:
    """transformers' config of the backbone: of its fields, of a folder's `config.json`, of a
    recipe's, or of the hub."""
    from transformers import AutoConfig

    spec = config.model.backbone
    if isinstance(spec, Architecture):
        fields = {"max_position_embeddings": config.data.max_tokens, **spec.fields()}
        return AutoConfig.for_model(
            spec.architecture, **{"vocab_size": _vocabulary(config), "pad_token_id": 0, **fields}
        )
    if Path(spec).is_dir():
        return read_config(_folder_of(Path(spec)))
    if spec in SHAPES:
        fields = dict(SHAPES[spec])
        return AutoConfig.for_model(fields.pop("architecture"), pad_token_id=0, **fields)
    return read_config(local_folder(spec, weights=False))


def _folder_of(folder: Path) -> Path:
    """Where the `config.json` is: of a run's folder in its model, of adapters in their base."""
    for path in (folder, folder / "model"):
        if base := adapted_model(path):
            return local_folder(base, weights=False)
        if (path / "config.json").is_file():
            return path
    raise ModelError(why_no_model(folder) or f"{folder}: no config.json in it")


def _vocabulary(config: Config) -> int:
    tokenizer = config.model.tokenizer
    if isinstance(tokenizer, TrainedTokenizer):
        return tokenizer.vocab_size
    return len(load_tokenizer(str(tokenizer)))


def count_activations(
    network: RewardNetwork, *, half: bool, units: Sequence[Unit] = (), on_cpu: bool = False
) -> tuple[float, float]:
    """Bytes of a micro-batch of a network without weights: a constant, and the share per token.
    With `units` of the sizes that `smorm.training.memory.measure` takes."""
    mode = network_mode(network)
    with mode:
        # As in every micro-batch but a step's first.
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
    points = []
    for tokens in PROBE if units else SIZES:
        batch = _batch(network, units, tokens)
        points.append((batch.num_tokens, _peak(network, mode, batch, half=half, on_cpu=on_cpu)))
    (small, small_peak), (large, large_peak) = points
    per_token = (large_peak - small_peak) / (large - small)
    return max(0.0, small_peak - per_token * small), max(1.0, per_token)


def _batch(network: RewardNetwork, units: Sequence[Unit], tokens: int) -> Batch:
    if units:
        from smorm.training.memory import probe_batch

        return probe_batch(network, units, tokens)
    prompt, answer = PAIR
    rng, sequences = np.random.default_rng(0), []
    for _ in range(math.ceil(tokens / (prompt + 2 * answer))):
        beginning = rng.integers(0, 250, prompt).astype(np.int32)
        for _ in range(2):
            end: Tokens = rng.integers(0, 250, answer).astype(np.int32)
            sequences.append(np.concatenate([beginning, end]))
    return network.arrange(sequences)


def _peak(
    network: RewardNetwork, mode: FakeTensorMode, batch: Batch, *, half: bool, on_cpu: bool
) -> int:
    assert isinstance(batch, Forest)
    plan = AttentionPlan(batch, counted=not on_cpu)
    # Made of the tree's numbers, which a tensor without them has not.
    for queries in (plan, plan.leaves):
        _ = queries.blocks if on_cpu else queries.gather
    try:
        with mode, LiveBytes() as live:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                scores: Any = network.head(network.pooled_forest(plan))
            scores.square().mean().backward()
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        kind = network.backbone.config.model_type
        raise ModelError(f"--plan: {kind} cannot be counted: {first_line(error)}") from error
    return int(live.peak)
