"""The same table in other words: types of pandas, spellings of cells, and files instead of frames."""

import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalens import MetaLensError, TableTasks
from metalens.data.tables.cells import Vocabulary, content, distinct, is_bound, names, plain
from metalens.data.tables.reading import class_numbers, read_table
from metalens.data.tables.targets import classes_of, kind_of_target

ARROW = ("int64[pyarrow]", "double[pyarrow]", "string[pyarrow]", "bool[pyarrow]")


def table(rows=120):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"task": np.arange(rows) // 10, "x": rng.integers(0, 50, rows)})
    return frame.assign(kind=rng.integers(1, 4, rows), flag=rng.random(rows) > 0.5, y=rng.normal(size=rows))


def tasks_of(data, **changes):
    columns = {"task": "task", "target": "y", "inputs": ["kind", "x", "flag"], "categorical": ["kind"]}
    return TableTasks(data, k_shot=3, n_query=3, duplicates="allow", **(columns | changes))


def retyped(column, name):
    """A column of whole numbers in another type or spelling."""
    if name in ARROW:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'metalens[parquet]'")
        return (column.astype(str) if "string" in name else column).astype(name)
    ways = {
        "blanks": lambda c: " " + c.astype(str) + "  ",
        "floats as text": lambda c: c.astype(float).astype(str),
        "category of text": lambda c: c.astype(str).astype("category"),
        "sparse": lambda c: pd.Series(pd.arrays.SparseArray(c.to_numpy())),
        "decimals": lambda c: c.map(Decimal),
        "bytes": lambda c: c.astype(str).str.encode("ascii"),
    }
    return ways.get(name, lambda c: c.astype(name))(column)


TYPES = [
    "float", "float32", "int8", "uint8", "Int64", "Float64", "str", "object", "string", "category", "blanks",
    "floats as text", "category of text", "sparse", "decimals", "bytes", *ARROW[:3],
]  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("column", ["kind", "x", "task"])
def test_a_column_of_any_type_is_the_same(name, column):
    frame = table()
    other = frame.assign(**{column: retyped(frame[column], name)})
    expected, found = tasks_of(frame), tasks_of(other)
    assert found.encoding == expected.encoding
    assert found.task_names == expected.task_names
    assert (found.inputs == expected.inputs).all()
    with warnings.catch_warnings(action="error"):
        expected.encoding.warn_of_unknown(read_table(other))  # nothing is unknown
        np.testing.assert_array_equal(
            expected.encoding.transform(read_table(other)), found.encoding.transform(read_table(frame))
        )


@pytest.mark.parametrize(
    ("spell", "categorical"),
    [
        (lambda flag: flag.map({True: "TRUE", False: "FALSE"}), ["kind"]),
        (lambda flag: flag.map({True: "true ", False: " False"}), ["kind"]),
        (lambda flag: flag.astype("boolean"), ["kind"]),
        (lambda flag: flag.astype(object), ["kind", "flag"]),
        (lambda flag: flag.astype(int), ["kind", "flag"]),
        (lambda flag: flag.astype(float).astype(str), ["kind", "flag"]),
        (lambda flag: flag.map({True: "TRUE", False: "FALSE"}), ["kind", "flag"]),
    ],
)
def test_truth_values_are_the_same_in_any_spelling(spell, categorical):
    frame = table()
    other = read_table(frame.assign(flag=spell(frame.flag)))
    encoding = tasks_of(frame, categorical=categorical).encoding
    with warnings.catch_warnings(action="error"):
        encoding.warn_of_unknown(other)
    np.testing.assert_array_equal(encoding.transform(other), encoding.transform(frame))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.Series(pd.period_range("2024-01", periods=3, freq="M")), ("2024-01", "2024-02", "2024-03")),
        (pd.Series(pd.date_range("2024-01-01", periods=2)), ("2024-01-01", "2024-01-02")),
        (pd.Series(pd.to_timedelta([1, 2], "h")), ("0 days 01:00:00", "0 days 02:00:00")),
        (pd.Series([True, None], dtype="boolean"), ("True",)),
        (pd.Series([2, None, 10], dtype="Int64"), ("10", "2")),
        (pd.Series([0.5, 1.0]), ("0.5", "1")),
        (pd.Series(["007", "7", "x ", "", "nan"]), ("007", "7", "x")),
    ],
)
def test_categories_of_any_type_are_words(column, words, tmp_path):
    assert distinct(column) == words
    column.to_frame("kind").to_csv(tmp_path / "a.csv", index=False)
    written = read_table(tmp_path / "a.csv", text=["kind"]).kind
    np.testing.assert_array_equal(Vocabulary(words).codes(written), Vocabulary(words).codes(column))


