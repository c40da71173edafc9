"""Tables as files: what can be read, and what is said of what cannot."""

import gzip
import json
import lzma
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from small_table import small_table, tasks_of

from metalens import MetaLensError, TableTasks
from metalens.data.tables import files
from metalens.data.tables.reading import read_table


@pytest.fixture
def table():
    return small_table()


def test_a_file_is_a_table(table, tmp_path):
    path = tmp_path / "table.csv.gz"
    table.to_csv(path, index=False)
    read = TableTasks(
        path, task="assay", target="activity", inputs=["row"], splits="split", k_shot=4, n_query=3
    )  # fmt: skip
    torch.testing.assert_close(read[5], tasks_of(table, inputs=["row"], standardize="train")[5])


def test_a_damaged_file_and_numbers_that_are_none_are_refused(table, tmp_path):
    (tmp_path / "table.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(MetaLensError, match=r"Cannot read .* as a table"):
        TableTasks(tmp_path / "table.csv.gz", task="assay", target="activity", inputs=["row"])
    empty = int(table.index[table.row == 0][0]) + 1
    with pytest.raises(
        MetaLensError, match=f"Row {empty} of column activity is empty, the first of 1; leave"
    ):
        tasks_of(table.assign(activity=table.activity.where(table.row > 0)))
    with pytest.raises(MetaLensError, match=f"Row {empty} of column assay is empty"):
        tasks_of(table.assign(assay=table.assay.where(table.row > 0)))
    with pytest.raises(MetaLensError, match="those of assay0 are in test, train"):
        tasks_of(table.assign(split=table.split.where(table.row > 0, "test")))
    with pytest.raises(MetaLensError, match="Task numbers must be 0 or more"):
        tasks_of(table).batch([-1])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("n/b", "Row 8 of column half must be a number, got 'n/b'"),
        (np.inf, "a finite number, got 'inf'"),
        (-2e30, r"a number from -1e\+30 to 1e\+30, got '-2e\+30'"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_named(table, tmp_path, value, words):
    frame = table.astype({"half": object})
    frame.loc[7, "half"] = value
    frame.to_csv(tmp_path / "table.csv", index=False)
    for source in (frame, tmp_path / "table.csv"):
        with pytest.raises(MetaLensError, match=words):
            TableTasks(source, task="assay", target="activity", inputs=["half", "dose"], splits="split",
                       n_query=2)  # fmt: skip
    with pytest.raises(MetaLensError, match="but row 8 is not"):
        tasks_of(table, inputs=np.where(np.arange(120) == 7, np.nan, 1.0)[:, None])


def test_names_that_look_like_numbers_stay_names(table, tmp_path):
    table.assign(assay=[f"00{name[5:]}" for name in table.assay]).to_csv(tmp_path / "a.csv", index=False)
    tasks = TableTasks(
        tmp_path / "a.csv", "test", task="assay", target="activity", splits="split", k_shot=4, n_query=3
    )
    assert tasks.task_names == ("008", "009")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; give a CSV file with a header and rows"),
        (b"assay,activity,x\n", "has no rows"),
        ("assay,activity\nKöln,1\n".encode("latin-1"), r"table.csv: Line 2 is not in UTF-8 \(byte 0xf6\)"),
        (b"assay,activity\na,1\na,1,2,3\n", r"Cannot read .* line 3, saw 4\); correct that line"),
        (b"activity,x\n1,2\n", "The table has no column assay; it has activity, x"),
        (b"assay,activity,x, x \na,1,2,3\n", "has several columns named x; rename them"),
        (b"assay,activity,x\na,1,2,3\nb,1,2,3\n", "has rows with more cells than its header has names"),
        (b"\x89PNG\r\n", "Line 1 is not in UTF-8 .*, or save the file in UTF-8"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path, content, words):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(MetaLensError, match=words):
        TableTasks(tmp_path / "table.csv", task="assay", target="activity")


def test_spaces_and_byte_order_marks_do_not_count_and_nameless_columns_are_left_out(table, tmp_path):
    expected = TableTasks(table, task="assay", target="activity", splits="split", k_shot=4, n_query=3)
    table.to_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes().replace(b",", b", ").replace(b"\n", b" \r\n")
    )
    for name in ("a.csv", "b.csv"):
        with pytest.warns(
            UserWarning, match=r"1 of the 7 columns of .* \(the first is column 1\) and are left"
        ):
            tasks = TableTasks(
                tmp_path / name, task="assay", target="activity", splits="split", k_shot=4, n_query=3
            )
        assert tasks.encoding == expected.encoding
        torch.testing.assert_close(tasks[3], expected[3])
    numbered = table[["assay", "activity", "half"]].rename(columns={"half": 0})
    tasks = TableTasks(numbered, task="assay", target="activity", k_shot=4, n_query=3)
    assert tasks.encoding.names == ("0",)


def test_numbers_that_are_written_otherwise_are_no_words(table, tmp_path):
    few = table.assign(half=(table.row % 7).astype(str) + ",5")
    with pytest.raises(
        MetaLensError, match=r"Row \d+ of column half must be a number, .*; write numbers with"
    ):
        tasks_of(few, inputs=["half"])
    table.assign(activity=table.activity.round(3)).to_csv(tmp_path / "a.csv", index=False, decimal=",")
    with pytest.raises(
        MetaLensError, match=r"Row 1 of column activity must be a number, got '.*,.*'; write num"
    ):
        TableTasks(tmp_path / "a.csv", task="assay", target="activity", inputs=["half"])
    above = table.assign(activity=[f">{value}" for value in table.activity])
    with pytest.raises(
        MetaLensError, match=r"Row 1 of column activity must be .* this is a bound and no value"
    ):
        tasks_of(above)
    assert tasks_of(above, kind="classification").n_classes == 120


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2", "a.csv.xz", "a.csv.zip"])
def test_damaged_files_and_decompression_bombs_are_refused(table, tmp_path, monkeypatch, name):
    settings = {"task": "assay", "target": "activity", "splits": "split", "k_shot": 4, "n_query": 3}
    path = tmp_path / name
    table.to_csv(path, index=False)
    TableTasks(path, **settings)
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:60] + bytes(60) + content[120:]):
        path.write_bytes(damaged)
        with pytest.raises(MetaLensError, match=r"Cannot read .* as a table|is empty"):
            TableTasks(path, **settings)
    pd.DataFrame({"assay": ["a" * 10**6]}).to_csv(path, index=False)
    monkeypatch.setattr(files, "MAX_UNPACKED", 1000)
    with pytest.raises(
        MetaLensError, match=r"unpacks to more than .* and may be a decompression bomb; unpack"
    ):
        TableTasks(path, **settings)


