"""The GPU benchmark, the whole of it with small sizes on a CPU, and the memory benchmark's sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import main, ratios
from bench.gpu_models import SHAPES, best_of, pairs, shape_of
from bench.memory import summary


def failures(node: Any, path: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    texts = []
    if "failed" in node:
        texts.append(f"{path}: {node['failed']}\n{node['traceback']}")
    for key, child in node.items():
        texts += failures(child, f"{path}/{key}")
    return texts


def run(folder: Path, *options: str) -> dict[str, Any]:
    path = folder / "gpu.json"
    code = main(["--json", str(path), "--device", "cpu", "--tiny", *options])
    result: dict[str, Any] = json.loads(path.read_text())
    assert not failures(result["parts"]), failures(result["parts"])
    assert code == 0
    return result


def run_part(folder: Path, part: str) -> dict[str, Any]:
    return run(folder, "--shapes", "llama-3.2-1b", "--repeats", "1", "--part", part)


@pytest.mark.slow
def test_every_kernel_is_compared_and_few_graphs_are_compiled(tmp_path: Path) -> None:
    parts = run_part(tmp_path, "equality")["parts"]
    assert list(parts) == ["equality llama-3.2-1b", "attention kernels", "compiled graphs"]
    assert parts["equality llama-3.2-1b"]["fp32"]["scores"] <= 1e-5
    assert parts["equality llama-3.2-1b"]["fp32"]["gradients_relative"] <= 1e-5
    kernels = parts["attention kernels"]
    kernels.pop("part_seconds")
    assert {name.split(" (")[0].split(",")[0] for name in kernels} == {
        "plain products",
        "flex",
        "cpu blocks",
    }
    for name, differences in kernels.items():
        assert max(differences.values()) < (1e-5 if "float32" in name else 0.02), name
    graphs = parts["compiled graphs"]
    assert graphs["graphs"] == graphs["padded_sizes"] < graphs["row_counts"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.distributed's own checkpoints
def test_sharded_steps_and_a_server_are_measured(tmp_path: Path) -> None:
    parts = run_part(tmp_path, "scale")["parts"]
    sharded, served = parts["sharded llama-3.2-1b"], parts["server llama-3.2-1b"]
    assert sharded["loss_difference"] < 1e-2
    assert all(sharded[arm]["seconds"] > 0 for arm in ("whole", "sharded", "sharded checkpointed"))
    assert served["answered"] > 0
    assert served["errors"] == 0
    assert served["largest_difference"] < 0.1 * served["score_spread"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # TRL's
def test_training_and_scoring_are_timed(tmp_path: Path) -> None:
    result = run_part(tmp_path, "speed")
    parts = result["parts"]
    assert {name.split()[0] for name in parts} == {"training", "trl", "scoring", "trace"}
    training = parts["training llama-3.2-1b"]
    assert training["loss_difference"] < 1e-2
    for arm in ("forest", "padded", "forest checkpointed", "padded checkpointed"):
        assert training[arm]["tokens_per_second"] > 0
        # No upper bound: on a busy machine the measured peak can lie below what a step reaches.
        assert training[arm]["mfu_of_measured"] > 0
    assert training["forest"]["tokens"] < training["padded"]["tokens"]
    assert parts["scoring llama-3.2-1b"]["best of 64"]["forest"]["responses_per_second"] > 0
    assert parts["trace llama-3.2-1b"]["top"][0]["share"] > 0
    assert "llama-3.2-1b: training vs padded" in result["ratios"]


@pytest.mark.slow
def test_after_the_time_limit_no_part_begins(tmp_path: Path) -> None:
    parts = run(tmp_path, "--minutes", "0")["parts"]
    assert len(parts) == 7 * len(SHAPES) + 2
    assert all("had passed" in part["not_run"] for part in parts.values())


@pytest.mark.parametrize(("name", "billions"), [("llama-3.2-1b", 0.97), ("gemma-2b", 1.98)])
def test_the_shapes_are_those_of_the_models(name: str, billions: float) -> None:
    """Without embeddings; with them 1.24 and 2.51."""
    assert shape_of(name, tiny=False).linear_parameters() / 1e9 == pytest.approx(billions, rel=0.01)


def test_pairs_begin_alike_and_are_the_same_every_time() -> None:
    units = pairs(50, 1000, 4, tiny=False)
    assert all(np.array_equal(a[:4], b[:4]) for a, b in units)
    assert all(len(side) <= 1024 for unit in units for side in unit)
    again = pairs(50, 1000, 4, tiny=False)
    assert all(
        np.array_equal(x, y)
        for u, v in zip(units, again, strict=True)
        for x, y in zip(u, v, strict=True)
    )
    assert {len(unit) for unit in best_of(16, 3, 1000, 0, tiny=True)} == {16}


def test_ratios_are_of_what_was_measured_only() -> None:
    parts = {
        "training x": {"forest": {"seconds": 2.0}, "padded": {"failed": "out of memory"}},
        "trl x": {"defaults": {"seconds": 9.0}, "no checkpointing": {"failed": "?"}},
    }
    assert ratios(parts) == {"x: training vs TRL, defaults": 4.5}


def test_memory_is_given_as_a_ratio_and_the_losses_are_compared() -> None:
    def arms(ours: int, trl: int, gap: float) -> dict[str, dict[str, Any]]:
        return {
            "ours": {"before": 100, "peak": ours, "loss": 0.5},
            "ours, auto": {"before": 100, "peak": 2 * ours, "loss": 0.5},
            "trl": {"before": 200, "peak": trl, "loss": 0.5 + gap},
        }

    content = summary([arms(1000, 5000, 0.0), arms(1000, 6000, 2e-6), arms(1000, 4000, 1e-6)])
    entry = content["ratios"]["peak_memory_vs_trl"]
    assert entry == {"median": 5.0, "low": 4.0, "high": 6.0, "n": 3}
    assert content["equality"]["peak_memory_vs_trl"] == pytest.approx(2e-6)
    above = content["detail"]["above_before"]["peak_memory_vs_trl"]
    assert above["median"] == pytest.approx(4800 / 900, abs=1e-4)
