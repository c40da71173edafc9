"""Wide tables, with a column for each task: the same tasks and models as of the long table, or refused."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from own_data import done, refused

from metalens import MetaClassifier, MetaLensError, MetaRegressor, TableTasks
from metalens.data.tables.columns import Columns
from metalens.estimators import draws

SIZES = {"k_shot": 3, "n_query": 3, "splits": (0.5, 0.25, 0.25)}
QUICK = {"steps": 2, "hidden": (4,), "k_shot": 4, "n_query": 4, "baselines": ("MeanPredictor",)}
SMILES = ["CO", "CCN", "CCCF", "c1ccccc1", "CC(=O)C", "CSC", "C1CCCC1", "CC#N", "OCCO", "CCCl", "NCCN", "CBr"]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def _little_to_do():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "MIN_DRAWS", 3)
        patch.setattr(draws, "SHOTS", ())
        yield


def panel(n_tasks=16, rows=24, share_empty=0.4):
    """Rows measured in some of many assays: `dose`, `dye`, `molecule`, and a column for each assay."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"dose": rng.normal(size=rows).round(3), "dye": np.tile(["red", "blue"], rows // 2)})
    frame["molecule"] = (SMILES * rows)[:rows]
    slope = rng.normal(size=n_tasks)
    values = pd.DataFrame(np.outer(frame.dose, slope).round(3), columns=assays(n_tasks))
    return frame.join(values.mask(rng.random(values.shape) < share_empty))


def assays(n_tasks=16):
    return [f"NR-{number:02}" for number in range(n_tasks)]


def melted(frame, tasks):
    """The long table, by pandas alone."""
    others = [name for name in frame.columns if name not in tasks]
    long = frame.reset_index().melt(["index", *others], var_name="task", value_name="value")
    return long.dropna(subset="value").sort_values("index", kind="stable").drop(columns="index")


