"""Molecules as bits: fingerprints, computed once and kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metalens.errors import MetaLensError, extra
from metalens.io.files import atomic_path, cache_folder

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = 1  # part of the cache's key: raise it when the bits or the layout of the cache file change


class UnreadableError(MetaLensError):
    """RDKit cannot read a molecule."""


def morgan_fingerprints(smiles: Sequence[str], *, n_bits: int = 1024, radius: int = 2) -> np.ndarray:
    """Return the Morgan fingerprint of every molecule, `(n, n_bits)` uint8 of zeros and ones.

    A bit is set for each neighborhood of up to `radius` bonds of an atom, hashed to `n_bits` places. RDKit
    computes them, without chirality; the cache folder (`METALENS_CACHE`, or the user's) keeps the result of a
    list of molecules, which then does not need RDKit again.

    Args:
        smiles: n molecules in SMILES notation.
        n_bits: length of a fingerprint.
        radius: of the neighborhoods, in bonds.

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
    key = hashlib.sha256("\n".join([f"{_FORMAT} {n_bits} {radius}", *smiles]).encode()).hexdigest()
    cache = cache_folder() / "fingerprints" / f"morgan-{key}.npy"
    bits = _read(cache, len(smiles), n_bits)
    if bits is None:
        bits = _compute(smiles, n_bits, radius)
        with suppress(OSError):  # without a cache, the next process computes again: slower, not wrong
            cache.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(cache) as partial, partial.open("wb") as file:
                np.save(file, bits)
    return bits


def are_molecules(column: pd.Series) -> np.ndarray:
    """Return for each cell of a column whether RDKit reads it as a molecule, `(n,)` bool."""
    with extra("chem"):
        from rdkit import rdBase
    codes, found = column.factorize()
    with rdBase.BlockLogs():
        readable = [_is_molecule(str(text)) for text in found]
    return np.array([*readable, False])[codes]


@lru_cache(2**18)
def _is_molecule(text: str) -> bool:
    from rdkit import Chem

    return Chem.MolFromSmiles(text) is not None


def fingerprints_of_column(column: pd.Series, *, n_bits: int) -> np.ndarray:
    """Return the Morgan fingerprint of every cell of a column; see `morgan_fingerprints`.

    Raises:
        MetaLensError: RDKit cannot read a cell; names its row.
    """
    codes, found = column.factorize(sort=True)  # so that the cache serves rows in any order
    try:
        return morgan_fingerprints([str(text) for text in found], n_bits=n_bits)[codes]
    except UnreadableError as error:
        wrong = ~are_molecules(column)
        row = int(wrong.argmax())
        raise MetaLensError(
            f"RDKit cannot read the molecule {column.iloc[row]!r} in row {column.index[row] + 1} of column "
            f"{column.name}, the first of {int(wrong.sum())}; correct it, or set missing='drop' to leave "
            "such rows out."
        ) from error


def _compute(smiles: Sequence[str], n_bits: int, radius: int) -> np.ndarray:
    with extra("chem"):
        from rdkit import Chem, rdBase
        from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
    generator = GetMorganGenerator(radius=radius, fpSize=n_bits)
    bits = np.zeros((len(smiles), n_bits), dtype=np.uint8)
    unreadable = []
    with rdBase.BlockLogs():
        for row, text in zip(bits, smiles, strict=True):
            molecule = Chem.MolFromSmiles(text)
            if molecule is None:
                unreadable.append(text)
            else:
                row[:] = generator.GetFingerprintAsNumPy(molecule)
    if unreadable:
        others = f", nor {len(unreadable) - 1} others" if len(unreadable) > 1 else ""
        raise UnreadableError(f"RDKit cannot read the molecule {unreadable[0]!r}{others}; correct it.")
    return bits


def _read(path: Path, n: int, n_bits: int) -> np.ndarray | None:
    try:
        bits = np.load(path, allow_pickle=False)
    except Exception:  # damage shows as one of many types, and the remedy is always to compute again
        return None
    return bits if bits.shape == (n, n_bits) and bits.dtype == np.uint8 else None
