"""Data sets whose tasks are given: kinases and assays, patients, time series, objects."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from metalens.data import (
    PQSAR,
    ChemblAssays,
    FSMol,
    Kiba,
    M4Hourly,
    Parkinsons,
    Pose,
    Split,
    TaskDistribution,
)
from metalens.data.catalog.base import DataSet


@dataclass(frozen=True, kw_only=True)
class TaskDataSet(DataSet):
    """A file with tasks of its own, which a distribution reads.

    Args:
        tasks: makes the tasks of a split, all that have two examples, from the folder that holds the file.
        md5: sum of the file that the results in the documentation are from; `None` where there are none.
    """

    tasks: Callable[[Split, Path], TaskDistribution]
    md5: str | None = None
    folder: str = "tables"

    def check(self, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        path = self.require(folder)
        facts: dict[str, Any] = {
            split: self.tasks(split, path.parent).metadata() for split in get_args(Split)
        }  # the distribution refuses what is damaged, and a task in two splits
        if self.md5 is not None:
            with path.open("rb") as file:
                same = hashlib.file_digest(file, "md5").hexdigest() == self.md5
            facts["file"] = f"{'the' if same else 'not the'} one that results in the documentation are from"
        return facts


TASK_DATASETS = (
    TaskDataSet(
        name="kiba",
        description="Activity of molecules against 150 kinases: related tasks (needs the extra chem)",
        license="not stated",
        source="https://github.com/hkmztrk/DeepDTA",
        steps="write kiba_kinases.csv.gz with the columns kinase, smiles, kiba_score, split (train or val)",
        files=("kiba_kinases.csv.gz",),
        tasks=lambda split, folder: Kiba(split, k_shot=1, n_query=1, folder=folder),
        md5="cdc61c17734785dd466e0e02b1497c3b",
    ),
    TaskDataSet(
        name="chembl",
        description="Activity of molecules in 799 assays: mostly unrelated tasks (needs the extra chem)",
        license="CC BY-SA 3.0",
        source="https://www.ebi.ac.uk/chembl/",
        steps="write chembl_assays.csv.gz with the columns assay_id, smiles, pchembl, organism, split "
        "(train, val or test)",
        files=("chembl_assays.csv.gz",),
        tasks=lambda split, folder: ChemblAssays(split, k_shot=1, n_query=1, folder=folder),
        md5="2e4d2d3602f3037e98ca76254727a4bd",
    ),
    TaskDataSet(
        name="pqsar",
        description="pQSAR: activity of molecules in 4,276 assays, hard divisions (needs the extra chem)",
        license="see its page",
        source="https://doi.org/10.1021/acs.jcim.9b00375",
        steps="save its supporting texts ci9b00375_si_002.txt and ci9b00375_si_003.txt",
        files=("ci9b00375_si_002.txt",),
        tasks=lambda split, folder: PQSAR(split, k_shot=1, n_query=None, folder=folder),
    ),
    TaskDataSet(
        name="fsmol",
        description="FS-Mol: which molecules are active in about 5,000 assays",
        license="see its page",
        source="https://github.com/microsoft/FS-Mol",
        steps="unpack its data to a folder fs-mol with train, valid and test",
        files=("fs-mol",),
        tasks=lambda split, folder: FSMol(split, k_shot=1, n_query=1, folder=folder),
    ),
    TaskDataSet(
        name="parkinsons",
        description="Parkinsons telemonitoring: symptoms of 42 patients from their voice",
        license="CC BY 4.0",
        source="https://archive.ics.uci.edu/dataset/189/parkinsons+telemonitoring",
        steps="save parkinsons_updrs.data as parkinsons_updrs.csv.gz, with subject# named patient and no "
        "total_UPDRS",
        files=("parkinsons_updrs.csv.gz",),
        tasks=lambda split, folder: Parkinsons(split, k_shot=1, n_query=1, folder=folder),
        md5="63404837bf4f790e482529dc26b3bec1",
    ),
    TaskDataSet(
        name="m4-hourly",
        description="M4 competition: 414 hourly time series",
        license="not stated",
        source="https://github.com/Mcompetitions/M4-methods",
        steps="write the rows of Hourly-train.csv, each with its row of Hourly-test.csv behind it, into "
        "m4_hourly.csv.gz with the columns series, hour and value",
        files=("m4_hourly.csv.gz",),
        tasks=lambda split, folder: M4Hourly(split, k_shot=1, n_query=1, folder=folder),
        md5="5fa5a2035a097ebaa05beca9c8cb88dc",
    ),
    TaskDataSet(
        name="pose",
        description="Pose: 100 views each of 68 rendered objects; from which side?",
        license="MIT and CC BY 4.0, of the meshes",
        source="https://www.ycbbenchmarks.com/object-models/",
        steps="render these or other meshes to pose_objects.npz by metalens.render_poses (extra pose)",
        files=("pose_objects.npz",),
        folder="pose",
        tasks=lambda split, folder: Pose(split, k_shot=1, n_query=1, folder=folder),
        md5="4d70c66715089d1e7bf0a95e39bc8b49",
    ),
)