KINDS = {
    "numbers": (lambda y: y, {"inputs": ["dose", "dye"]}),
    "whole numbers": (lambda y: (10 * y).round(), {"inputs": ["dose"]}),
    "classes": (lambda y: y.map(lambda v: np.nan if np.isnan(v) else "in" if v < 0 else "active"),
                {"inputs": ["dose"]}),
    "truth values": (lambda y: y.map(lambda v: None if np.isnan(v) else v > 0), {"inputs": ["dose", "dye"]}),
    "zero and one": (lambda y: (y > 0).astype(float).where(y.notna()),
                     {"inputs": ["dose"], "kind": "classification"}),
    "molecules": (lambda y: y, {"smiles": "molecule"}),
    "missing inputs": (lambda y: y, {"inputs": ["dose", "dye"], "missing": "mean"}),
    "rows left out": (lambda y: y, {"inputs": ["dose", "dye"], "missing": "drop"}),
    "group": (lambda y: y, {"inputs": ["dose"], "group": "dye", "duplicates": "allow"}),
    "in order": (lambda y: y, {"inputs": ["dose"], "order": "dose"}),
    "others excluded": (lambda y: y, {"exclude": ["molecule", "dye"]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_name", [True, False])
def test_a_wide_table_has_the_tasks_of_the_long_one(kind, by_name, tmp_path):
    if kind == "molecules":
        pytest.importorskip("rdkit")
    change, roles = KINDS[kind]
    frame = panel()
    frame[assays()] = frame[assays()].apply(change)
    if "missing" in roles:
        frame.loc[[2, 5], "dose"] = np.nan
    wide = {"wide": assays(), **roles}
    if not by_name:  # all columns without another role
        wide |= {"wide": True} | ({} if roles.keys() & {"inputs", "smiles"} else {"inputs": ["dose"]})
        used = [*wide.get("inputs", ()), *map(roles.get, ("smiles", "group", "order"))]
        wide["exclude"] = [name for name in ("dose", "dye", "molecule") if name not in used]
    frame.to_csv(tmp_path / "a.csv", index=False)
    long = TableTasks(melted(frame, assays()), task="task", target="value", **roles, **SIZES)
    for table in (frame, tmp_path / "a.csv"):
        tasks = TableTasks(table, **wide, **SIZES)
        assert (tasks.task_names, tasks.class_names) == (long.task_names, long.class_names)
        torch.testing.assert_close(tasks.batch(range(4)), long.batch(range(4)))


def test_a_pivot_table_is_read_as_it_is():
    frame = panel()
    long = melted(frame, assays())
    pivot = long.assign(dose=long.dose.round(2)).pivot_table(index="dose", columns="task", values="value")
    tasks = TableTasks(pivot, wide=pivot.columns, inputs=["dose"], **SIZES)
    again = TableTasks(pivot, wide=True, inputs=["dose"], **SIZES)
    assert tasks.task_names == again.task_names
    torch.testing.assert_close(tasks[1], again[1])
    assert tasks.encoding is not None
    assert tasks.encoding.names == ("dose",)


def test_empty_cells_are_left_out_and_counted():
    frame = panel(3, 4, 0.0).assign(**{"NR-00": np.nan})
    frame.loc[1, "NR-01"] = np.nan
    columns = Columns(wide=True, inputs=["dose"], exclude=["dye", "molecule"])
    with pytest.warns(UserWarning, match=r"5 of the 12 cells .* 3 columns .*, among them all of NR-00\.$"):
        read = columns.read(frame)
    assert read.task.tolist() == ["NR-01", "NR-02", "NR-02", "NR-01", "NR-02", "NR-01", "NR-02"]
    assert read.dose.tolist() == frame.dose[[0, 0, 1, 2, 2, 3, 3]].tolist()


def test_one_column_is_one_task():
    frame, roles = panel(1, 12, 0.0), {"wide": ["NR-00"], "inputs": ["dose"], "standardize": "none"}
    tasks = TableTasks(frame, "train", **roles, k_shot=2, n_query=2, splits=(1.0, 0.0, 0.0))
    assert tasks.task_names == ("NR-00",)
    with pytest.raises(MetaLensError, match="The test split has 0 tasks, and none with k_shot"):
        tasks.in_split("test")


def with_cell(frame, row, name, value):
    frame = frame.astype({name: object})
    frame.loc[row, name] = value
    return frame


OF_TEST = TableTasks(panel(share_empty=0.0), "test", wide=assays(), inputs=["dose"], **SIZES).task_names[0]
REFUSED = [
    (lambda f: f, {"wide": True, "task": "dye", "inputs": ["dose"]}, "leave out task and target"),
    (lambda f: f, {"wide": True, "target": "NR-01", "inputs": ["dose"]}, "leave out task and target"),
    (lambda f: f, {"wide": True}, "name inputs or smiles, or the columns of tasks in wide"),
    (lambda f: f, {"wide": "NR-01"}, "wide must be a list of columns, got the text 'NR-01'"),
    (lambda f: f, {"wide": ["NR-99"]}, "The table has no column NR-99"),
    (lambda f: f, {"wide": ["dose", "NR-01"], "inputs": ["dose"]}, "wide names dose, which has another role"),
    (lambda f: f, {"wide": True, "inputs": ["dose"]}, "holds words and column NR-00 numbers, but all tasks"),
    (lambda f: f[["dose"]], {"wide": True, "inputs": ["dose"]}, "has no column of a task beside dose"),
    (lambda f: f.set_axis([*f.columns[:-1], "NR-00"], axis=1), {"wide": True, "inputs": ["dose"]},
     "has several columns named NR-00; rename them"),
    (lambda f: f.rename(columns={"dye": "task"}), {"wide": ["NR-01"]}, "has a column task, as the long form"),
    (lambda f: f.rename(columns={"dye": "value"}), {"wide": ["NR-01"]}, "has a column value, as the long"),
    (lambda f: f.assign(a=None), {"wide": ["a"]}, "has only empty cells in its columns of tasks, a; fill"),
    (lambda f: f.assign(a="2024-01-31"), {"wide": ["a", "NR-01"]}, "Column a holds dates or time spans"),
    (lambda f: with_cell(f, 6, "NR-02", ">10"), {"wide": ["NR-01", "NR-02"], "inputs": ["dose"]},
     "Row 7 of column NR-02 must be a number, got '>10'; this is a bound"),
    (lambda f: with_cell(f, 6, "NR-02", 1e300), {"wide": ["NR-01", "NR-02"], "inputs": ["dose"]},
     "Row 7 of column NR-02 must be a number from"),
    (lambda f: with_cell(f, 6, OF_TEST, 1e20), {"wide": assays(), "inputs": ["dose"]},
     f"Row 7 of column {OF_TEST} is 1e.20, more than 1e.09 standard deviations"),
    (lambda f: with_cell(f, 6, "dose", "much"), {"wide": assays(), "inputs": ["dose"]},
     "Row 7 of column dose must be a number, got 'much'"),
    (lambda f: with_cell(f, 6, "dose", None), {"wide": assays(), "inputs": ["dose"]},
     "Row 7 of column dose is empty"),
    (lambda f: f, {"wide": assays(), "inputs": ["dose"], "splits": "dye"}, "Column dye is to say"),
    (lambda f: f, {"wide": assays(), "inputs": ["dose"], "families": "dye"}, "Column dye is to say"),
    (lambda f: f, {"wide": assays(), "inputs": np.zeros((24, 2))}, "Ready-made inputs are for long tables"),
    (lambda f: f, {"target": ["NR-01", "NR-02"], "task": "dye"}, "or name them in wide if each is a task"),
    (lambda f: f, {}, "target must name the column to predict, or wide those of tasks"),
    (lambda f: f, {"target": "NR-01"}, "task must name the column with the task of a row, or wide"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "roles", "words"), REFUSED)
def test_wide_tables_are_refused_with_row_and_column(change, roles, words):
    frame = change(panel(share_empty=0.0))
    sizes = {name: size for name, size in SIZES.items() if name not in roles}
    with pytest.raises(MetaLensError, match=words):
        TableTasks(frame, **roles, **sizes)


@pytest.mark.parametrize("kind", ["numbers", "classes", "molecules"])
def test_a_model_of_a_wide_table_is_that_of_the_long_one(kind, tmp_path):
    if kind == "molecules":
        pytest.importorskip("rdkit")
    change, roles = KINDS[kind]
    frame = panel(rows=36)
    frame[assays()] = frame[assays()].apply(change)
    estimator = MetaClassifier if kind == "classes" else MetaRegressor
    others = [
        name
        for name in ("dose", "dye", "molecule")
        if name not in (*roles.get("inputs", ()), roles.get("smiles"))
    ]
    model = estimator(**QUICK).fit(frame, wide=True, exclude=others, **roles)
    long = estimator(**QUICK).fit(melted(frame, assays()), task="task", target="value", **roles)
    pd.testing.assert_frame_equal(model.comparison_, long.comparison_)
    model.save(tmp_path / "model")
    model = estimator.load(tmp_path / "model")
    new = frame[["dose", "dye", "molecule"]].assign(**{"new assay": frame["NR-03"]})
    few, asked = new[:9], new[9:]
    adapted, other = model.adapt(few), long.adapt(melted(few, ["new assay"]))
    assert adapted.task == "new assay"
    assert adapted.n_support == few["new assay"].notna().sum()
    assert adapted.predict(asked).tolist() == other.predict(asked).tolist()
    assert adapted.update(asked).n_support == new["new assay"].notna().sum()
    with pytest.raises(MetaLensError, match="values of 2 tasks in columns of their own; give one of them"):
        model.adapt(few.assign(second=few["new assay"]))
    with pytest.raises(MetaLensError, match=r"The table has no column of a task beside .*; add one"):
        model.adapt(few.drop(columns="new assay"))


def test_an_identifier_that_is_read_as_a_task_is_noted():
    frame = panel().drop(columns=["dye", "molecule"]).assign(cid=np.arange(24) + 1000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MetaRegressor(**QUICK).fit(frame, wide=True, inputs=["dose"])
    said = [str(one.message) for one in caught if "identifier" in str(one.message)]
    assert said == ["Column cid looks like an identifier of rows, and is read as a task of the wide table; "
                    "give exclude=['cid'] to leave it out."]  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MetaRegressor(**QUICK).fit(frame.assign(No=range(24)), wide=assays())
    said = [str(one.message) for one in caught if "identifier" in str(one.message)]
    assert len(said) == 1
    assert "Columns cid, No look like identifiers of rows" in said[0]


def test_new_classes_of_each_column():
    frame = panel(share_empty=0.0, rows=36)
    cut = frame[assays()].apply(lambda y: pd.qcut(y, 3, labels=["low", "mid", "high"]).astype(str))
    frame = frame[["dose"]].join(cut)
    settings = {"steps": 2, "hidden": (4,), "baselines": ("KNN",)}
    model = MetaClassifier(**settings).fit(frame, wide=True, inputs=["dose"], new_classes=True)
    long = MetaClassifier(**settings).fit(
        melted(frame, assays()), task="task", target="value", inputs=["dose"], new_classes=True
    )
    pd.testing.assert_frame_equal(model.comparison_, long.comparison_)
    adapted = model.adapt(frame[["dose"]].assign(other=np.where(frame.dose > 0, "a", "b")))
    assert adapted.classes_.tolist() == ["a", "b"]


@pytest.mark.slow
def test_the_command_line_reads_and_writes_wide_tables(tmp_path):
    frame = panel(rows=36).drop(columns="molecule").assign(cid=np.arange(36))
    frame.to_csv(tmp_path / "panel.csv", index=False)
    words = ["--data", "panel.csv", "--steps", "2", "--baselines", "MeanPredictor", "--exclude", "cid"]
    assert "leave out task and target" in refused(
        tmp_path, "train", *words, "--wide", "NR-00", "--task", "dye"
    )
    assert "name inputs or smiles" in refused(tmp_path, "train", *words, "--wide")
    again = ["--wide", "--inputs", "dose", "dye", "--splits", "dye"]
    assert "Column dye is to say something of tasks" in refused(tmp_path, "train", *words, *again)
    _, notes = done(tmp_path, "train", *words, "--wide", *assays(), "--splits", "0.4", "0.2", "0.4")
    empty = int(frame[assays()].isna().sum().sum())
    assert f"{empty} of the 576 cells of the 16 columns of tasks are empty and left out" in notes
    assert "Columns of panel" in (tmp_path / "model" / "report.html").read_text()
    new = frame[["cid", "dose", "dye"]].assign(b=frame["NR-01"], a=frame["NR-02"], c=np.nan)
    new[:12].to_csv(tmp_path / "few.csv", index=False)
    new[12:].drop(columns="a").to_csv(tmp_path / "new.csv", index=False)
    said, notes = done(tmp_path, "predict", "--model", "model", "--support", "few.csv", "--query", "new.csv")
    assert "24 rows of 2 tasks" in said
    assert "among them all of c" in notes
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert written.columns.tolist()[:5] == ["cid", "dose", "dye", "b", "c"]
    assert [name for name in written.columns[5:] if "prediction" in name] == [
        "a: prediction",
        "b: prediction",
    ]
    model = MetaRegressor.load(tmp_path / "model")
    for name in "ab":
        own = model.adapt(new.loc[:11, ["dose", "dye", name]]).predict(new[12:])
        np.testing.assert_allclose(written[f"{name}: prediction"], own, rtol=1e-4, atol=1e-5)
    frame[:20].to_csv(tmp_path / "other.csv", index=False)
    done(tmp_path, "evaluate", "--model", "model", "--data", "other.csv", "--k_shot", "3")
    done(tmp_path, "relations", "model", "--data", "other.csv")
    new[12:].drop(columns=["a", "b", "c"]).to_csv(tmp_path / "bare.csv", index=False)
    done(tmp_path, "predict", "--model", "model", "--query", "bare.csv", "--out", "none.csv")
    assert pd.read_csv(tmp_path / "none.csv").columns.tolist()[:4] == ["cid", "dose", "dye", "prediction"]
