"""What a study of the generated world makes: policies, data, pools, arms, and scores of the arms.
Each is an artifact (`smorm.lab.artifacts`), a function of the configuration and a run's seed. All
rows of all answers are kept, so that any system can be measured later without a model.
Shapes: `M` answers of a set (of all its records, in order), `C` rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from smorm import files
from smorm.arrays import Floats, Ints
from smorm.config import parse_config
from smorm.data.census import Census
from smorm.data.pairing import write_paired
from smorm.data.reading import Source, read_records
from smorm.data.records import Item, text_of
from smorm.errors import ConfigError, DataError
from smorm.lab.artifacts import MAX_LABEL, ArtifactStore
from smorm.lab.config import ArmSection, LabConfig
from smorm.lab.methods import arms_of, training_config
from smorm.rewards.model import ModelReward
from smorm.rewards.protocol import Reward, ScoringOptions, open_reward, score_each, values_of
from smorm.scoring.merge import merge_models
from smorm.scoring.reward_model import RewardModel
from smorm.stress.config import SampleSection
from smorm.stress.sample import sample_file
from smorm.world import Regime, backbone_path, make_world, sample_prompt, write_dataset
from smorm.world.pretrain import Pretraining, make_policy

# What an arm keeps of a training's output folder.
_OF_A_RUN = ("model", "config.yaml", "cost.json", "data.json", "metrics.jsonl")


@dataclass(frozen=True, slots=True)
class SetRows:
    """Rows of a set's answers."""

    names: tuple[str, ...]  # `preference`, where it was trained, and the attributes [C]
    values: Floats  # on the attributes' own scales [M, C]
    tokens: Ints  # length of each conversation [M]

    def view(self, name: str) -> Floats:
        """F, L, M (`smorm.model.views`) or an attribute, [M]."""
        attributes = [row for row in self.names if row != "preference"]
        if name in ("L", "M") and not attributes:
            raise ConfigError(f"view {name}: needs attribute rows, and this model has none")
        if name == "L":
            return np.asarray(np.mean(list(map(self._row, attributes)), axis=0))
        if name == "M":
            return np.asarray((self.view("F") + self.view("L")) / 2)
        return self._row({"F": "preference"}.get(name, name))

    def _row(self, name: str) -> Floats:
        if name not in self.names:
            raise ConfigError(f"view: no row {name!r}; this model has {', '.join(self.names)}")
        return self.values[:, self.names.index(name)]