def test_a_missing_file_and_equal_names_are_refused(table, tmp_path):
    with pytest.raises(MetaLensError, match=r"There is no file .*none.csv; correct the path"):
        TableTasks(tmp_path / "none.csv", task="assay", target="activity")
    twice = table.rename(columns={"dose": "half"})
    with pytest.raises(MetaLensError, match="The table has several columns named half"):
        TableTasks(twice, task="assay", target="activity")
    with pytest.raises(MetaLensError, match="Column day holds dates"):
        tasks_of(table.assign(day=pd.Timestamp("2020-01-01")), inputs=["day"])


def test_parquet_is_a_table_or_asks_for_its_reader(table, tmp_path, monkeypatch):
    settings = {"task": "assay", "target": "activity", "splits": "split", "k_shot": 4, "n_query": 3}
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(MetaLensError, match=r"pip install 'metalens\[parquet\]'"):
        TableTasks(tmp_path / "table.parquet", **settings)
    monkeypatch.undo()
    pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'metalens[parquet]'")
    table.to_parquet(tmp_path / "table.parquet")
    read = TableTasks(tmp_path / "table.parquet", **settings)
    torch.testing.assert_close(read[3], TableTasks(table, **settings)[3])


@pytest.mark.slow
def test_a_million_rows_are_tasks(tmp_path):
    n = 10**6
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"shop": rng.integers(1000, size=n), "day": rng.random(n), "sold": rng.random(n)})
    frame["kind"] = np.array(["a", "b"])[rng.integers(2, size=n)]
    tasks = TableTasks(frame, "test", task="shop", target="sold", k_shot=5, n_query=5)
    assert tasks.metadata()["tasks"] == 150
    assert tasks.batch(range(150)).query.x.shape == (150, 5, 3)


ROWS = {"assay": ["a", "b", "ä"], "x": [1.5, 2.5, 3.5], "n": [1, 2, 3]}


def as_json(lines):
    rows = pd.DataFrame(ROWS).to_dict("records")
    return "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)


CSV = "assay,x,n\na,1.5,1\nb,2.5,2\nä,3.5,3\n"
PUBCHEM = CSV.replace("assay", "PUBCHEM_RESULT_TAG").replace(
    "\na,", "\nRESULT_TYPE,FLOAT,\nRESULT_DESCR,the value,\na,"
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("A.CSV", CSV),
        ("a.txt", CSV),
        ("a.csv", CSV.replace(",", ";")),
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.csv", CSV.replace(",", "|")),
        ("a.csv", CSV.replace(",", ";").replace("assay", '"assay"')),
        ("a.csv", "sep=;\n" + CSV.replace(",", ";")),
        ("a.csv", CSV.encode("utf-8-sig")),
        ("a.csv", CSV.replace(",", "\t").encode("utf-16")),
        ("a.csv", b"\xfe\xff" + CSV.encode("utf-16-be")),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("a.CSV.XZ", lzma.compress(CSV.encode())),
        ("a.jsonl", as_json(lines=True)),
        ("a.ndjson.gz", gzip.compress(as_json(lines=True).encode(), mtime=0)),
        ("a.json", as_json(lines=False)),
    ],
)  # fmt: skip
def test_files_as_they_come_are_read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    read = read_table(path)
    assert {name: read[name].tolist() for name in read} == ROWS


