"""Activity of molecules in published assays."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from metalens.data.base import Split
from metalens.data.catalog.base import TaskDataSet
from metalens.data.splits import hashed_order
from metalens.data.tables.molecules import morgan_fingerprints
from metalens.data.tables.reading import read_table
from metalens.data.tables.table import DrawSettings, TableTasks
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

N_BITS = 1024  # of the fingerprints of KIBA
_N_TEST = 20  # kinases
DRUG_METRICS = ("pearson_r2", "pearson_r2_above_0.3", "rmse")
_PQSAR_MOLECULES = "ci9b00375_si_003.txt"
_FS_MOL_SPLITS = {"train": "train", "valid": "val", "test": "test"}


class Kiba(TableTasks):
    """How strongly molecules bind to a kinase: one task is one kinase.

    Inputs are Morgan fingerprints of 1,024 bits and radius 2, targets KIBA scores, standardized; the larger
    the score, the stronger the molecule binds (DeepDTA turned the sign of the original scores). The table has
    150 kinases with 36 to 200 molecules each, 20 of them for validation. The test split are those 20 of the
    others whose names (UniProt) have the smallest SHA-256 sums; 110 are left for training. The splits share
    molecules, as related assays do, but no kinase.

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


class ChemblAssays(TableTasks):
    """How active molecules are in an assay: one task is one assay of ChEMBL, most of them unrelated.

    Inputs are Morgan fingerprints of 1,024 bits and radius 2, targets standardized pChEMBL values: minus the
    decimal logarithm of the molar concentration. The table has 799 assays of 20 to 2,808 molecules; 353 of
    them are on HIV-1. Descriptors are the organism, one-hot.

    Needs the extra `chem` (RDKit), once: the cache keeps the fingerprints.

    Args:
        split: `"train"`, `"val"` or `"test"`: 639, 80 and 80 assays by the column of the table.
        stratified: divide the assays again, 80%, 10% and 10%, evenly by organism.
        k_shot: support rows per task.
        folder: a folder with `chembl_assays.csv.gz` (columns assay_id, smiles, pchembl, organism, split), in
            itself or in its folder `tables`; `None` for the one that METALENS_DATA names.

    Further settings: `n_query`, `n_train_tasks`, `standardize`, `seed`: see `TableTasks`.
    An assay with fewer than 31 rows has no 15 query rows; `n_query=None` takes all that are left.

    Raises:
        MetaLensError: the table or RDKit is missing, or a setting is out of range.

    >>> ChemblAssays("test", n_query=4)[0].support.x.shape  # doctest: +SKIP
    torch.Size([16, 1024])

    Source: B. Zdrazil and others, "The ChEMBL Database in 2023", Nucleic Acids Res. 52, 2024; a selection of
    assays of release 33.
    """

    metrics_of_numbers = DRUG_METRICS

    def __init__(
        self,
        split: Split = "train",
        *,
        stratified: bool = False,
        k_shot: int = 16,
        folder: str | os.PathLike[str] | None = None,
        **settings: Unpack[DrawSettings],
    ) -> None:
        super().__init__(_chembl(CHEMBL.require(folder)), split, task="assay_id", target="pchembl",
                         smiles="smiles", splits=(0.8, 0.1, 0.1) if stratified else "split",
                         stratify="organism" if stratified else None, descriptors=["organism"],
                         k_shot=k_shot, **settings)  # fmt: skip


class PQSAR(TableTasks):
    """How active molecules are in an assay of the collection of pQSAR: 4,276 assays with a hard division.

    The published division of each assay into training molecules and dissimilar test molecules gives the
    support and the query rows. Inputs are Morgan fingerprints of 1,024 bits and radius 2, targets
    pIC50 values.

    Needs the extra `chem` (RDKit), once: the cache keeps the fingerprints.

    Args:
        split: `"train"`, `"val"` or `"test"`: by default 4,100, 76 and 100 assays, by `hashed_order`.
        k_shot: support rows per task.
        folder: a folder with `ci9b00375_si_002.txt` and `ci9b00375_si_003.txt`, the text of the article's
            supporting information; `None` for the one that METALENS_DATA names.

    Further settings: `n_query`, `n_train_tasks`, `standardize`, `seed`: see `TableTasks`.

    Raises:
        MetaLensError: the files or RDKit are missing, a line cannot be read, or a setting is out of range.

    >>> PQSAR("test", n_query=None)[0].support.x.shape  # doctest: +SKIP
    torch.Size([16, 1024])

    Source: E. Martin and others, "All-Assay-Max2 pQSAR: Activity Predictions as Accurate as
    Four-Concentration IC50s for 8558 Novartis Assays", J. Chem. Inf. Model. 59, 2019. Deviation: which assays
    are held out is published in files that could hold code, and are not read; only the numbers of assays are
    those of H. Yao and others, 2020, arXiv 2007.13040.
    """

    metrics_of_numbers = DRUG_METRICS

    def __init__(
        self,
        split: Split = "train",
        *,
        k_shot: int = 16,
        folder: str | os.PathLike[str] | None = None,
        **settings: Unpack[DrawSettings],
    ) -> None:
        activities = PQSAR_DATA.require(folder)
        table = _pqsar(activities, activities.with_name(_PQSAR_MOLECULES))
        # Duplicates are allowed, as the published division decides.
        super().__init__(table, split, task="assay", target="activity", smiles="smiles", roles="part",
                         duplicates="allow", splits=(4100 / 4276, 76 / 4276, 100 / 4276), k_shot=k_shot,
                         **settings)  # fmt: skip


