"""The parts of a study, each made once and kept: policies, data, pools, models and their scores.

A part's folder or file is named by a fingerprint of all that decides it. What another study made
under the same `work` is found again; what is left half made by a killed process is not seen.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from smorm import files
from smorm.config import parse_config
from smorm.data.census import Census
from smorm.data.pairing import write_paired
from smorm.data.reading import Source
from smorm.lab.config import ArmSection, LabConfig
from smorm.lab.methods import arms_of
from smorm.lab.scores import SetRows, read_rows, score_sets, write_rows
from smorm.scoring.merge import merge_models
from smorm.stress.config import SampleSection
from smorm.stress.sample import sample_file
from smorm.world import Regime, backbone_path, make_world, sample_prompt, write_dataset
from smorm.world.pretrain import Pretraining, write_policy

_SHIPPED = Pretraining()
MAX_TOKENS = 256
_LONGEST_NAME = 40  # of 255 bytes that a file's name may have, with marks and four to a letter


@dataclass
class ArtifactStore:
    """Makes and keeps the parts that a configuration asks for, under `root`."""

    config: LabConfig
    root: Path
    arms: Mapping[str, ArmSection] = field(init=False)

    def __post_init__(self) -> None:
        self.arms = arms_of(self.config)

    def policy(self, seed: int) -> Path:
        """The folder of a run's policy, which its reward models start from."""
        if self.ships(seed):
            return backbone_path()
        how = self._pretraining(seed)
        folder = self.root / "policies" / files.fingerprint({**asdict(how), **self._device})
        if not files.is_whole(folder):
            write_policy(folder, how, self.config.device)
        return folder

    @property
    def _device(self) -> dict[str, str]:
        """What it adds to a fingerprint: on another device chance and rounding are others."""
        device = self.config.device
        return {} if device == "cpu" else {"device": device}

    def ships(self, seed: int) -> bool:
        """Whether a run's policy is the one that comes with the package."""
        return self._pretraining(seed) == _SHIPPED

    def _pretraining(self, seed: int) -> Pretraining:
        asked = self.config.policy
        return Pretraining(
            self.config.policy_seed(seed), self.config.world.facts,
            asked.hidden, asked.layers, asked.steps, asked.batch, asked.rate,
        )  # fmt: skip

    def data(self, seed: int) -> dict[str, Path]:
        """A run's files by name (`smorm.world.write_dataset`)."""
        asked, annotation = self.config.data, self.config.annotation
        facts = self.config.world.facts
        mark = files.fingerprint([seed, facts, asked.model_dump(), asdict(annotation)])
        folder = self.root / "data" / mark
        if not files.is_whole(folder):
            with files.whole_folder(folder) as scratch:
                write_dataset(
                    scratch,
                    seed=seed,
                    num_pairs=asked.pairs,
                    num_rated=asked.rated,
                    num_dev_pairs=asked.dev_pairs,
                    num_eval_pairs=asked.eval_pairs,
                    num_eval_rated=asked.eval_rated,
                    world=make_world(facts),
                    annotation=annotation,
                )
        return {path.stem: path for path in sorted(folder.glob("*.jsonl"))}

    def rated_as_pairs(self, seed: int) -> dict[str, Path]:
        """A run's rated answers as pairs, and those of them that are in one."""
        rated = self.data(seed)["train-rated"]
        folder = self.root / "data" / f"{rated.parent.name}-paired"
        if not files.is_whole(folder):
            with files.whole_folder(folder) as scratch:
                write_paired(Source(rated), scratch)
        return {"rated-pairs": folder / "pairs.jsonl", "rated-in-pairs": folder / "rated.jsonl"}

    def pools(self, seed: int, regime: Regime) -> Path:
        """A file of answers that the run's policy gives to prompts of a regime."""
        asked, policy = self.config.pools, self.policy(seed)
        decisive = [seed, regime, asked.model_dump() | self._device, _policy_mark(policy)]
        path = self.root / "pools" / f"{files.fingerprint(decisive)}.jsonl"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            prompts = path.with_suffix(".prompts.jsonl")
            _write_prompts(prompts, seed, regime, asked.prompts)
            section = SampleSection(
                policy=str(policy),
                answers=asked.answers,
                temperature=asked.temperature,
                top_p=asked.top_p,
                max_new_tokens=asked.max_new_tokens,
                seed=seed,
                batch=256,
            )
            sample_file(Source(prompts), section, path, Census(), device=self.config.device)
        return path

    def arm(self, name: str, seed: int) -> Path:
        """The run's folder of an arm, trained or merged; it may hold scores and no model."""
        folder = self._place(name, seed)
        if (folder / "done.json").exists():
            return folder
        with files.whole_folder(folder) as scratch:
            if self.arms[name].merge:
                models = [self.arm(source, seed) / "model" for source in self.arms[name].merge]
                merge_models(models, scratch / "model")
            else:
                self._train(name, seed, scratch)
            files.write_json(scratch / "done.json", self._decisive(name, seed))
        return folder

    def rows(self, name: str, seed: int) -> dict[str, SetRows]:
        """What an arm gives to every set of a run, by name."""
        sets = self.sets(seed)
        marks = [[key, path.name, path.parent.name] for key, path in sets.items()]
        place = self._place(name, seed)
        path = place.with_name(f"{place.name}.{files.fingerprint(marks)}.npz")
        if not path.exists():
            model = self.arm(name, seed) / "model"
            write_rows(path, score_sets(model, sets, device=self.config.device))
        return read_rows(path)

    def sets(self, seed: int) -> dict[str, Path]:
        """What is scored: development pairs, and of each regime pairs, ratings and pools."""
        data = self.data(seed)
        found = {"dev": data["dev-pairs"]}
        for regime in self.config.regimes:
            found[f"pairs/{regime}"] = data[f"eval-pairs-{regime}"]
            found[f"rated/{regime}"] = data[f"eval-rated-{regime}"]
            found[f"pools/{regime}"] = self.pools(seed, regime)
        return found

    def _train(self, name: str, seed: int, scratch: Path) -> None:
        from smorm.training.loop import train

        run = scratch / "run"
        values = {**self._decisive(name, seed)["config"], "output": {"folder": str(run)}}
        start = self.arms[name].start
        begin = self.policy(seed) if start is None else self.arm(start, seed) / "model"
        values["model"]["backbone"] = str(begin)
        paths = self._paths(name, seed)
        for kind in ("preference", "rated"):
            values["data"][kind] = [str(paths[one]) for one in values["data"][kind]]
        train(parse_config(values, where=f"arms.{name}"))
        for part in ("model", "config.yaml", "cost.json", "data.json", "metrics.jsonl"):
            (run / part).rename(scratch / part)
        # Optimizer states are three times a model, and a finished arm never goes on from them.
        shutil.rmtree(run / "checkpoints", ignore_errors=True)

    def _place(self, name: str, seed: int) -> Path:
        mark = files.fingerprint(self._decisive(name, seed))
        # a name says who it is about, and the mark what it is: two names may be shown alike
        shown = re.sub(r"[^\w.+= -]", "-", name)[:_LONGEST_NAME]
        return self.root / "arms" / f"{shown}-{seed}-{mark}"

    def _decisive(self, name: str, seed: int) -> dict[str, Any]:
        """All that decides an arm's model: its configuration, its data's content, its policy."""
        arm = self.arms[name]
        if arm.merge:
            return {"merge": [self._decisive(source, seed) for source in arm.merge]}
        config = training_config(arm, self.config, seed)
        return {
            "config": config,
            "data": {one: files.sha256(path) for one, path in self._paths(name, seed).items()},
            "policy": _policy_mark(self.policy(seed)),
            **({"start": self._decisive(arm.start, seed)} if arm.start else {}),
        }

    def _paths(self, name: str, seed: int) -> dict[str, Path]:
        """The files that an arm is trained on."""
        data = training_config(self.arms[name], self.config, seed)["data"]
        used = [*data["preference"], *data["rated"]]
        known = self.data(seed)
        if any(one not in known for one in used):
            known = known | self.rated_as_pairs(seed)
        return {one: known[one] for one in used}


