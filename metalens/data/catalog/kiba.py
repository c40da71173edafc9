"""Activity of molecules against kinases: related tasks, on nearly the same molecules."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from metalens.data.base import Split
from metalens.data.catalog.assays import DRUG_METRICS
from metalens.data.catalog.base import TaskDataSet
from metalens.data.splits import hashed_order
from metalens.data.tables.fingerprints import morgan_fingerprints
from metalens.data.tables.table import DrawSettings, TableTasks
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

N_BITS = 1024
_N_TEST = 20


class Kiba(TableTasks):
    """How strongly molecules bind to a kinase: one task is one kinase.

    Inputs are Morgan fingerprints of 1,024 bits and radius 2, targets KIBA scores, standardized; the larger
    the score, the weaker the molecule binds. The table has 150 kinases with 36 to 200 molecules each, 20 of
    them for validation. The test split are those 20 of the others whose names (UniProt) have the smallest
    SHA-256 sums; 110 are left for training. The splits share molecules, as related assays do, but no kinase.

    Needs the extra `chem` (RDKit), once: the cache keeps the fingerprints.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        new_molecules: the splits share no molecule either, see `disjoint` of `TableTasks`.
        k_shot: support rows per task.
        folder: a folder with `kiba_kinases.csv.gz` (columns kinase, smiles, kiba_score, split), in itself or
            in its folder `tables`; `None` for the one that METALENS_DATA names.

    Further settings: `n_query`, `n_train_tasks`, `standardize`, `seed`: see `TableTasks`.

    Raises:
        MetaLensError: the table or RDKit is missing, or a setting is out of range.

    >>> Kiba("test")[0].support.x.shape  # doctest: +SKIP
    torch.Size([16, 1024])

    Source: J. Tang and others, "Making Sense of Large-Scale Kinase Inhibitor Bioactivity Data Sets", J. Chem.
    Inf. Model. 54, 2014; the table's scores as in H. Öztürk, A. Özgür, E. Ozkirimli, "DeepDTA: Deep
    Drug-Target Binding Affinity Prediction", 2018, arXiv 1801.10193. Deviations: a part of the kinases and
    molecules, split by kinase.
    """

    metrics_of_numbers = DRUG_METRICS

    def __init__(
        self,
        split: Split = "train",
        *,
        new_molecules: bool = False,
        k_shot: int = 16,
        folder: str | os.PathLike[str] | None = None,
        **settings: Unpack[DrawSettings],
    ) -> None:
        table, bits = load_kiba(KIBA.require(folder))
        super().__init__(table, split, task="kinase", target="kiba_score", inputs=bits, splits="split",
                         disjoint="smiles" if new_molecules else None, k_shot=k_shot, **settings)  # fmt: skip


KIBA = TaskDataSet(
    name="kiba",
    description="Activity of molecules against 150 kinases: related tasks (needs the extra chem)",
    license="not stated",
    source="https://github.com/hkmztrk/DeepDTA",
    steps="write kiba_kinases.csv.gz with the columns kinase, smiles, kiba_score, split (train or val)",
    files=("kiba_kinases.csv.gz",),
    tasks=lambda split, folder: Kiba(split, k_shot=1, n_query=1, folder=folder),
    md5="cdc61c17734785dd466e0e02b1497c3b",
)


@lru_cache(maxsize=2)
def load_kiba(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the table of all splits and the fingerprint of every row; callers must not change them."""
    import pandas as pd  # takes as long to import as all of MetaLens

    try:
        table = pd.read_csv(path)[["kinase", "smiles", "kiba_score", "split"]]
    except Exception as error:  # damage shows as one of many types
        raise MetaLensError(
            f"{path} is damaged or not the table of KIBA ({type(error).__name__}); get it again."
        ) from error
    others = table.kinase[table.split != "val"].unique()
    table.loc[table.kinase.isin(hashed_order(others)[:_N_TEST]), "split"] = "test"
    molecules, numbers = np.unique(table.smiles.to_numpy(dtype=str), return_inverse=True)
    return table, morgan_fingerprints(molecules.tolist(), n_bits=N_BITS)[numbers]
