"""Molecules as bits: fingerprints, computed once and kept in the cache."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metalens.data.support_query import equal_rows
from metalens.data.tables.places import row_number
from metalens.errors import MetaLensError, extra
from metalens.io.files import atomic_path, cache_folder

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = 2  # part of the cache's key: raise it when the bits or the layout of the cache file change
_SALT_OR_ION = re.compile(r"\.|[+-][0-9]*\]|\+|-\]")


class UnreadableError(MetaLensError):
    """RDKit cannot read a molecule."""


@dataclass(frozen=True)
class Fingerprint:
    """A Morgan fingerprint; see `morgan_fingerprints`."""

    n_bits: int = 1024
    radius: int = 2
    chirality: bool = False
    count: bool = False


def morgan_fingerprints(
    smiles: Sequence[str],
    *,
    n_bits: int = 1024,
    radius: int = 2,
    chirality: bool = False,
    count: bool = False,
) -> np.ndarray:
    """Return the Morgan fingerprint of every molecule, `(n, n_bits)` uint8, by default of zeros and ones.

    A bit is set for each neighborhood of up to `radius` bonds of an atom, hashed to `n_bits` places. RDKit
    computes them; the cache folder (`METALENS_CACHE`, or the user's) keeps the result of a list of molecules,
    which then does not need RDKit again.

    Args:
        smiles: n molecules in SMILES notation, each alone: RDKit would take what follows a blank for a name.
        n_bits: length of a fingerprint.
        radius: of the neighborhoods, in bonds.
        chirality: tell stereoisomers apart.
        count: how often each neighborhood occurs, at most 255 times, instead of whether it does: tells
            molecules apart that repeat a part.

    Raises:
        MetaLensError: a size is out of range, RDKit is not installed, or it cannot read a molecule.

    >>> morgan_fingerprints(["CCO", "c1ccccc1"]).sum(1)  # doctest: +SKIP
    array([6, 3], dtype=uint64)

    Source: D. Rogers, M. Hahn, "Extended-Connectivity Fingerprints", J. Chem. Inf. Model. 50, 2010.
    """
    if n_bits < 1 or radius < 0:
        raise MetaLensError(
            f"Fingerprints need n_bits of at least 1 and a radius of 0 or more, got {n_bits} and {radius}."
        )
    kind = Fingerprint(n_bits, radius, chirality, count)
    key = hashlib.sha256("\n".join([f"{_FORMAT} {kind}", *smiles]).encode()).hexdigest()
    cache = cache_folder() / "fingerprints" / f"morgan-{key}.npy"
    bits = _read(cache, len(smiles), n_bits)
    if bits is None:
        bits = _compute(smiles, kind)
        with suppress(OSError):  # without a cache, the next process computes again: slower, not wrong
            cache.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(cache) as partial, partial.open("wb") as file:
                np.save(file, bits)
    return bits


def are_molecules(column: pd.Series) -> np.ndarray:
    """Return for each cell of a column whether it is a molecule, `(n,)` bool."""
    codes, found = column.factorize()
    return np.array([*(fault_of(str(text)) is None for text in found), False])[codes]


@lru_cache(2**18)
def fault_of(text: str) -> str | None:
    """Return why a cell is no molecule, or `None` if it is one.

    >>> fault_of("CCO ethanol")  # doctest: +SKIP
    'has a blank, after which RDKit would read a name'
    """
    with extra("chem"):
        from rdkit import Chem, rdBase
    smiles, _, rest = text.strip().partition(" ")
    if not smiles:
        return "is empty"
    if "\t" in smiles or "\n" in smiles or (rest and not (rest.startswith("|") and rest.endswith("|"))):
        return "has a blank, after which RDKit would read a name"
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(text.strip())
    return "is none that RDKit can read" if molecule is None or molecule.GetNumAtoms() == 0 else None


def fingerprints_of_column(column: pd.Series, kind: Fingerprint) -> np.ndarray:
    """Return the Morgan fingerprint of every cell of a column; see `morgan_fingerprints`.

    Raises:
        MetaLensError: a cell is no molecule; names its row.
    """
    codes, found = column.factorize(sort=True)  # so that the cache serves rows in any order
    try:
        return morgan_fingerprints([str(text) for text in found], **vars(kind))[codes]
    except UnreadableError as error:
        wrong = ~are_molecules(column)
        row = int(wrong.argmax())
        raise MetaLensError(
            f"The molecule {column.iloc[row]!r} in row {row_number(column.index, row)} of column "
            f"{column.name} "
            f"{fault_of(str(column.iloc[row]))}, the first of {int(wrong.sum())}; correct it, or set "
            "missing='drop' to leave such rows out."
        ) from error


def warn_of_equal(column: pd.Series, bits: np.ndarray) -> None:
    """Warn of rows whose molecule has the fingerprint of another molecule; spellings of one are no others."""
    first = ~column.duplicated().to_numpy()
    texts, codes = column[first].astype(str).tolist(), equal_rows(bits[first])
    alike = np.flatnonzero(np.bincount(codes)[codes] > 1)
    names = {number: _canonical(texts[number]) for number in alike}
    of_code: dict[int, set[str]] = defaultdict(set)
    for number, name in names.items():
        of_code[codes[number]].add(name)
    mixed = [number for number in alike if len(of_code[codes[number]]) > 1]
    if mixed:
        n = int(column.isin([texts[number] for number in mixed]).sum())
        pair = sorted(of_code[codes[mixed[0]]])[:2]
        warnings.warn(
            f"{n} of the {len(column)} rows have a molecule whose fingerprint is also that of another one, "
            f"such as {pair[0]} and {pair[1]}: chirality=True tells stereoisomers apart, "
            "count=True repeated parts.",
            stacklevel=6,
        )


def molecule_keys(column: pd.Series) -> np.ndarray:
    """Return a text for every molecule that is the same for its salts, ions, isotopes and stereoisomers.

    It is the hash of the fingerprint of the largest part, uncharged; whatever shares it may not be on both
    sides of a division, as a model could look the answer up.
    """
    codes, found = column.factorize(sort=True)
    parents = [_parent(str(text)) if _SALT_OR_ION.search(str(text)) else str(text) for text in found]
    bits = np.packbits(morgan_fingerprints(parents, n_bits=2048), axis=1)
    return np.array([hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in bits])[codes]


@lru_cache(2**18)
def _parent(text: str) -> str:
    with extra("chem"):
        from rdkit import Chem, rdBase
        from rdkit.Chem.MolStandardize import rdMolStandardize
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(text.strip())
        if molecule is None:
            return text  # refused elsewhere
        parent = rdMolStandardize.LargestFragmentChooser().choose(molecule)
        return Chem.MolToSmiles(rdMolStandardize.Uncharger().uncharge(parent))


@lru_cache(2**18)
def _canonical(text: str) -> str:
    with extra("chem"):
        from rdkit import Chem, rdBase
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(text.strip())
    return text if molecule is None else Chem.MolToSmiles(molecule)


def _compute(smiles: Sequence[str], kind: Fingerprint) -> np.ndarray:
    with extra("chem"):
        from rdkit import Chem, rdBase
        from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
    generator = GetMorganGenerator(radius=kind.radius, fpSize=kind.n_bits, includeChirality=kind.chirality)
    bits = np.zeros((len(smiles), kind.n_bits), dtype=np.uint8)
    wrong = [text for text in smiles if fault_of(text) is not None]
    if wrong:
        others = f", nor are {len(wrong) - 1} others" if len(wrong) > 1 else ""
        raise UnreadableError(f"{wrong[0]!r} is no molecule, as it {fault_of(wrong[0])}{others}; correct it.")
    with rdBase.BlockLogs():
        for row, text in zip(bits, smiles, strict=True):
            molecule = Chem.MolFromSmiles(text.strip())
            if kind.count:
                row[:] = generator.GetCountFingerprintAsNumPy(molecule).clip(max=255)
            else:
                row[:] = generator.GetFingerprintAsNumPy(molecule)
    return bits


def _read(path: Path, n: int, n_bits: int) -> np.ndarray | None:
    try:
        bits = np.load(path, allow_pickle=False)
    except Exception:  # damage shows as one of many types, and the remedy is always to compute again
        return None
    return bits if bits.shape == (n, n_bits) and bits.dtype == np.uint8 else None