def test_a_category_that_no_training_row_has_is_said_once_for_the_column():
    encoding = tasks_of(table()).encoding
    new = table(20).assign(kind=["1", "2"] * 8 + ["Z"] * 4)
    with pytest.warns(UserWarning, match=r"4 of the 20 cells of column kind .* first in row 17: 'Z'") as said:
        encoding.warn_of_unknown(new)
    assert len(said) == 1
    with pytest.warns(UserWarning, match="All of the 20 cells of column kind"):
        encoding.warn_of_unknown(new.assign(kind="none of them"))


@pytest.mark.parametrize(
    ("known", "cells", "codes"),
    [
        ([0, 1], pd.Series(["1.0", "0"]), [1, 0]),
        ([False, True], pd.Series(["TRUE", "false"]), [1, 0]),
        (["1", "2", "3+"], pd.Series([2.0, 1.0]), [1, 0]),
        (["No", "Yes"], pd.Series(["Yes ", " No"], dtype="category"), [1, 0]),
        ([1, 2], pd.Series([2, 1], dtype="Int64"), [1, 0]),
    ],
)
def test_classes_are_the_same_in_any_spelling(known, cells, codes):
    assert class_numbers(cells, known).tolist() == codes


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["12.5", "1e-3", "-4"], "numbers"),
        (["71,226", "1,000"], "numbers"),
        (["0,5", "1,25"], "numbers"),
        ([">10000", "5.0", "3+"], "numbers"),
        (["12%", "3 %"], "numbers"),
        (["$5", "$1,200.50"], "numbers"),
        (["2024-01-31", "2024-02-01"], "dates"),
        (["31.01.2024", "1/2/24"], "dates"),
        (["Jan-13", "Feb 2014", "3 Mar 2015"], "dates"),
        (["2024-01-31T10:00:00Z", "2024-01-31 10:00"], "dates"),
        (["0 days 01:00:00", "1 day"], "spans"),
        (["TRUE", "false"], "booleans"),
        (["1.2.3", "1.10.0"], "words"),
        (["MARCH1", "SEPT2", "DEC1"], "words"),
        (["red", "2", "NA"], "words"),
        (["1-2", "3-4"], "words"),
        (["10.0.0.1", "192.168.0.1"], "words"),
    ],
)
def test_what_cells_hold(cells, found):
    assert content(plain(pd.Series(cells))) == found


@pytest.mark.parametrize(
    ("cell", "remedy"),
    [
        (">10000", "this is a bound and no value, the first of 1; leave such rows out"),
        ("<= 0.5", "this is a bound"),
        ("3+", "this is a bound"),
        ("71,226", "leave out the commas between thousands or give thousands=','"),
        ("0,5", "write numbers with a point, or give decimal=','"),
        ("12%", "leave out the unit"),
        ("n/b", "correct it or leave the row out"),
    ],
)
@pytest.mark.parametrize("by_file", [True, False])
def test_a_cell_that_is_no_number_is_named_with_its_remedy(cell, remedy, by_file, tmp_path):
    frame = table().astype({"x": object, "y": object})
    for column in ("x", "y"):
        data = frame.copy()
        data.loc[6, column] = cell
        if by_file:
            data.to_csv(tmp_path / "a.csv", index=False)
            data = tmp_path / "a.csv"
        with pytest.raises(
            MetaLensError, match=f"Row 7 of column {column} must be a number, got "
        ) as refused:
            tasks_of(data)
        assert remedy in str(refused.value)


@pytest.mark.parametrize(
    ("cells", "kind", "note"),
    [
        (
            [0, 1] * 8,
            "classification",
            "holds 2 different whole numbers, 0, 1, which are predicted as classes",
        ),
        ([1.0, 2.0] * 8, "classification", "1, 2, which are predicted as classes"),
        (["-1", "1"] * 8, "classification", "-1, 1, which are predicted as classes"),
        ([0, 1, 2, 3] * 4, "regression", "which are predicted as numbers; set the kind to classification"),
        (["no", "yes"] * 8, "classification", None),
        ([True, False] * 8, "classification", None),
        (["TRUE", "FALSE"] * 8, "classification", None),
        ([0.5, 1.5] * 8, "regression", None),
        (list(range(16)), "regression", None),
    ],
)
def test_the_kind_of_a_target_is_said_where_it_can_be_doubted(cells, kind, note):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert kind_of_target(pd.Series(cells, name="y")) == kind
    assert [note in str(warning.message) for warning in said] == [True] * (note is not None)
    for asked in ("regression", "classification"):
        assert kind_of_target(pd.Series(cells), asked) == asked


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([">10000"] * 9 + ["12.5", "13"] * 3, "must be a number, got '>10000'; this is a bound"),
        (["<0.1", "5", "7.5", "8"] * 4, "holds numbers and 4 bounds such as '<0.1'"),
        (["0", "1", "2", "3+"] * 4, r"set the kind to classification \(--kind\) if its 4 words are classes"),
        (["2024-01-31", "2024-02-01"] * 4, "holds dates, such as 2024-01-31"),
        ([f"word {n}" for n in range(12)], "holds 12 different words in 12 rows, such as 'word 0'"),
    ],
)
def test_targets_of_no_kind_are_refused(cells, words):
    column = pd.Series(cells, name="y")
    if ">10000" in cells:
        column = pd.concat([column, pd.Series([str(n / 7) for n in range(20)])], ignore_index=True).rename(
            "y"
        )
    with pytest.raises(MetaLensError, match=words):
        kind_of_target(column)
    assert kind_of_target(column, "classification") == "classification"


