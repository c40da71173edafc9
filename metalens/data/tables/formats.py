"""Formats of tables besides CSV: how each is read, and what to do with those that are not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metalens.data.tables.characters import Opener, encoding_of
from metalens.errors import MetaLensError, extra

if TYPE_CHECKING:
    import pandas as pd


def _bytes(opened: Opener) -> bytes:
    with opened() as file:
        return file.read()


def _text(opened: Opener, encoding: str | None) -> str:
    return _bytes(opened).decode(encoding_of(opened, encoding))


def _parquet(opened: Opener, _: str | None) -> pd.DataFrame:
    import pandas as pd  # takes as long to import as all of MetaLens

    with extra("parquet"):
        import pyarrow  # noqa: F401 # pyright: ignore[reportMissingImports]
    return pd.read_parquet(io.BytesIO(_bytes(opened)))


def _json_lines(opened: Opener, encoding: str | None) -> pd.DataFrame:
    """Return a table of JSON objects, one a line."""
    rows = []
    for number, line in enumerate(_text(opened, encoding).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise MetaLensError(f"Line {number} is no JSON ({error.msg}); give an object a line.") from error
        if not isinstance(row, dict):
            raise MetaLensError(f"Line {number} is a {type(row).__name__}; give an object a line.")
        rows.append(row)
    return _of_objects(rows)


def _json(opened: Opener, encoding: str | None) -> pd.DataFrame:
    """Return a table of a JSON list of objects."""
    rows = json.loads(_text(opened, encoding))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise MetaLensError(
            "A JSON file must be a list of objects, one for each row; write it so, or as CSV."
        )
    return _of_objects(rows)


def _of_objects(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd  # takes as long to import as all of MetaLens

    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = {name: pd.Series([row.get(name) for row in rows], dtype=object) for name in columns}
    return pd.DataFrame(cells).infer_objects()


def _arff(opened: Opener, encoding: str | None) -> pd.DataFrame:
    """Return a table of Weka's format; SciPy reads numbers and nominal attributes, but no strings."""
    import pandas as pd  # takes as long to import as all of MetaLens
    from scipy.io import arff

    try:
        values, _ = arff.loadarff(io.StringIO(_text(opened, encoding)))
    except (NotImplementedError, UnicodeEncodeError) as error:
        raise MetaLensError(
            f"SciPy cannot read this .arff file ({error}), as it has attributes of text, or words beyond "
            "ASCII; save it as CSV."
        ) from error
    frame = pd.DataFrame({str(name): values[name] for name in values.dtype.names or ()})
    for name in frame.select_dtypes(object).columns:
        cells = frame[name].str.decode("utf-8")
        frame[name] = cells.where(cells != "?", None)
    return frame


def _sdf(opened: Opener, _: str | None) -> pd.DataFrame:
    """Return a table of molecules: their SMILES in `smiles`, and their properties.

    The SMILES of a molecule that RDKit cannot read is empty.
    """
    with extra("chem"):
        from rdkit import Chem, rdBase
    rows: list[dict[str, str | None]] = []
    with rdBase.BlockLogs(), opened() as file:
        for molecule in Chem.ForwardSDMolSupplier(file):
            row: dict[str, str | None] = {"smiles": None}
            if molecule is not None:
                row = {
                    "smiles": Chem.MolToSmiles(molecule),
                    **molecule.GetPropsAsDict(autoConvertStrings=False),
                }
            rows.append(row)
    return _of_objects(rows)


READERS: Mapping[str, Callable[[Opener, str | None], pd.DataFrame]] = {
    ".parquet": _parquet,
    ".pq": _parquet,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".arff": _arff,
    ".sdf": _sdf,
    ".sd": _sdf,
}

_SHEET = ("an Excel or OpenDocument file", "save the sheet as CSV in UTF-8")
_PICKLE = ("a Python pickle, which can run code", "save the table by to_csv or to_parquet")
_PANDAS = "read it by pandas.{} and give the data frame"
REFUSED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods"), _SHEET),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), _PICKLE),
    **dict.fromkeys((".feather", ".arrow"), ("an Arrow file", _PANDAS.format("read_feather"))),
    ".orc": ("an ORC file", _PANDAS.format("read_orc")),
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), ("an HDF5 file", _PANDAS.format("read_hdf"))),
    ".dta": ("a Stata file", _PANDAS.format("read_stata")),
    ".sav": ("an SPSS file", _PANDAS.format("read_spss")),
    **dict.fromkeys((".sas7bdat", ".xpt"), ("a SAS file", _PANDAS.format("read_sas"))),
    **dict.fromkeys((".rds", ".rdata", ".rda"), ("a file of R", "save the table in R by write.csv")),
    ".mat": ("a MATLAB file", "read it by scipy.io.loadmat and give arrays by name"),
    ".npy": ("a single array", "save named arrays by numpy.savez"),
    ".ts": (
        "a file of series for aeon or sktime",
        "read it by aeon.datasets.load_from_ts_file and give arrays by name",
    ),
    ".tsf": (
        "a file of series for aeon or sktime",
        "read it by aeon.datasets.load_from_tsf_file and give the data frame",
    ),
    ".tar": ("an archive", "unpack it and give the table in it"),
    ".7z": ("an archive", "unpack it and give the table in it"),
    ".rar": ("an archive", "unpack it and give the table in it"),
    ".zst": ("a compressed file", "unpack it, or pack it by gzip"),
    ".sqlite": ("a database", _PANDAS.format("read_sql")),
    ".db": ("a database", _PANDAS.format("read_sql")),
    ".xml": ("an XML file", _PANDAS.format("read_xml")),
    ".html": ("a web page", _PANDAS.format("read_html")),
}
