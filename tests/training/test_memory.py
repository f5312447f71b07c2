"""`max_batch_tokens: auto`: what is measured is what a process really takes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from smorm.config import Config
from smorm.errors import CheckpointError, ConfigError, Interrupted
from smorm.model.network import RewardNetwork
from smorm.model.verify import choose_layout
from smorm.training.loop import train
from smorm.training.memory import (
    CPU_MOST,
    CUDA_MOST,
    PROBE,
    LiveBytes,
    MemoryModel,
    free_bytes,
    largest_batch,
    longest_units,
    measure,
    parse_bytes,
    resident_bytes,
    resolve_splitting,
    settle,
)
from smorm.training.setup import prepare
from tests.model.architectures import tiny
from tests.training.runs import bits, config_of
from tests.training.test_resume import stopping_in

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROOT = Path(__file__).resolve().parents[2]

# What a user writes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GB", 8 * 10**9),
        ("8 GiB", 8 * 2**30),
        ("7.5gb", 7_500_000_000),
        ("500MB", 500_000_000),
        ("1000000", 1_000_000),
    ],
)
def test_a_budget_is_read_as_it_is_written(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "8 apples", "-1GB", "0GB", "GB"])
def test_a_budget_that_says_nothing_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.memory_budget.*expected e\.g\. 8GB"):
        parse_bytes(text)


# From bytes to tokens


needs = st.builds(
    MemoryModel,
    base=st.integers(0, 10**10),
    state=st.integers(0, 10**10),
    constant=st.floats(0, 1e9),
    per_token=st.floats(1e3, 1e7),
)


@given(needs, st.integers(10**9, 10**12), st.integers(0, 10**11))
def test_a_larger_budget_never_gives_fewer_tokens_and_all_fit(
    need: MemoryModel, budget: int, more: int
) -> None:
    try:
        tokens = largest_batch(need, budget, CUDA)
    except ConfigError:
        assert need.of(64) > budget - 2 * need.per_token
        return
    assert 64 <= tokens <= CUDA_MOST
    assert need.of(tokens) <= budget
    assert largest_batch(need, budget + more, CUDA) >= tokens
    if tokens < CUDA_MOST:
        assert need.of(tokens + tokens // 8 + 16) > budget


def test_a_cpu_gets_no_more_than_makes_it_faster() -> None:
    need = MemoryModel(base=10**9, state=10**9, constant=0.0, per_token=1e3)
    assert largest_batch(need, 10**12, CPU) == CPU_MOST
    assert largest_batch(need, 10**12, CUDA) == CUDA_MOST


def test_on_cuda_sizes_grow_until_what_fits_lies_between_two() -> None:
    """The peak of one moment has a large constant, that of another a large share: small sizes show
    the first alone."""

    def peak(tokens: int) -> float:
        return max(4e9 + 170e3 * tokens, 1.5e9 + 380e3 * tokens)

    seen = []

    def measure_at(sizes: tuple[int, int]) -> MemoryModel | None:
        seen.append(sizes)
        small, large = map(peak, sizes)
        share = (large - small) / (sizes[1] - sizes[0])
        return MemoryModel(0, 0, max(0.0, small - share * sizes[0]), share, 0.0)

    budget, first = 12 * 10**9, measure_at(PROBE)
    assert first is not None
    # By the first two sizes alone it would not fit.
    assert peak(largest_batch(first, budget, CUDA)) > budget
    tokens, _ = settle(first, budget, CUDA, measure_at, int)
    assert 0.8 * budget < peak(tokens) <= budget
    assert all(peak(large) <= budget for _, large in seen[:-1])
    assert settle(first, budget, CPU, measure_at, int)[0] == CPU_MOST


def test_where_a_larger_size_does_not_fit_the_one_before_it_is_taken() -> None:
    model = MemoryModel(0, 0, 1e9, 1e5, 0.0)
    grown = {(1024, 2048): model}
    assert settle(model, 10**10, CUDA, grown.get, int) == (2048, model)


@pytest.mark.slow
def test_records_that_are_longer_than_what_is_measured() -> None:
    network = RewardNetwork(tiny("llama"), 1, pad_id=0)
    choose_layout(network)
    unit = [np.arange(n, dtype=np.int32) % 50 for n in (1100, 1200)]
    assert measure(network, [unit], half=False).per_token > 1


def test_a_budget_that_holds_nothing_says_what_is_needed() -> None:
    need = MemoryModel(base=4 * 10**9, state=3 * 10**9, constant=0.0, per_token=1e6)
    with pytest.raises(ConfigError, match=r"6\.00 GB do not hold .* needs 7\.07 GB: give more"):
        largest_batch(need, 6 * 10**9, CPU)


def test_what_is_free_is_less_than_all_there_is() -> None:
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_bytes(CPU) < pages
    assert 10**7 < resident_bytes() < pages


# Counting


def test_bytes_count_once_while_they_live() -> None:
    a = torch.ones(1000, requires_grad=True)
    with LiveBytes() as live:
        b = a * 2
        view = b.view(10, 100)
        assert live.live == 4000
        c = b.exp()
        assert live.live == 8000
        del b
        assert live.live == 8000, "the view still holds it"
        del view, c
        assert live.live == 0
        b = (a * 3).mul_(2)
        assert b.numel() * 4 == live.live == 4000, "in place makes nothing"
        assert live.peak == 8000


def test_the_backward_pass_is_counted_too() -> None:
    a = torch.ones(1000, requires_grad=True)
    with LiveBytes() as live:
        a.exp().exp().sum().backward()
        assert live.peak >= 3 * 4000
        assert live.live == 4000, "the gradient stays"
    assert a.grad is not None


def sequences(seed: int, count: int = 12) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        prompt = rng.integers(3, 97, int(rng.integers(20, 80))).astype(np.int32)
        tails = [rng.integers(3, 97, int(rng.integers(5, 40))).astype(np.int32) for _ in range(2)]
        pairs.append([np.concatenate([prompt, tail]) for tail in tails])
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["forest", "packed", "padded"])
def test_measuring_leaves_no_trace(layout: Any) -> None:
    network = RewardNetwork(tiny("llama"), rows=3, pad_id=0).train()
    network.use_layout(layout)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    need = measure(network, sequences(0), half=False)
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    trained = sum(parameter.numel() for parameter in network.parameters())
    assert need.state == 3 * 4 * trained
    assert need.per_token > 3 * 32 * 4, "at least a hidden state per layer"


@pytest.mark.slow
def test_checkpointed_activations_need_less_per_token() -> None:
    network = RewardNetwork(tiny("llama", num_hidden_layers=5), rows=3, pad_id=0).train()
    choose_layout(network)
    plain = measure(network, sequences(0), half=False)
    network.checkpoint_activations()
    assert measure(network, sequences(0), half=False).per_token < 0.6 * plain.per_token


@pytest.mark.slow
def test_measured_twice_it_is_the_same() -> None:
    network = RewardNetwork(tiny("mistral"), rows=3, pad_id=0).train()
    choose_layout(network)
    one, other = (measure(network, sequences(0), half=True) for _ in range(2))
    assert (one.state, one.constant, one.per_token) == (
        other.state,
        other.constant,
        other.per_token,
    )


# Against what the system says

CHILD = """
import json, os, sys
import numpy as np
import torch
from transformers import AutoConfig, AutoModel
from transformers.models.llama import modeling_llama
from smorm.model.network import RewardNetwork
from smorm.training.memory import largest_batch
from smorm.training.memory import measure

