"""The head of a model folder: read, written, or taken over as a start."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from smorm import files
from smorm.errors import DataError, ModelError
from smorm.model.backbone import first_line
from smorm.model.heads import NONLINEAR_HEADS, NonlinearHead, ScoreHead

HEAD = "head.safetensors"
WEIGHT = "score.weight"


def save_head(head: ScoreHead | NonlinearHead, folder: Path) -> None:
    """Write the head beside the backbone: `score.weight`, or all tensors of a nonlinear one."""
    if isinstance(head, NonlinearHead):
        weights = head.state_dict()
    else:
        weights = {WEIGHT: head.weight.detach()}
    # safetensors refuses tensors that are not contiguous.
    stored = {name: weight.cpu().contiguous() for name, weight in weights.items()}
    save_file(stored, folder / HEAD)


def read_nonlinear_head(folder: Path, kind: str) -> NonlinearHead:
    """A head of one of the kinds that are not linear."""
    if kind not in NONLINEAR_HEADS:
        known = ", ".join(("linear", *NONLINEAR_HEADS))
        raise ModelError(f"{folder}: its head is {kind!r}; this version knows {known}")
    try:
        return NONLINEAR_HEADS[kind].from_weights(load_file(folder / HEAD))
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no {HEAD} in it: a head would be random") from error
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = f"no {kind} head, or damaged: {first_line(error)}"
        raise ModelError(f"{folder / HEAD}: {reason}") from error


def read_head(folder: Path) -> Tensor:
    """`score.weight` [rows, D] of a folder; `ModelError` where there is none."""
    weight = find_head(folder)
    if weight is not None:
        return weight
    if (folder / HEAD).is_file():
        raise ModelError(
            f"{folder}: the head in its {HEAD} is not one linear layer ({WEIGHT}): only smorm can "
            "score with it"
        )
    raise ModelError(
        f"{folder}: no score head ({WEIGHT}) in it: a head would be random. "
        "Is this a language model? Train one with `smorm train`."
    )


def find_head(folder: Path) -> Tensor | None:
    """As `read_head`, or None where the folder has no head."""
    # Only the head is read: the rest of a file may be gigabytes.
    paths = [path for path in (folder / HEAD, folder / "model.safetensors") if path.is_file()]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        mapping = read_model_json(index)["weight_map"]
        paths = [folder / name for key, name in mapping.items() if key == WEIGHT]
    for path in paths:
        try:
            with safe_open(path, framework="pt") as stored:
                if WEIGHT in stored.keys():  # noqa: SIM118  (a safetensors handle is no mapping)
                    weight: Tensor = stored.get_tensor(WEIGHT)
                    return weight
        except FileNotFoundError as error:
            raise ModelError(f"{path}: no such file, but the index names it") from error
        except SafetensorError as error:
            raise ModelError(f"{path}: damaged: {error}") from error
    return None


def start_head(head: ScoreHead | NonlinearHead, folder: Path) -> bool:
    """Let the preference row start from a reward model's own, where `folder` has one."""
    weight = find_head(folder)
    if weight is None:
        return False
    if weight.shape[1] != head.weight.shape[1]:
        raise ModelError(f"{folder}: {WEIGHT} is {weight.shape[1]} wide, the backbone is not")
    # Attribute rows start anew: they are on the scales of the ratings that they were trained on.
    head.weight.data[0] = weight[0].float()
    return True


def read_model_json(path: Path) -> Any:
    """A JSON file of a model folder; `ModelError` where it is missing or damaged."""
    try:
        return files.read_json(path)
    except DataError as error:
        raise ModelError(str(error)) from error