class FSMol(TableTasks):
    """Whether molecules are active in an assay, or how much: the assays of FS-Mol in its published split.

    Inputs are the fingerprints in the files, of 2,048 bits. The two classes are `active` and `inactive`. Rows
    without a measured value (2,280 of 482,933) count for the classes alone. The values of some assays are
    smaller for stronger molecules, others larger: assays whose active molecules have the smaller mean (1,171
    of 5,131) are turned by a minus sign, so that active molecules always have the larger values.

    Args:
        split: `"train"`, `"val"` or `"test"`: the folders `train`, `valid` and `test`.
        target: `"active"`, or `"activity"` for the logarithm of the measured value.
        k_shot: support rows per task.
        folder: a folder `fs-mol` with those three, each with a file `ASSAY.jsonl.gz` for every assay, or the
            folder that holds it; `None` for the one that METALENS_DATA names.

    Further settings: `n_query`, `n_train_tasks`, `standardize`, `seed`: see `TableTasks`.
    Reading the thousands of files takes minutes, once per process.

    Raises:
        MetaLensError: the files are missing or not those, or a setting is out of range.

    >>> FSMol("test", n_query=None)[0].support.x.shape  # doctest: +SKIP
    torch.Size([16, 2048])

    Source: M. Stanley and others, "FS-Mol: A Few-Shot Learning Dataset of Molecules", NeurIPS Datasets and
    Benchmarks, 2021. Deviation: the sign of the values of some assays.
    """

    metrics_of_numbers = DRUG_METRICS

    def __init__(
        self,
        split: Split = "train",
        *,
        target: Literal["active", "activity"] = "active",
        k_shot: int = 16,
        folder: str | os.PathLike[str] | None = None,
        **settings: Unpack[DrawSettings],
    ) -> None:
        if target not in ("active", "activity"):
            raise MetaLensError(f"target must be active or activity, got {target!r}.")
        table, bits = _fs_mol(FS_MOL.require(folder))
        if target == "activity":
            measured = table.activity.notna().to_numpy()
            table, bits = table[measured].reset_index(drop=True), bits[measured]
        super().__init__(
            table, split, task="assay", target=target, inputs=bits, splits="split", k_shot=k_shot, **settings
        )


KIBA = TaskDataSet(
    name="kiba",
    description="Activity of molecules against 150 kinases: related tasks (needs the extra chem)",
    license="not stated",
    source="https://github.com/hkmztrk/DeepDTA",
    steps="write kiba_kinases.csv.gz with the columns kinase, smiles, kiba_score, split (train or val), of "
    "the kinases and splits in tools/lists/kiba.csv of the repository",
    files=("kiba_kinases.csv.gz",),
    tasks=lambda split, folder: Kiba(split, k_shot=1, n_query=1, folder=folder),
    md5="cdc61c17734785dd466e0e02b1497c3b",
)


CHEMBL = TaskDataSet(
    name="chembl",
    description="Activity of molecules in 799 assays: mostly unrelated tasks (needs the extra chem)",
    license="CC BY-SA 3.0",
    source="https://www.ebi.ac.uk/chembl/",
    steps="write chembl_assays.csv.gz with the columns assay_id, smiles, pchembl, organism, split "
    "(train, val or test), of the assays and splits in tools/lists/chembl.csv of the repository",
    files=("chembl_assays.csv.gz",),
    tasks=lambda split, folder: ChemblAssays(split, k_shot=1, n_query=1, folder=folder),
    md5="2e4d2d3602f3037e98ca76254727a4bd",
)