def _policy_mark(folder: Path) -> str:
    return files.sha256(folder / "model.safetensors")


def training_config(arm: ArmSection, config: LabConfig, seed: int) -> dict[str, Any]:
    """An arm's configuration of `smorm train`; its data by names, its backbone left open."""
    pairs = {
        "pairs": ["train-pairs"],
        "both": ["train-pairs"],
        "union": ["train-pairs", "rated-pairs"],
        "rated_pairs": ["rated-pairs"],
        "rated_both": ["rated-pairs"],
    }
    rated = {
        "ratings": ["train-rated"],
        "both": ["train-rated"],
        "rated_ratings": ["rated-in-pairs"],
        "rated_both": ["rated-in-pairs"],
    }
    training = {
        "batch_size": 32,
        "learning_rate": 1e-3,
        "threads": 1,
        "log_every": 25,
        "device": config.device,
        **config.training,
        **arm.training,
        "seed": 1000 * arm.twin + seed,
    }
    return {
        "model": dict(arm.model),
        "data": {
            "preference": pairs.get(arm.data, []),
            "rated": rated.get(arm.data, []),
            "max_tokens": MAX_TOKENS,
            "workers": 1,
            "cache": None,
            **({"mixing": dict(arm.mixing)} if arm.mixing else {}),
        },
        "objective": dict(arm.objective),
        "training": training,
    }


def _write_prompts(path: Path, seed: int, regime: Regime, count: int) -> None:
    """Different prompts of the `eval` split, a function of seed and regime."""
    rng = np.random.default_rng([seed, *regime.encode()])
    found: dict[str, None] = {}
    while len(found) < count:
        found[sample_prompt(rng, regime, "eval").text] = None
    files.write_bytes(path, b"".join(orjson.dumps({"prompt": one}) + b"\n" for one in found))
