"""Files as data frames: which formats are read, how they are recognized, and what is said of others."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import IO, TYPE_CHECKING

from metalens.data.tables.cells import EMPTY
from metalens.data.tables.characters import encoding_of
from metalens.data.tables.formats import READERS, REFUSED
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

MAX_UNPACKED = 2**30  # bytes of a compressed file; what is larger must not be packed 100 times tighter

_PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_SEPARATORS = "\t;|"  # besides the comma
_SAID = re.compile("sep=(.)\r?\n")
_HEAD = 2**16  # bytes that decide on the separator
_PUBCHEM = "PUBCHEM_RESULT_TAG"  # the first column of a table of PubChem


def read_file(
    path: str | os.PathLike[str],
    *,
    sep: str | None = None,
    encoding: str | None = None,
    text: Sequence[str] | None = (),
) -> pd.DataFrame:
    """Return the table of a file, with cells as written in the columns of text.

    Args:
        path: of the file; see `read_table`.
        sep: between the columns of a text file; `None` to see it from the first lines.
        encoding: of a text file without a byte-order mark; `None` for UTF-8.
        text: columns to read as text, even if they look like numbers, such as `007`; `None` for all cells as
            they are written.

    Raises:
        MetaLensError: the file cannot be read as a table.
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    name = os.fspath(path)
    ending = _ending(name)
    try:
        if ending in REFUSED:
            what, way = REFUSED[ending]
            raise MetaLensError(f"{name} is {what}, which is not read; {way}.")
        if ending in READERS:
            return READERS[ending](partial(_open, name), encoding)
        return _read_csv(name, sep, encoding, text)
    except MetaLensError as error:
        raise error if name in str(error) else MetaLensError(f"{name}: {error}") from error
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise MetaLensError(f"There is no file {name}; correct the path.") from error
    except pd.errors.EmptyDataError as error:
        raise MetaLensError(f"{name} is empty; give a CSV file with a header and rows.") from error
    except pd.errors.ParserError as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise MetaLensError(f"Cannot read {name} as a table ({reason}); correct that line.") from error
    except pd.errors.ParserWarning as error:
        raise MetaLensError(
            f"{name} has rows with more cells than its header has names; name all."
        ) from error
    except Exception as error:  # damage shows as one of a dozen types
        reason = type(error).__name__
        raise MetaLensError(f"Cannot read {name} as a table ({reason}); give CSV or Parquet.") from error


def _ending(name: str) -> str:
    """Return the ending of a file's name in small letters, without that of a compression.

    >>> _ending("a.CSV"), _ending("b.sdf.gz"), _ending("c.tar.gz")
    ('.csv', '.sdf', '.tar')
    """
    stem, ending = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if ending in {*_PACKED, ".zip"} else ending


def _open(name: str) -> IO[bytes]:
    """Open a file, unpacked; a zip file must have one member, and no file may be a decompression bomb."""
    _refuse_bomb(name)
    packing = os.path.splitext(name.lower())[1]
    if packing != ".zip":
        return _PACKED.get(packing, open)(name, "rb")  # pyright: ignore[reportReturnType]
    with zipfile.ZipFile(name) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) != 1:
            raise MetaLensError(f"{name} has {len(members)} files in it; give one table, or unpack it.")
        return io.BytesIO(archive.read(members[0]))


def _read_csv(name: str, sep: str | None, encoding: str | None, text: Sequence[str] | None) -> pd.DataFrame:
    import pandas as pd  # takes as long to import as all of MetaLens

    with _open(name) as file:
        head = file.read(_HEAD)
    encoding = encoding_of(partial(_open, name), encoding)
    start = head.decode(encoding, errors="ignore")
    said = _SAID.match(start)  # by Excel, in a line above the header
    sep = sep or (said[1] if said else _separator(start))
    form = {"sep": sep, "encoding": encoding, "skipinitialspace": sep != "\t", "low_memory": False}
    # pandas would number equal names, and shift all columns if rows have more cells than the header.
    with _open(name) as file:
        header = pd.read_csv(file, header=None, nrows=1, dtype=str, keep_default_na=False,
                             skiprows=1 if said else 0, **form)  # fmt: skip
    names = [str(name).strip() for name in header.iloc[0]]
    nameless = [place for place, name in enumerate(names, 1) if not name]
    names = [name or f"column {place}" for place, name in enumerate(names, 1)]
    refuse_equal(name, names)
    skipped = _descriptions(start, names[0])
    cells = {"dtype": str, "na_values": []} if text is None else {
        "dtype": dict.fromkeys(text, str), "na_values": list(EMPTY)}  # fmt: skip
    with warnings.catch_warnings(), _open(name) as file:
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(file, header=0, names=names, index_col=False, keep_default_na=False,
                            skiprows=[0] if said else range(1, 1 + skipped), **cells, **form)  # fmt: skip
    if nameless:
        warnings.warn(
            f"{len(nameless)} of the {len(names)} columns of {name} have no name in the header (the first is "
            f"column {nameless[0]}) and are left out; name them to use them.",
            stacklevel=5,
        )
    if skipped:
        warnings.warn(
            f"{skipped} rows under the header of {name} describe the columns, as in tables of PubChem, and "
            "are left out; rows are counted from below them.",
            stacklevel=5,
        )
    return frame.drop(columns=[f"column {place}" for place in nameless])


def _separator(head: str) -> str:
    r"""Return the separator of the first lines of a file.

    It is the first of tab, semicolon and bar that each line has equally often, outside of quotes.

    >>> _separator("a;b\n1,5;2\n"), _separator('x,y\n1,"a;b"\n'), _separator("one\n1\n")
    (';', ',', ',')
    """
    lines = head.splitlines()
    lines = [line for line in (lines[:-1] if len(lines) > 1 else lines)[:9] if line.strip()]
    for mark in _SEPARATORS:
        try:
            counts = [len(row) for row in csv.reader(lines, delimiter=mark)]
        except csv.Error:
            continue
        if counts and counts[0] > 1 and (min(counts) == counts[0] == max(counts) or "," not in lines[0]):
            return mark
    return ","


def _descriptions(head: str, first: str) -> int:
    """Return the number of rows under the header that describe the columns of a table of PubChem."""
    if first != _PUBCHEM:
        return 0
    rows = head.splitlines()[1:]
    return next((n for n, row in enumerate(rows) if not row.startswith("RESULT_")), len(rows))


def refuse_equal(name: str, columns: Sequence[str]) -> None:
    """Raise a `MetaLensError` if two columns of a table have one name."""
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise MetaLensError(f"{name} has several columns named {', '.join(twice)}; rename them.")


def _refuse_bomb(name: str) -> None:
    """Refuse a compressed file that unpacks to far more than a table of its size."""
    extension = os.path.splitext(name.lower())[1]
    if extension not in {*_PACKED, ".zip"}:
        return
    size, most = 0, max(MAX_UNPACKED, 100 * os.path.getsize(name))
    if extension == ".zip":
        with zipfile.ZipFile(name) as archive:
            size = sum(member.file_size for member in archive.infolist())
    else:
        opened: Callable[[str], IO[bytes]] = _PACKED[extension]
        with opened(name) as file:
            while size <= most and (part := file.read(2**20)):
                size += len(part)
    if size > most:
        raise MetaLensError(
            f"{name} unpacks to more than {most:,} bytes and may be a decompression bomb; unpack it to use."
        )