PQSAR_DATA = TaskDataSet(
    name="pqsar",
    description="pQSAR: activity of molecules in 4,276 assays, hard divisions (needs the extra chem)",
    license="see its page",
    source="https://doi.org/10.1021/acs.jcim.9b00375",
    steps="save its supporting texts ci9b00375_si_002.txt and ci9b00375_si_003.txt",
    files=("ci9b00375_si_002.txt",),
    tasks=lambda split, folder: PQSAR(split, k_shot=1, n_query=None, folder=folder),
)

FS_MOL = TaskDataSet(
    name="fsmol",
    description="FS-Mol: which molecules are active in about 5,000 assays",
    license="see its page",
    source="https://github.com/microsoft/FS-Mol",
    steps="unpack its data to a folder fs-mol with train, valid and test",
    files=("fs-mol",),
    tasks=lambda split, folder: FSMol(split, k_shot=1, n_query=1, folder=folder),
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


@lru_cache(maxsize=1)
def _chembl(path: Path) -> pd.DataFrame:
    return read_table(path, text=["assay_id", "smiles"])


@lru_cache(maxsize=1)
def _pqsar(activities: Path, molecules: Path) -> pd.DataFrame:
    """Read `molecule assay value prediction TRN|TST`, and `molecule,SMILES` over several lines."""
    import pandas as pd  # takes as long to import as all of MetaLens

    smiles = dict(_molecules(molecules))
    rows = []
    for number, line in _lines(activities):
        cells = line.split()
        if not line.startswith("CHEMBL"):
            continue  # headings and numbers of pages
        try:
            molecule, assay, value, part = cells[0], cells[1], float(cells[2]), cells[4]
            rows.append((assay, smiles[molecule], value, {"TRN": "support", "TST": "query"}[part]))
        except (IndexError, KeyError, ValueError) as error:
            raise MetaLensError(
                f"Line {number} of {activities} must have a known molecule, an assay, a number, a prediction "
                f"and TRN or TST, got {line!r}; get the file again."
            ) from error
    return read_table(pd.DataFrame(rows, columns=["assay", "smiles", "activity", "part"]))


def _molecules(path: Path) -> Iterator[tuple[str, str]]:
    """Yield molecules and their SMILES, which span lines and pages."""
    name, smiles = "", ""
    for _, line in _lines(path):
        if line.startswith("CHEMBL"):
            if name:
                yield name, smiles
            name, smiles = line.split(",", 1) if "," in line else (line, "")
        elif not any(word in line for word in ("Page", "Table", "SMILE")):
            smiles += line
    if name:
        yield name, smiles


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield number, line.strip().replace("\u2010", "-")
    except (OSError, UnicodeDecodeError) as error:
        raise MetaLensError(f"Cannot read {path} as text ({type(error).__name__}); get it again.") from error


@lru_cache(maxsize=1)
def _fs_mol(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    import pandas as pd  # takes as long to import as all of MetaLens

    rows, bits = [], []
    for name, split in _FS_MOL_SPLITS.items():
        for path in sorted((folder / name).glob("*.jsonl.gz")):
            assay = path.name.removesuffix(".jsonl.gz")
            for molecule in _json_lines(path):
                try:
                    active = {0.0: "inactive", 1.0: "active"}[float(molecule["Property"])]
                    value = molecule["LogRegressionProperty"]
                    measured = math.nan if value in ("", None) else float(value)
                    rows.append((assay, active, measured, split))
                    bits.append(np.packbits(np.asarray(molecule["fingerprints"], dtype=bool)))
                except (KeyError, TypeError, ValueError) as error:
                    raise MetaLensError(
                        f"{path} has a molecule without Property (0 or 1), LogRegressionProperty or "
                        "fingerprints; get the file again."
                    ) from error
    if not rows:
        raise MetaLensError(
            f"{folder} has no files ASSAY.jsonl.gz in its folders {', '.join(_FS_MOL_SPLITS)}; unpack FS-Mol."
        )
    table = pd.DataFrame(rows, columns=["assay", "active", "activity", "split"])
    table["activity"] *= _signs(table)
    return table, np.unpackbits(np.stack(bits), axis=1)


def _signs(table: pd.DataFrame) -> pd.Series:
    """Return -1 for the rows of assays whose active molecules have the smaller values, else 1."""
    active = table.activity.where(table.active == "active").groupby(table.assay).transform("mean")
    inactive = table.activity.where(table.active == "inactive").groupby(table.assay).transform("mean")
    return 1.0 - 2.0 * (active < inactive)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    yield json.loads(line)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise MetaLensError(f"{path} is damaged ({type(error).__name__}); get the file again.") from error