torch.set_num_threads(1)
# The libraries once; what each measures is of a process that has computed nothing before.
for share in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        break
    assert os.waitpid(pid, 0)[1] == 0
else:
    sys.exit()
config = AutoConfig.for_model("llama", vocab_size=4000, hidden_size=256, intermediate_size=704,
    num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
network = RewardNetwork(AutoModel.from_config(config), rows=3, pad_id=0).train()
network.use_layout("forest")
rng = np.random.default_rng(0)
draw = lambda n: rng.integers(3, 4000, n).astype(np.int32)
units = []
for _ in range(60):
    prompt = draw(120)
    units.append([np.concatenate([prompt, draw(40)]) for _ in range(2)])
need = measure(network, units, half=False)
budget = need.base + int(float(share) * 1e6)
tokens = largest_batch(need, budget, network.device)
optimizer = torch.optim.AdamW(network.parameters(), fused=True)
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
for step in range(2):
    optimizer.zero_grad()
    for batch in network.micro_batches(units, tokens):
        forest = network.arrange([tokens for unit in batch for tokens in units[unit]])
        network(forest).square().sum().backward()
    optimizer.step()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"tokens": tokens, "there": need.base, "promised": need.of(tokens),
    "budget": budget, "peak": int(peak.split()[1]) * 1024}), flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_process_takes_about_what_was_promised() -> None:
    """Above what was there before; the peak is the system's own count, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "180", "400"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
        timeout=200,
    )
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(measured) == 2
    for found in measured:
        assert 256 <= found["tokens"] < CPU_MOST
        taken, promised = found["peak"] - found["there"], found["promised"] - found["there"]
        assert promised <= found["budget"] - found["there"]
        assert 0.75 * promised <= taken <= 1.25 * promised, found


# In a run

PROBES = 3
"""Forward passes of the measurement, before the first step."""


def automatic(folder: Path, **training: Any) -> Config:
    return config_of(folder, training={"max_batch_tokens": "auto", **training})


def recorded(folder: Path) -> Any:
    return yaml.safe_load((folder / "config.yaml").read_text())["training"]["max_batch_tokens"]


@pytest.mark.slow
def test_a_run_tells_its_number_and_takes_it_again_when_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train(automatic(tmp_path / "straight"))
    tokens = recorded(tmp_path / "straight")
    assert tokens == CPU_MOST
    assert f"max_batch_tokens: auto is {tokens}: a step takes about" in caplog.text
    with stopping_in(PROBES + 2), pytest.raises(Interrupted):
        train(automatic(tmp_path / "run"))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        train(automatic(tmp_path / "run"), resume=True)
    assert f"max_batch_tokens: auto is {tokens}, as when this run began" in caplog.text
    assert bits(tmp_path / "run") == bits(tmp_path / "straight")


@pytest.mark.slow
def test_what_was_recorded_decides_and_not_what_is_free_now(tmp_path: Path) -> None:
    with stopping_in(PROBES + 2), pytest.raises(Interrupted):
        train(automatic(tmp_path / "run"))
    file = tmp_path / "run" / "config.yaml"
    file.write_text(file.read_text().replace(f": {CPU_MOST}", ": 72"))
    with pytest.raises(CheckpointError, match=r"another training\.max_batch_tokens"):
        train(automatic(tmp_path / "run"), resume=True)


@pytest.mark.slow
def test_a_budget_below_the_weights_stops_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.memory_budget: 10\.0 MB do not hold"):
        train(automatic(tmp_path / "run", memory_budget="10MB"))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_small_budget_gives_small_batches_and_says_what_is_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare(automatic(tmp_path / "run"))
    need = measure(prepared.network, longest_units(prepared.train), half=False)
    budget = str(need.of(80) + 6_000_000)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        found = resolve_splitting(
            prepare(automatic(tmp_path / "run", memory_budget=budget)), resume=False
        )
    assert 64 <= int(found.config.training.max_batch_tokens) < CPU_MOST
    longest = max(prepared.network.arrange(u).num_tokens for u in longest_units(prepared.train))
    told = "it is a batch by itself" in caplog.text
    assert told == (longest > int(found.config.training.max_batch_tokens))


@pytest.mark.parametrize("value", [0, -5, "all", 1.5])
def test_other_numbers_of_tokens_are_errors(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"max_batch_tokens: a number of tokens above 0, or auto"):
        config_of(tmp_path, training={"max_batch_tokens": value})


def test_a_budget_that_is_no_memory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"memory_budget: expected memory such as 8GB"):
        config_of(tmp_path, training={"memory_budget": "plenty"})