class WorldArtifacts:
    """Finds or makes all that a configuration needs, under its work folder.

    Attributes:
        arms: the arms that the configuration knows, by name."""

    def __init__(self, config: LabConfig) -> None:
        self.config, self.store = config, ArtifactStore(config.work_folder)
        self.arms: Mapping[str, ArmSection] = arms_of(config)
        self._rewards: dict[str, Reward] = {}

    @property
    def _device(self) -> dict[str, str]:
        # Another device has another generator and rounds differently; recipes of before there was
        # a choice still hold.
        if self.config.device == "cpu":
            return {}
        return {"device": self.config.device}

    def policy(self, seed: int) -> Path:
        """The folder of a run's policy, which its reward models start from."""
        if self.is_shipped(seed):
            return backbone_path()
        pretraining = self._pretraining(seed)
        recipe = {**asdict(pretraining), **self._device}
        path, device = self.store.path("policies", recipe), self.config.device
        return self.store.folder(path, recipe, lambda at: make_policy(at, pretraining, device))

    def is_shipped(self, seed: int) -> bool:
        """Whether a run's policy is the one that comes with the package."""
        return self._pretraining(seed) == Pretraining()

    def _pretraining(self, seed: int) -> Pretraining:
        sizes = self.config.policy.model_dump(exclude={"seeds"})
        return Pretraining(self.config.policy_seed(seed), self.config.world.facts, **sizes)

    def data(self, seed: int) -> dict[str, Path]:
        """A run's files by name (`smorm.world.write_dataset`)."""
        data, annotation = self.config.data, self.config.annotation
        facts = self.config.world.facts

        def make(scratch: Path) -> None:
            counts: dict[str, Any] = {}
            for name, count in data.model_dump(exclude={"answers_per_prompt"}).items():
                counts[f"num_{name}"] = count
            world = make_world(facts)
            write_dataset(scratch, seed=seed, world=world, annotation=annotation, **counts)

        recipe = [seed, facts, data.model_dump(), asdict(annotation)]
        folder = self.store.folder(self.store.path("data", recipe), recipe, make)
        return {path.stem: path for path in sorted(folder.glob("*.jsonl"))}

    def rated_as_pairs(self, seed: int) -> dict[str, Path]:
        """A run's rated answers as pairs, and those of them that are in one."""
        # A folder beside the data's: it may be missing there, and `data` lists what is in it.
        rated = self.data(seed)["train-rated"]
        path, recipe = Path(f"{rated.parent}-paired"), {"pairs of": rated.parent.name}
        folder = self.store.folder(path, recipe, lambda at: write_paired(Source(rated), at))
        return {"rated-pairs": folder / "pairs.jsonl", "rated-in-pairs": folder / "rated.jsonl"}

    def pools(self, seed: int, regime: Regime) -> Path:
        """A file of answers that the run's policy gives to prompts of a regime."""
        pools, policy = self.config.pools, self.policy(seed)
        recipe = [seed, regime, pools.model_dump() | self._device, _weights_hash(policy)]

        def make(path: Path) -> None:
            rng = np.random.default_rng([seed, *regime.encode()])
            # A dict in place of a set: it drops repeated prompts and keeps the order of the draws.
            different: dict[str, None] = {}
            while len(different) < pools.prompts:
                different[sample_prompt(rng, regime, "eval").text] = None
            prompts = self.store.path("pools", recipe, ending=".prompts.jsonl")
            lines = [orjson.dumps({"prompt": prompt}) + b"\n" for prompt in different]
            files.write_bytes(prompts, b"".join(lines))
            sampling = pools.model_dump(exclude={"prompts"})
            section = SampleSection(policy=str(policy), seed=seed, batch=256, **sampling)
            sample_file(Source(prompts), section, path, Census(), device=self.config.device)

        return self.store.file(self.store.path("pools", recipe, ending=".jsonl"), recipe, make)

    def arm(self, name: str, seed: int) -> Path:
        """The run's folder of an arm, trained or merged, with its model in `model`."""

        def make(scratch: Path) -> None:
            if self.arms[name].merge:
                models = [self.arm(source, seed) / "model" for source in self.arms[name].merge]
                merge_models(models, scratch / "model")
            else:
                self._train(name, seed, scratch)

        return self.store.folder(self.arm_path(name, seed), self._arm_recipe(name, seed), make)

    def reward(self, name: str) -> Reward:
        """The reward of an arm that is one and is not trained."""
        section = self.arms[name].reward
        assert section is not None
        if name not in self._rewards:
            self._rewards[name] = open_reward(section, ScoringOptions(self.config.device))
        return self._rewards[name]

    def arm_path(self, name: str, seed: int) -> Path:
        """Where an arm is, made or not."""
        # A long name must not cut the seed off.
        label = f"{name[: MAX_LABEL - 8]}-{seed}"
        return self.store.path("arms", self._arm_recipe(name, seed), label=label)

    def rows(self, name: str, seed: int) -> dict[str, SetRows]:
        """What an arm gives to every set of a run, by name."""
        sets = self.sets(seed)
        recipe = [[key, path.name, path.parent.name] for key, path in sets.items()]
        arm = self.arm_path(name, seed)

        def make(path: Path) -> None:
            if self.arms[name].reward is not None:
                rows = reward_rows(self.reward(name), sets)
            else:
                rows = score_sets(self.arm(name, seed) / "model", sets, device=self.config.device)
            write_rows(path, rows)

        # Beside the arm, not in it: its folder is sealed, and other sets of it get other files.
        path = arm.with_name(f"{arm.name}.{files.fingerprint(recipe)}.npz")
        return read_rows(self.store.file(path, recipe, make))

    def sets(self, seed: int) -> dict[str, Path]:
        """What is scored: development pairs, and of each regime pairs, ratings and pools."""
        data = self.data(seed)
        sets = {"dev": data["dev-pairs"]}
        for regime in self.config.regimes:
            sets[f"pairs/{regime}"] = data[f"eval-pairs-{regime}"]
            sets[f"rated/{regime}"] = data[f"eval-rated-{regime}"]
            sets[f"pools/{regime}"] = self.pools(seed, regime)
        return sets

    def _train(self, name: str, seed: int, scratch: Path) -> None:
        from smorm.training.loop import train

        arm, run = self.arms[name], scratch / "run"
        values = training_config(arm, self.config, seed)
        values["output"] = {"folder": str(run)}
        backbone = self.policy(seed)
        if arm.start is not None:
            backbone = self.arm(arm.start, seed) / "model"
        values["model"]["backbone"] = str(backbone)
        # By name until now, so that the recipe does not depend on where `work` is.
        paths = self._training_files(name, seed)
        for kind in ("preference", "rated"):
            values["data"][kind] = [str(paths[file]) for file in values["data"][kind]]
        train(parse_config(values, where=f"arms.{name}"))
        for entry in _OF_A_RUN:
            (run / entry).rename(scratch / entry)
        # Optimizer states are three times a model, and a finished arm never goes on from them.
        files.remove_folder(run / "checkpoints")

    def _arm_recipe(self, name: str, seed: int) -> dict[str, Any]:
        """All that decides an arm's model: its configuration, its data's content, its policy."""
        arm = self.arms[name]
        if arm.reward is not None:
            reward = self.reward(name)
            return {"reward": dict(reward.provenance), "view": dict(reward.view().definition)}
        if arm.merge:
            return {"merge": [self._arm_recipe(source, seed) for source in arm.merge]}
        paths = self._training_files(name, seed)
        recipe = {
            "config": training_config(arm, self.config, seed),
            "data": {file: files.sha256(path) for file, path in paths.items()},
            "policy": _weights_hash(self.policy(seed)),
        }
        if arm.start:
            recipe["start"] = self._arm_recipe(arm.start, seed)
        return recipe

    def _training_files(self, name: str, seed: int) -> dict[str, Path]:
        data = training_config(self.arms[name], self.config, seed)["data"]
        names = [*data["preference"], *data["rated"]]
        available = self.data(seed)
        if not available.keys() >= set(names):
            available = available | self.rated_as_pairs(seed)
        return {file: available[file] for file in names}