@pytest.mark.parametrize("word", ["NA", "None", "null", "N/A", "n/a", "NULL"])
def test_words_for_empty_cells_are_words_among_words_and_empty_among_numbers(word, tmp_path):
    frame = table().assign(site=np.array([word, "DE", "FR"])[np.arange(120) % 3])
    frame.assign(x=frame.x.astype(object).where(frame.x > 3, word)).to_csv(tmp_path / "a.csv", index=False)
    read = read_table(tmp_path / "a.csv")
    assert (read.site == frame.site).all()
    assert (read.x.isna() == (frame.x <= 3)).all()
    with pytest.warns(UserWarning, match=f"Column site says '{word}' 40 times, which counts as a word"):
        assert classes_of(read.site) == sorted([word, "DE", "FR"])
    with pytest.warns(UserWarning, match="Column site says"):
        encoding = tasks_of(tmp_path / "a.csv", inputs=["site"], categorical=[]).encoding
    assert f"site={word}" in encoding.names
    numbered = table().assign(task=[f"t{n // 10}" if n > 9 else word for n in range(120)])
    numbered.to_csv(tmp_path / "b.csv", index=False)
    with pytest.warns(UserWarning, match=f"Column task says '{word}' 10 times"):
        tasks_of(tmp_path / "b.csv")


WORDS = st.sampled_from(["a", "b c", "ä", "x,y", 'q"', "TRUE", "12a", "NA", "-"])
CELLS = {
    "words": WORDS,
    "numbers": st.floats(-1e6, 1e6, width=32).map(float),
    "whole": st.integers(-9, 9),
    "flags": st.booleans(),
    "text": st.integers(0, 99).map(lambda n: f"{n:.1f}"),
}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), rows=st.integers(1, 9))
def test_a_frame_and_its_file_are_the_same_table(tmp_path_factory, data, rows):
    path = tmp_path_factory.mktemp("tables") / "a.csv"
    frame = pd.DataFrame(
        {name: [data.draw(st.none() | cells) for _ in range(rows)] for name, cells in CELLS.items()}
    ).assign(id=range(rows))
    frame.to_csv(path, index=False)
    of_frame, of_file = read_table(frame), read_table(path)
    assert of_frame.columns.tolist() == of_file.columns.tolist()
    for name in frame:
        assert content(of_frame[name]) == content(of_file[name])
        assert names(of_frame[name]).tolist() == names(of_file[name]).tolist()


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="0123456789.,<>=+-eE% $", min_size=1, max_size=9))
def test_text_is_never_read_as_another_number(text):
    (cell,) = plain(pd.Series([text])).tolist()
    if isinstance(cell, float) and not np.isnan(cell):
        assert cell == float(text)
        assert not is_bound(text)


@pytest.mark.parametrize(
    ("decimal", "thousands", "cells", "expected"),
    [
        (".", ",", ["71,226", "1,234.5", "12"], [71226, 1234.5, 12]),
        (",", None, ["0,5", "12,25", "7"], [0.5, 12.25, 7]),
        (",", ".", ["1.234,5", "71.226", "0,5"], [1234.5, 71226, 0.5]),
        (".", " ", ["1 234.5", "12 345", "-1 000"], [1234.5, 12345, -1000]),
        (".", "'", ["1'234.5", "12'345", "1e3"], [1234.5, 12345, 1000]),
    ],
)
@pytest.mark.parametrize("by_file", [True, False])
def test_numbers_are_read_in_the_format_that_is_given(decimal, thousands, cells, expected, by_file, tmp_path):
    data = pd.DataFrame({"x": cells, "word": ["a", "b,c", "d.e"]})
    if by_file:
        data.to_csv(tmp_path / "a.csv", index=False)
        data = tmp_path / "a.csv"
    read = read_table(data, decimal=decimal, thousands=thousands)
    assert read.x.tolist() == expected
    assert read.word.tolist() == ["a", "b,c", "d.e"]


@pytest.mark.parametrize("cell", ["0,12", "1,2,3", "12,34", "1,0000", ",5"])
def test_commas_that_are_no_thousands_are_refused(cell):
    frame = table().astype({"x": str})
    frame.loc[3, "x"] = cell
    with pytest.raises(MetaLensError, match="Row 4 of column x must be a number"):
        tasks_of(frame, thousands=",")
    with pytest.raises(MetaLensError, match=r"decimal must be '\.' or ',', and thousands another mark"):
        tasks_of(frame, thousands=",", decimal=",")
