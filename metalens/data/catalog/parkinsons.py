"""Symptoms of patients from their voice: one task is one patient."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from metalens.data.base import Split
from metalens.data.catalog.base import TaskDataSet
from metalens.data.tables.reading import read_table
from metalens.data.tables.table import DrawSettings, TableTasks

if TYPE_CHECKING:
    import pandas as pd

N_INPUTS = 19


class Parkinsons(TableTasks):
    """Motor symptoms of a patient with Parkinson's disease from recordings of the voice, over half a year.

    The target is the motor part of the UPDRS score, standardized by the training patients; the higher, the
    worse. The 19 inputs are the day of the recording, age, sex and sixteen measures of the voice. 42 patients
    with 101 to 168 recordings each are divided into 26 to train on and 8 each to validate and test, by
    `hashed_order`.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        k_shot: support rows per task.
        folder: a folder with `parkinsons_updrs.csv.gz`, in itself or in its folder `tables`; `None` for the
            one that METALENS_DATA names.

    Further settings: `n_query`, `n_train_tasks`, `standardize`, `seed`: see `TableTasks`.

    Raises:
        MetaLensError: the table is missing, or a setting is out of range.

    >>> Parkinsons("test")[0].support.x.shape  # doctest: +SKIP
    torch.Size([10, 19])

    Source: A. Tsanas and others, "Accurate Telemonitoring of Parkinson's Disease Progression by Noninvasive
    Speech Tests", IEEE Trans. Biomed. Eng. 57, 2010; the UCI repository has the table.
    """

    metrics_of_numbers = ("pearson_r2", "rmse")

    def __init__(
        self,
        split: Split = "train",
        *,
        k_shot: int = 10,
        folder: str | os.PathLike[str] | None = None,
        **settings: Unpack[DrawSettings],
    ) -> None:
        table = _load(PARKINSONS.require(folder))
        names = set(table.columns) - {"patient", "motor_UPDRS", "total_UPDRS"}  # the total has the motor part
        inputs = [name for name in table.columns if name in names]
        super().__init__(table, split, task="patient", target="motor_UPDRS", inputs=inputs, kind="regression",
                         splits=(26 / 42, 8 / 42, 8 / 42), k_shot=k_shot, **settings)  # fmt: skip


PARKINSONS = TaskDataSet(
    name="parkinsons",
    description="Parkinsons telemonitoring: symptoms of 42 patients from their voice",
    license="CC BY 4.0",
    source="https://archive.ics.uci.edu/dataset/189/parkinsons+telemonitoring",
    steps="save parkinsons_updrs.data as parkinsons_updrs.csv.gz, compressed by gzip",
    files=("parkinsons_updrs.csv.gz",),
    tasks=lambda split, folder: Parkinsons(split, k_shot=1, n_query=1, folder=folder),
    md5="63404837bf4f790e482529dc26b3bec1",
)


@lru_cache(maxsize=1)
def _load(path: Path) -> pd.DataFrame:
    table = read_table(path, text=["patient", "subject#"])
    return table.rename(columns={"subject#": "patient"})
