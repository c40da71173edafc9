"""Text files without a byte-order mark in other encodings than UTF-8: read as told, or refused by line."""

import codecs
import json

import numpy as np
import pandas as pd
import pytest
from own_data import assays, done, refused

from metalens import MetaLensError, MetaRegressor, SeriesTasks, TableTasks
from metalens.data.tables.columns import Columns
from metalens.data.tables.reading import read_table

WORDS = {
    "latin-1": ["Köln", "Málaga"], "cp1252": ["“Zürich”", "5 € Évora"],
    "shift-jis": ["東京", "ソウル"], "gb18030": ["北京", "上海"], "euc-kr": ["서울", "부산"],
    "cp1251": ["Москва", "Ижевск"], "utf-16-le": ["Łódź", "東京"],
}  # fmt: skip
FEW = {"task": "city", "target": "y"}

pytestmark = pytest.mark.filterwarnings("default")


def table_of(encoding):
    cities = [f"{WORDS[encoding][number % 2]} {number}" for number in range(10)]
    frame = pd.DataFrame({"city": np.repeat(cities, 8), "y": np.arange(80) % 7 + 0.5})
    return frame.assign(gr=np.arange(80) % 11, sky=np.tile(WORDS[encoding], 40))


@pytest.mark.parametrize("encoding", WORDS)
@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".jsonl"])
def test_a_file_in_another_encoding_is_read_as_told(encoding, ending, tmp_path):
    frame, path = table_of(encoding), tmp_path / f"a{ending}"
    if ending == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records")]
        path.write_text("\n".join(lines), encoding=encoding)
    else:
        frame.to_csv(path, index=False, encoding=encoding)
    pd.testing.assert_frame_equal(read_table(path, encoding=encoding), read_table(frame))
    own = TableTasks(path, **FEW, encoding=encoding, k_shot=2, n_query=2)
    assert own.task_names == TableTasks(frame, **FEW, k_shot=2, n_query=2).task_names
    assert own.encoding is not None
    assert f"sky={WORDS[encoding][0]}" in own.encoding.names


@pytest.mark.parametrize("encoding", [name for name in WORDS if name != "utf-16-le"])
def test_without_the_setting_the_line_and_the_setting_are_named(encoding, tmp_path):
    path = tmp_path / "a.csv"
    rows = pd.DataFrame({"city": ["here", "there", WORDS[encoding][0]], "y": [1, 2, 3]})
    rows.to_csv(path, index=False, encoding=encoding)
    with pytest.raises(MetaLensError, match=r"a\.csv: Line 4 is not in UTF-8 \(byte 0x..\); give its enc"):
        read_table(path)


