"""ArmoRM's first stage: ridge rows of the attributes on hidden states that stay as they are.

    w = argmin |X w - y|^2 + alpha |w|^2,    alpha by squared error on held-out prompts

Without intercept, over the ratings that there are (Wang et al., 2024, arXiv 2406.12845, section
3.1); the chosen penalty is then used on all of them. P pairs, R rated responses, D hidden size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from smorm.arrays import Bools, Floats, Ints, Tokens
from smorm.errors import ConfigError, DataError
from smorm.model.inference import Prompted, prompted_units
from smorm.printing import get_logger
from smorm.training.folder import Cost
from smorm.training.linear_fits import Spectra, States, ridge_fits
from smorm.training.methods.armo import ArmoSection
from smorm.training.responses import assistant_header
from smorm.training.setup import Prepared
from smorm.trees.forest import end_of_last

log = get_logger(__name__)

ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""The published penalties."""
RECORDS = 2048
"""Records whose hidden states are computed at a time."""
LENGTH = "length"


class StateReader:
    """Reads hidden states at the ends of sequences and of their prompts, which end with `header`;
    `cost` gets the tokens that were computed. ConfigError for a template without a header."""

    def __init__(self, prepared: Prepared, cost: Cost) -> None:
        self.network, self.budget = prepared.network, prepared.batch_tokens
        self.cost, self.header = cost, assistant_header(prepared.renderer)
        if not len(self.header):
            raise ConfigError(
                "model.chat_template: objective.kind armo reads the end of the prompt, and this "
                "template writes nothing between a prompt and its response"
            )

    def states(self, units: Sequence[list[Tokens]]) -> Iterator[Prompted]:
        """Hidden states of units, in order."""
        for first in range(0, len(units), RECORDS):
            block = units[first : first + RECORDS]
            # Planned a second time, to count the tokens that `prompted_units` computes.
            for members in self.network.micro_batches(block, self.budget):
                sequences = [tokens for member in members for tokens in block[member]]
                self.cost.first_pass_tokens += self.network.arrange(sequences).num_tokens
            yield from prompted_units(self.network, block, self.header, self.budget)

    def prompt_end(self, tokens: Tokens, where: str) -> int:
        """Where the response begins; DataError where no turn of an assistant does."""
        end = end_of_last(tokens, self.header)
        if end is None:
            raise DataError(
                f"{where}: no turn of an assistant begins in it: objective.kind armo reads the end "
                "of the prompt, so give messages or a prompt and a response"
            )
        return end


@dataclass(frozen=True, slots=True)
class RidgeRow:
    """One attribute's row: its weights [D], the penalty that was chosen, the mean squared error of
    each penalty on the held-out prompts, and over how many ratings that is."""

    name: str
    weights: Floats
    alpha: float
    errors: dict[float, float]
    held_out: int


@dataclass(frozen=True, slots=True)
class Stage1:
    """What is fitted to the ratings: the attributes' rows, and that of verbosity or None."""

    rows: list[RidgeRow]
    verbosity: RidgeRow | None


def fit_rows(reader: StateReader, prepared: Prepared) -> Stage1:
    """Ridge rows of the attributes and of verbosity."""
    settings, data = prepared.config.objective.settings(ArmoSection), prepared.train
    debias, names = settings.debias, prepared.card.attributes
    if debias not in (None, LENGTH, *names):
        expected = f"expected length, null or one of {', '.join(names)}"
        raise ConfigError(f"objective.armo.debias: {debias!r}: {expected}")
    lengths = np.zeros(len(data.rated))
    # Also without debiasing: this refuses records that have no turn of an assistant.
    for index, response in enumerate(data.rated):
        start = reader.prompt_end(response.tokens, response.where)
        lengths[index] = len(response.tokens) - start
    lengths = (lengths - lengths.mean()) / (lengths.std() or 1.0)
    targets, fitted = data.targets, list(names)
    if debias == LENGTH and LENGTH not in names:
        # Length is predicted from the states like an attribute: the reward sees no tokens.
        targets, fitted = np.column_stack([targets, lengths]), [*names, LENGTH]
    units = [[response.tokens] for response in data.rated]
    states = np.concatenate([unit.hidden.astype(np.float32) for unit in reader.states(units)])
    held_out = held_out_prompts(
        data.rated_prompts, settings.held_out, prepared.config.training.seed
    )
    rows = ridge_rows(states, targets, held_out, fitted)
    if not any(row.weights.any() for row in rows[: len(names)]):
        problem = f"no rating varies ({', '.join(names)})"
        raise DataError(f"{problem}: there is nothing for a gate to mix")
    for row in rows:
        log.info("ridge, %s: alpha %g, squared error %.4f over %d held-out ratings",
                 row.name, row.alpha, row.errors[row.alpha], row.held_out)  # fmt: skip
    verbosity = rows[fitted.index(debias)] if debias is not None else None
    return Stage1(rows[: len(names)], verbosity)


