"""The tables, and what is predicted in them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from metalens.data.tables.molecules import are_molecules

FOLDER = "METALENS_DATA"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A table, and the roles of its columns.

    Attributes:
        name: of the table.
        file: in the folder that METALENS_DATA names.
        task: column of the groups; one task is one group.
        target: column to predict.
        kind: of the target; a class is one of two.
        categorical: inputs whose numbers are categories.
        smiles: column of molecules, the only input then.
        order: column by which the first rows of a task become known; `None` for random ones.
        about: what a task is and what is predicted, for the page.
    """

    name: str
    file: str
    task: str
    target: str
    kind: Literal["number", "class"] = "number"
    categorical: tuple[str, ...] = ()
    smiles: str | None = None
    order: str | None = None
    about: str

    def columns(self) -> dict[str, Any]:
        """Return the keywords that tell the roles to the estimators of MetaLens."""
        roles = {"task": self.task, "target": self.target, "missing": "mean"}
        roles |= {} if self.order is None else {"order": self.order}
        if self.smiles is not None:
            return roles | {"smiles": self.smiles, "missing": "drop"}
        return roles | {"categorical": list(self.categorical)}

    def input_names(self, frame: pd.DataFrame) -> list[str]:
        """Return the columns of the inputs."""
        if self.smiles is not None:
            return [self.smiles]
        return [name for name in frame.columns if name not in (self.task, self.target)]


_RANDOM = (
    Problem(
        name="exam", file="grouped/exam.csv.gz", task="school", target="normexam",
        about="exam score of a pupil; a task is a school",
    ),
    Problem(
        name="chem97", file="grouped/chem97.csv.gz", task="school", target="score", categorical=("lea",),
        about="A-level score in chemistry of a pupil; a task is a school",
    ),
    Problem(
        name="radon", file="grouped/radon.csv.gz", task="county.name", target="log.radon",
        about="log of the radon in a house; a task is a county",
    ),
    Problem(
        name="insteval", file="grouped/insteval.csv.gz", task="d", target="y", categorical=("dept",),
        about="mark that a student gives; a task is a lecturer",
    ),
    Problem(
        name="verbagg", file="grouped/verbagg.csv.gz", task="id", target="r2", kind="class",
        about="whether a person agrees to an item on verbal aggression; a task is a person",
    ),
    Problem(
        name="sleepstudy", file="grouped/sleepstudy.csv.gz", task="Subject", target="Reaction",
        about="reaction time after days of little sleep; a task is a person",
    ),
    Problem(
        name="theoph", file="grouped/theoph.csv.gz", task="Subject", target="conc",
        about="concentration of theophylline in the blood; a task is a person",
    ),
    Problem(
        name="remifentanil", file="grouped/remifentanil.csv.gz", task="ID", target="conc",
        about="concentration of remifentanil in the blood; a task is a patient",
    ),
    Problem(
        name="chickweight", file="grouped/chickweight.csv.gz", task="Chick", target="weight",
        categorical=("Diet",), about="weight of a growing chick; a task is a chick",
    ),
    Problem(
        name="wages", file="grouped/wages.csv.gz", task="id", target="lwage",
        about="log of the wage in a year; a task is a worker",
    ),
    Problem(
        name="produc", file="grouped/produc.csv.gz", task="state", target="gsp", categorical=("region",),
        about="product of a state in a year; a task is a state of the USA",
    ),
    Problem(
        name="cigar", file="grouped/cigar.csv.gz", task="state", target="sales",
        about="cigarettes sold in a year; a task is a state of the USA",
    ),
    Problem(
        name="pbcseq", file="grouped/pbcseq.csv.gz", task="id", target="bili",
        about="bilirubin at a visit; a task is a patient",
    ),
    Problem(
        name="parkinsons", file="tables/parkinsons_updrs.csv.gz", task="patient", target="motor_UPDRS",
        about="motor symptoms from a recording of the voice; a task is a patient",
    ),
    Problem(
        name="kiba", file="tables/kiba_kinases.csv.gz", task="kinase", target="kiba_score",
        smiles="smiles", about="how strongly a molecule binds; a task is a kinase",
    ),
    Problem(
        name="chembl", file="tables/chembl_assays.csv.gz", task="assay_id", target="pchembl",
        smiles="smiles", about="activity of a molecule; a task is an assay",
    ),
)  # fmt: skip
_TIMES = {
    "sleepstudy": "Days", "theoph": "Time", "remifentanil": "Time", "chickweight": "Time", "wages": "year",
    "produc": "year", "cigar": "year", "pbcseq": "day", "parkinsons": "test_time",
}  # fmt: skip
_ORDERED = (
    replace(problem, name=f"{problem.name}-ordered", order=_TIMES[problem.name])
    for problem in _RANDOM
    if problem.name in _TIMES
)
PROBLEMS = {problem.name: problem for problem in (*_RANDOM, *_ORDERED)}


def load(problem: Problem) -> pd.DataFrame:
    """Return the rows of a table that have a target and, with molecules, can be read; tasks are names.

    Raises:
        SystemExit: METALENS_DATA does not lead to the file.
    """
    folder = os.environ.get(FOLDER)
    path = Path(folder or ".") / problem.file
    if folder is None or not path.is_file():
        raise SystemExit(f"There is no {problem.file} in the folder that {FOLDER} names, {folder}.")
    frame = pd.read_csv(path, dtype={problem.task: str})
    keep = frame[problem.target].notna()
    if problem.smiles is not None:
        frame = frame[[problem.task, problem.smiles, problem.target]]
        keep &= are_molecules(frame[problem.smiles])
    return frame[keep].reset_index(drop=True)