def test_tables_of_weka_are_read(tmp_path):
    lines = [
        "@relation r",
        "@attribute x numeric",
        "@attribute kind {red,blue}",
        "@data",
        "1.5,red",
        "?,blue",
        "2,?",
    ]
    (tmp_path / "a.arff").write_text("\n".join(lines))
    read = read_table(tmp_path / "a.arff")
    np.testing.assert_array_equal(read.x, [1.5, np.nan, 2])
    assert read.kind.tolist() == ["red", "blue", None]


def test_rows_that_describe_the_columns_of_pubchem_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text(PUBCHEM, encoding="utf-8")
    with pytest.warns(UserWarning, match=r"2 rows under the header of .* describe the columns"):
        read = read_table(tmp_path / "a.csv")
    assert read.x.tolist() == ROWS["x"]
    assert read.PUBCHEM_RESULT_TAG.tolist() == ROWS["assay"]


def test_relations_of_chembl_say_that_values_are_bounds(table, tmp_path):
    marks = np.where(table.row % 4 == 0, "'>'", "'='")
    table.assign(relation=marks).to_csv(tmp_path / "a.csv", sep=";", index=False)
    roles = {"task": "assay", "target": "activity", "inputs": ["half"], "k_shot": 4, "n_query": 3}
    with pytest.warns(UserWarning, match=r"Column relation says that rows hold bounds \('>' 30\)"):
        TableTasks(tmp_path / "a.csv", **roles)


def test_molecules_of_an_sdf_file_are_rows(tmp_path):
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed; pip install 'metalens[chem]'")
    with chem.SDWriter(str(tmp_path / "a.sdf")) as writer:
        for smiles, value in (("CCO", "5.1"), ("c1ccccc1", "6.2")):
            molecule = chem.MolFromSmiles(smiles)
            molecule.SetProp("pIC50", value)
            writer.write(molecule)
    read = read_table(tmp_path / "a.sdf")
    assert read.smiles.tolist() == ["CCO", "c1ccccc1"]
    assert read.pIC50.tolist() == [5.1, 6.2]
    damaged = (tmp_path / "a.sdf").read_bytes().replace(b" O ", b" Qq", 1)
    (tmp_path / "a.sdf").write_bytes(damaged)
    assert read_table(tmp_path / "a.sdf").smiles.isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xlsx", b"PK", "is an Excel or OpenDocument file, which is not read; save the sheet as CSV"),
        ("a.ts", b"", "is a file of series for aeon or sktime, .* by aeon.datasets.load_from_ts_file"),
        ("a.pkl", b"", "is a Python pickle, which can run code, .*; save the table by to_csv"),
        ("a.SAV", b"", "is an SPSS file, which is not read; read it by pandas.read_spss"),
        ("a.tar.gz", b"", "is an archive, which is not read; unpack it"),
        ("a.csv.zst", b"", "is a compressed file, which is not read; unpack it"),
        ("a.rds", b"", "is a file of R, which is not read; save the table in R by write.csv"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2,}\n', "a.jsonl: Line 2 is no JSON"),
        ("a.jsonl", b"[1, 2]\n", "a.jsonl: Line 1 is a list; give an object a line"),
        ("a.jsonl", b'{"a": [1]}\n', "a.jsonl: Column a holds lists or other objects"),
        ("a.json", b'{"a": 1}', "a.json: A JSON file must be a list of objects"),
        ("a.json", b"{", r"Cannot read .*a.json as a table \(JSONDecodeError\)"),
        ("a.arff", b"@relation r\n@attribute x string\n@data\nabc\n", "SciPy cannot read this .arff file"),
        ("a.arff", "@relation r\n@attribute x {ä}\n@data\nä\n".encode(), "or words beyond ASCII; save it as"),
        ("a.csv", b"a,b\nK\xf6ln,1\n", "is not in UTF-8"),
        ("a.csv.zip", b"PK", "Cannot read .* as a table"),
    ],
)  # fmt: skip
def test_other_files_are_refused_with_the_way(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MetaLensError, match=words):
        read_table(tmp_path / name)
