"""Trained estimators in folders: JSON and safetensors, without code that runs on loading."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from metalens.data.base import Split
from metalens.errors import MetaLensError
from metalens.estimators.choice import Choice
from metalens.io.files import MODEL
from metalens.io.json import is_of, read_json

FORMAT = 6  # increase it if the layout of the files changes
_WEIGHTS, _TABLES = "weights.safetensors", ("comparison", "curve")


class Saved(NamedTuple):
    """The content of a saved estimator: plain values, tensors on the CPU, `comparison` and `curve`."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]
    tables: dict[str, pd.DataFrame]


def write_model(
    folder: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], tables: Mapping[str, pd.DataFrame]
) -> None:
    """Write the files of a trained estimator into a folder; see `Saved`."""
    # Copies: parameters that were trained side by side share their memory.
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    (folder / _WEIGHTS).write_bytes(save(own))
    for name in _TABLES:
        tables[name].to_csv(folder / f"{name}.csv", index=False)
    text = json.dumps({"format": FORMAT, **facts}, indent=1, default=np.generic.item)
    (folder / MODEL).write_text(text + "\n", encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the plain values of a saved estimator; see `Saved`.

    Raises:
        MetaLensError: the folder is missing, damaged, or of another version.
    """
    if not (folder / MODEL).is_file():
        raise MetaLensError(f"{folder} is no saved model, as it has no {MODEL}; give one that save wrote.")
    facts = read_json(folder / MODEL, "save the model again", {"format": int, "kind": str})
    if facts["format"] != FORMAT:
        raise MetaLensError(
            f"{folder} is in format {facts['format']}, and this version of MetaLens reads format {FORMAT}; "
            "load it with the version that saved it, or save the model again."
        )
    return facts


def read_model(folder: Path, kind: str) -> Saved:
    """Read a folder of `write_model` with an estimator of this kind.

    Raises:
        MetaLensError: the folder is missing, damaged, or of something else.
    """
    facts = read_facts(folder)
    if facts["kind"] != kind:
        raise MetaLensError(f"{folder} holds a {facts['kind']}, and this is {kind}; load it with its class.")
    try:
        tables = {name: pd.read_csv(folder / f"{name}.csv", dtype={"task": str}) for name in _TABLES}
        return Saved(facts, load_file(folder / _WEIGHTS), tables)
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(folder, error) from error


def restored_choices(saved: Saved) -> dict[int, Choice]:
    """Return what adapts to new tasks, by the number of support rows."""
    return {
        facts["k_shot"]: Choice.restore(facts, part(saved.tensors, f"residuals.{facts['k_shot']}."))
        for facts in saved.facts["choices"]
    }


def read_left_out(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what the fit left out, and how."""
    left_out = facts["left_out"]
    if not isinstance(left_out, dict) or not is_of(list(left_out.values()), [str]):
        raise ValueError("what was left out is not as expected")
    return left_out


def read_pooled(facts: Mapping[str, Any]) -> pd.DataFrame:
    """Return the scores of all rows of held-out tasks together, `model, metric, value`."""
    if not is_of(facts, {"pooled": [{"model": str, "metric": str, "value": float}]}):
        raise ValueError("the scores of all rows are not as expected")
    return pd.DataFrame(facts["pooled"], columns=["model", "metric", "value"])


def read_n_folds(facts: Mapping[str, Any]) -> int:
    """Return in how many folds each task was held out once; 0 without folds."""
    if not is_of(facts, {"n_folds": int}):
        raise ValueError("its number of folds is not as expected")
    return facts["n_folds"]


def read_data_sizes(facts: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the numbers of tasks, rows and so on of each split; none of models saved before version 0.2."""
    sizes = facts.get("data_sizes", {})
    if not isinstance(sizes, dict) or not sizes.keys() <= {*get_args(Split)}:
        raise ValueError("the sizes of its data are not as expected")
    if not all(isinstance(n, dict) and is_of([*n.values()], [int]) for n in sizes.values()):
        raise ValueError("the sizes of its data are not as expected")
    return sizes


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def damaged(folder: Path, error: Exception) -> MetaLensError:
    """Return the error for a damaged folder of a model."""
    reason = " ".join(str(error).split())[:200].rstrip(".:") or type(error).__name__
    return MetaLensError(f"{folder} is damaged ({reason}); save the model again.")