def _weights_hash(folder: Path) -> str:
    return files.sha256(folder / "model.safetensors")


def read_items(path: Path) -> list[Item]:
    """The records of a set, each a prompt with its answers."""
    return list(map(attrgetter("item"), read_records(Source(path), None, Census())))


def score_sets(folder: Path, sets: Mapping[str, Path], *, device: str) -> dict[str, SetRows]:
    """Score every set with a model."""
    torch.set_num_threads(1)
    model = RewardModel.load(folder, device=device)
    reward = ModelReward(model)
    names = ("preference", *model.attributes)
    # A preference row that was not trained is no reward: it is left out of what is kept.
    first = 0 if model.card.preference_trained else 1
    rows = {}
    for name, path in sets.items():
        columns, tokens = [], []
        for result in score_each(reward, read_items(path)):
            columns.append(np.hstack([result.rows[:, :1], reward.ratings(result.rows)]))
            tokens += result.tokens
        values = np.concatenate(columns)[:, first:]
        if not np.isfinite(values).all():
            raise DataError(f"{folder}: gives {name} scores that are not finite")
        rows[name] = SetRows(names[first:], values, np.array(tokens, dtype=np.int64))
    return rows


def reward_rows(reward: Reward, sets: Mapping[str, Path]) -> dict[str, SetRows]:
    """Score every set with any reward, as one preference row, with lengths in words."""
    rows = {}
    for name, path in sets.items():
        items = read_items(path)
        lengths = []
        for item in items:
            prompt = text_of(item.prompt)
            lengths += [len(f"{prompt} {text}".split()) for text in item.texts]
        values = np.concatenate(values_of(reward, items))
        rows[name] = SetRows(("preference",), values[:, None], np.array(lengths))
    return rows


def write_rows(path: Path, rows: Mapping[str, SetRows]) -> None:
    """Write one file of plain arrays, whole or not at all."""
    arrays: dict[str, Any] = {}
    for name, set_rows in rows.items():
        arrays[f"{name}:values"] = set_rows.values
        arrays[f"{name}:tokens"] = set_rows.tokens
        arrays[f"{name}:names"] = np.array(set_rows.names)
    with files.atomic_file(path) as stream:
        np.savez_compressed(stream, **arrays)


def read_rows(path: Path) -> dict[str, SetRows]:
    """Read what `write_rows` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        rows = {}
        for name in dict.fromkeys(key.rpartition(":")[0] for key in arrays.files):
            names, values = tuple(arrays[f"{name}:names"].tolist()), arrays[f"{name}:values"]
            rows[name] = SetRows(names, values, arrays[f"{name}:tokens"])
        return rows