def held_out_prompts(prompts: Ints, share: float, seed: int) -> Bools:
    """Which responses [R] have one of the held-out prompts, a `share` of all."""
    # Prompts, not responses: answers to one prompt are alike, and would choose too small a penalty.
    names = np.unique(prompts)
    count = max(1, round(share * len(names)))
    chosen = np.random.default_rng(seed).permutation(names)[:count]
    return np.isin(prompts, chosen)


def ridge_rows(
    states: States, targets: Floats, held_out: Bools, names: Sequence[str]
) -> list[RidgeRow]:
    """A row for each attribute: states [R, D], targets [R, K] with NaN where not rated. The
    `held_out` responses [R] choose the penalty."""
    spectra: Spectra = {}
    rows = []
    for target, name in zip(targets.T, names, strict=True):
        rated = ~np.isnan(target)
        test = rated & held_out
        # With too few prompts the held-out ones may hold all of an attribute's ratings, or none.
        if not test.any() or not (rated & ~held_out).any():
            raise DataError(
                f"attribute {name!r} is rated under too few prompts to choose a ridge penalty: "
                "leave it out (data.attributes), or rate more"
            )
        errors = {}
        tried = ridge_fits(states, np.where(held_out, np.nan, target), ALPHAS, spectra)
        for alpha, weights in tried.items():
            errors[alpha] = float(np.mean((states[test] @ weights - target[test]) ** 2))
        # Of equally good penalties the largest.
        alpha = min(errors, key=lambda penalty: (errors[penalty], -penalty))
        weights = ridge_fits(states, target, ALPHAS, spectra)[alpha]
        rows.append(RidgeRow(name, weights, alpha, errors, int(test.sum())))
    return rows


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """What the gate reads of the pairs: of both sides the attribute rows [P, 2, attributes] and the
    row of verbosity [P, 2], states at the ends of prompts [prompts, D], which of these is either
    side's prompt [P, 2], and margins [P]."""

    ratings: torch.Tensor
    verbosity: torch.Tensor
    prompts: torch.Tensor
    which: torch.Tensor
    margins: torch.Tensor


def read_pairs(reader: StateReader, prepared: Prepared, stage1: Stage1) -> PairFeatures:
    """The rows on all pairs, and the states at the ends of their prompts."""
    weights = np.stack([row.weights for row in stage1.rows], axis=1)
    verbosity = stage1.verbosity.weights if stage1.verbosity else np.zeros(len(weights))
    rows = np.column_stack([weights, verbosity])
    units, margins = [], []
    for pair in prepared.train.pairs:
        for side in (pair.chosen, pair.rejected):
            reader.prompt_end(side, pair.where)  # refuses a pair before any state is computed
        units.append([pair.chosen, pair.rejected])
        margins.append(pair.margin)
    scores, which, prompts = [], [], []
    # Each pair brings its prompts, so `which` counts through all that came before.
    num_prompts = 0
    for unit in reader.states(units):
        scores.append(unit.hidden @ rows)
        which.append(num_prompts + np.array(unit.which))
        prompts.append(unit.prompts.astype(np.float32))
        num_prompts += len(unit.prompts)
    # States are dropped batch by batch; only their products with the rows stay in memory.
    table = torch.from_numpy(np.stack(scores)).float()
    return PairFeatures(
        table[..., :-1], table[..., -1], torch.from_numpy(np.concatenate(prompts)),
        torch.from_numpy(np.stack(which)), torch.tensor(margins),
    )  # fmt: skip