@pytest.mark.parametrize(
    ("content", "given", "words"),
    [
        ("a,b\nKöln,1\n".encode("utf-16-le"), None, r"Line 1 is not in UTF-8 \(control character 0x00\)"),
        ("a,b\n東京,1\n".encode("iso-2022-jp"), None, r"Line 2 is not in UTF-8 \(control character 0x1b\)"),
        ("a,b\nKöln,1\n".encode(), "cp1252", "a.csv: Its bytes are in UTF-8, and hardly ever .* in cp1252"),
        ("a,b\n東京,1\n".encode(), "shift-jis", "Its bytes are in UTF-8|Line 2 is not in shift-jis"),
        ("a,b\n“Rom”,1\n".encode("cp1252"), "latin-1", r"Line 2 is not in latin-1 \(control character 0x93"),
        ("a,b\nKöln,1\n".encode("cp1252"), "shift-jis", r"Line 2 is not in shift-jis \(byte 0xf6\); correct"),
        ("a,b\nKöln,1\n".encode("cp1252"), "ascii", "Line 2 is not in ascii .* correct encoding='ascii'"),
        (b"a,b\n1,2\n3", "utf-16", "Its characters are not in utf-16"),
        (b"a,b\n1,2\n", "ansi", "encoding must be one of Python's, such as 'cp1252', got 'ansi'"),
        (b"a,b\n1,2\n", "rot13", "encoding must be one of Python's, such as 'cp1252', got 'rot13'"),
    ],
)  # fmt: skip
def test_words_are_never_read_in_a_wrong_encoding_that_shows(content, given, words, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(MetaLensError, match=words):
        Columns(target="b", encoding=given).read(tmp_path / "a.csv")


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
@pytest.mark.parametrize("given", [None, "cp1252", "gb18030"])
def test_a_byte_order_mark_overrules_the_setting(mark, given, tmp_path):
    encoding = {2: "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be", 3: "utf-8"}[len(mark)]
    (tmp_path / "a.csv").write_bytes(mark + "stadt,y\nKöln,1\n".encode(encoding))
    assert read_table(tmp_path / "a.csv", encoding=given).stadt.tolist() == ["Köln"]


@pytest.mark.parametrize("given", ["utf-8", "UTF8", "utf-8-sig"])
def test_utf_8_may_be_given_by_name(given, tmp_path):
    (tmp_path / "a.csv").write_text("stadt,y\nKöln,1\n", encoding="utf-8")
    assert read_table(tmp_path / "a.csv", encoding=given).stadt.tolist() == ["Köln"]


@pytest.mark.slow
def test_later_files_are_read_in_the_encoding_of_training(tmp_path):
    frame = assays(12, 12).drop(columns="kind")
    frame["farbe"] = np.where(np.arange(len(frame)) % 2, "weiß", "grün")
    for name, rows in {"assays": frame, "few": frame[:8], "new": frame[8:12]}.items():
        rows.to_csv(tmp_path / f"{name}.csv", index=False, encoding="cp1252")
    words = ["train", "--data", "assays.csv", "--task", "assay", "--target", "y", "--k_shot", "4"]
    words += ["--steps", "2", "--baselines", "MeanPredictor"]
    assert "Line 2 is not in UTF-8" in refused(tmp_path, *words)
    done(tmp_path, *words, "--encoding", "cp1252")
    assert MetaRegressor.load(tmp_path / "model").reader_.columns.encoding == "cp1252"
    _, notes = done(tmp_path, "predict", "--model", "model", "--support", "few.csv", "--query", "new.csv")
    assert "no training row has" not in notes
    assert pd.read_csv(tmp_path / "predictions.csv").farbe.tolist() == frame.farbe[8:12].tolist()
    frame[8:12].to_csv(tmp_path / "new.csv", index=False, encoding="utf-8")
    again = ["predict", "--model", "model", "--support", "few.csv", "--query", "new.csv", "--out", "b.csv"]
    assert "Its bytes are in UTF-8, and hardly ever those of a text in cp1252" in refused(tmp_path, *again)


@pytest.mark.parametrize("encoding", WORDS)
def test_series_are_read_in_another_encoding(encoding, tmp_path):
    names, path = WORDS[encoding], tmp_path / "series.csv"
    frame = pd.DataFrame({"series": np.repeat(names, 40), "time": np.tile(np.arange(40), 2)})
    frame["value"] = np.sin(np.arange(80))
    frame.to_csv(path, index=False, encoding=encoding, sep=";", decimal=",")
    settings = {"splits": dict.fromkeys(names, "train"), "length": 5, "k_shot": 2, "n_query": 2}
    form = {"encoding": encoding, "decimal": ",", "sep": ";"}
    of_file, of_frame = SeriesTasks(path, **settings, **form), SeriesTasks(frame, **settings)
    assert of_file.task_names == of_frame.task_names == tuple(sorted(names))
    np.testing.assert_allclose(of_file[0].support.x, of_frame[0].support.x, rtol=1e-6)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"encoding": "klingon"}, "encoding"),
        ({"decimal": ";"}, "decimal must be '.' or ','"),
        ({"decimal": ",", "thousands": ","}, "thousands another mark"),
        ({"thousands": ""}, "thousands another mark"),
        ({"sep": 3}, "sep must be the text between columns"),
        ({"sep": ""}, "sep must be the text between columns"),
    ],
)
def test_unknown_forms_are_refused(form, words):
    with pytest.raises(MetaLensError, match=words):
        SeriesTasks(np.zeros((3, 40)), length=5, **form)
    with pytest.raises(MetaLensError, match=words):
        Columns(**FEW, **form)
