"""Published tables of assays and patients: their formats on synthetic files, splits on the real ones."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metalens import PQSAR, ChemblAssays, FSMol, Kiba, MetaLensError, Parkinsons, Ridge, evaluate
from metalens.data.catalog import assays
from metalens.data.catalog.assays import CHEMBL, DRUG_METRICS, KIBA, load_kiba
from metalens.data.catalog.parkinsons import PARKINSONS
from metalens.data.splits import hashed_order
from metalens.data.tables import molecules
from metalens.experiments import RECIPES

ALKANES = {f"CHEMBL{n}": "C" * n for n in range(1, 9)}
HYPHEN = "\u2010"


pytestmark = pytest.mark.filterwarnings("ignore:.*whose fingerprint is also that of another one")


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
    yield
    assays._pqsar.cache_clear()
    assays._fs_mol.cache_clear()


def write_pqsar(folder, n_assays=4276, extra=""):
    """The text of the supporting information, with headings, page numbers and a SMILES over two lines."""
    molecules = [f"{name},{smiles}" for name, smiles in ALKANES.items()]
    molecules[3:4] = ["CHEMBL4,CC", "Page 7", "CC"]
    (folder / "ci9b00375_si_003.txt").write_text("\n".join(["Table S3", "ChEMBL ID,SMILES", *molecules, ""]))
    lines = ["Compound Assay pIC50 Prediction Set"]
    for assay in range(n_assays):
        for n, name in enumerate(ALKANES):
            value = f"{HYPHEN}{n}.5" if n == 0 else f"{n}.5"
            lines.append(f"{name} {assay} {value} 5.0 {'TST' if n % 2 else 'TRN'}")
    (folder / "ci9b00375_si_002.txt").write_text("\n".join([*lines, extra]), encoding="utf-8")


def test_pqsar_keeps_its_division_and_the_number_of_its_assays(tmp_path):
    pytest.importorskip("rdkit", reason="RDKit is not installed; pip install 'metalens[chem]'")
    write_pqsar(tmp_path)
    settings = {"folder": tmp_path, "k_shot": 2, "n_query": None, "standardize": "none"}
    splits = {split: PQSAR(split, **settings) for split in ("train", "val", "test")}
    assert [len(tasks.task_names) for tasks in splits.values()] == [4100, 76, 100]
    assert len({name for tasks in splits.values() for name in tasks.task_names}) == 4276
    task = splits["test"][0]
    assert set(task.support.y.flatten().tolist()) < {-0.5, 2.5, 4.5, 6.5}
    assert set(task.query.y.flatten().tolist()) == {1.5, 3.5, 5.5, 7.5}


def test_a_wrong_line_and_a_missing_file_of_pqsar_are_named(tmp_path):
    with pytest.raises(MetaLensError, match=r"pqsar is not in .*; from http.*, save .* ci9b00375_si_002.txt"):
        PQSAR(folder=tmp_path)
    write_pqsar(tmp_path, n_assays=1, extra="CHEMBL1 3 high 5.0 TRN")
    with pytest.raises(MetaLensError, match=r"Line 10 of .*si_002.txt must have .*, got 'CHEMBL1 3 high"):
        PQSAR(folder=tmp_path)
    (tmp_path / "ci9b00375_si_003.txt").unlink()
    with pytest.raises(MetaLensError, match=r"Cannot read .*si_003.txt as text \(FileNotFoundError\)"):
        PQSAR(folder=tmp_path)


def write_fs_mol(folder):
    rng = np.random.default_rng(0)
    for name, n in (("train", 3), ("valid", 1), ("test", 2)):
        (folder / "fs-mol" / name).mkdir(parents=True)
        for number in range(n):
            lines = [
                json.dumps(
                    {
                        "SMILES": "C",
                        "Property": f"{place % 2}.0",
                        "LogRegressionProperty": str(5 + place / 10),
                        "fingerprints": rng.integers(2, size=2048).tolist(),
                    }
                )
                for place in range(20 + number)
            ]
            with gzip.open(folder / "fs-mol" / name / f"CHEMBL{name}{number}.jsonl.gz", "wt") as file:
                file.write("\n".join(lines))


def write_assay(folder, name, rows):
    """Rows of the class, and the text of the measured value."""
    lines = [
        json.dumps(
            {"Property": active, "LogRegressionProperty": value, "fingerprints": np.eye(2048)[n].tolist()}
        )
        for n, (active, value) in enumerate(rows)
    ]
    with gzip.open(folder / "fs-mol" / "train" / f"{name}.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        ([("1.0", "7.0"), ("1.0", "6.5"), ("0.0", "5.0"), ("0.0", "4.0")], 1),
        ([("1.0", "2.0"), ("1.0", "2.5"), ("0.0", "5.0"), ("0.0", "4.0")], -1),
        ([("1.0", "2.0"), ("1.0", ""), ("0.0", "5.0"), ("0.0", "4.0"), ("1.0", "1.0")], -1),
        ([("1.0", "7.0"), ("0.0", None), ("0.0", "5.0"), ("0.0", ""), ("1.0", "6.0")], 1),
        ([("1.0", "2.0"), ("1.0", "5.0"), ("1.0", "3.0")], 1),
    ],
)
def test_values_of_fs_mol_rise_with_activity_and_may_be_missing(tmp_path, values, sign):
    write_fs_mol(tmp_path)
    write_assay(tmp_path, "CHEMBL0", values)
    settings = {"folder": tmp_path, "k_shot": 1, "n_query": None, "standardize": "none"}
    tasks = FSMol("train", target="activity", **settings)
    rows = tasks._rows[tasks.task_names.index("CHEMBL0")].rows
    measured = [sign * float(value) for _, value in values if value]
    assert tasks._table.targets[rows].flatten().tolist() == measured
    assert tasks.inputs[rows].argmax(1).tolist() == [n for n, (_, value) in enumerate(values) if value]
    if len({active for active, _ in values}) > 1:
        classes = FSMol("train", **settings)
        assert len(classes._rows[classes.task_names.index("CHEMBL0")].rows) == len(values)


@pytest.mark.parametrize("patient", ["patient", "subject#"])
@pytest.mark.parametrize("total", [False, True])
def test_the_table_of_parkinsons_as_published_leaks_no_total(tmp_path, patient, total):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({patient: np.repeat(np.arange(1, 43), 15)})
    frame = frame.assign(age=60, sex=0, test_time=rng.random(len(frame)), motor_UPDRS=rng.random(len(frame)))
    if total:
        frame["total_UPDRS"] = frame.motor_UPDRS + 1
    frame["HNR"] = rng.random(len(frame))
    frame.to_csv(tmp_path / "parkinsons_updrs.csv.gz", index=False)
    tasks = Parkinsons("train", k_shot=5, n_query=5, folder=tmp_path)
    assert tasks.encoding.names == ("age", "sex", "test_time", "HNR")
    assert len(tasks.task_names) == 26


@pytest.mark.parametrize(
    ("list_of", "dataset", "task"), [("kiba", KIBA, "kinase"), ("chembl", CHEMBL, "assay_id")]
)
def test_published_lists_are_those_of_the_tables(real, list_of, dataset, task):
    table = pd.read_csv(real / "tables" / dataset.files[0])
    listed = pd.read_csv(Path(__file__).parents[1] / "tools" / "lists" / f"{list_of}.csv")
    expected = table.groupby(task).agg(split=("split", "first"), molecules=("smiles", "size")).reset_index()
    pd.testing.assert_frame_equal(listed, expected)


def test_fs_mol_is_read_in_its_published_split(tmp_path):
    write_fs_mol(tmp_path)
    settings = {"folder": tmp_path, "k_shot": 6, "n_query": None}
    splits = {split: FSMol(split, **settings) for split in ("train", "val", "test")}
    assert splits["test"].task_names == ("CHEMBLtest0", "CHEMBLtest1")
    assert [len(tasks.task_names) for tasks in splits.values()] == [3, 1, 2]
    assert splits["test"].class_names == ("active", "inactive")
    assert [len(splits["test"][number].query.y) for number in range(2)] == [14, 15]
    first = gzip.decompress((tmp_path / "fs-mol" / "valid" / "CHEMBLvalid0.jsonl.gz").read_bytes())
    bits = np.array([json.loads(line)["fingerprints"] for line in first.splitlines()])
    task = splits["val"][0]
    found = np.concatenate([task.support.x, task.query.x])
    assert sorted(map(tuple, found.astype(int))) == sorted(map(tuple, bits))
    activity = FSMol("test", target="activity", **settings)
    assert activity.extra_metrics == DRUG_METRICS
    assert activity[0].query.y.shape == (14, 1)


def test_what_is_not_fs_mol_is_refused(tmp_path):
    (tmp_path / "fs-mol" / "test").mkdir(parents=True)
    with pytest.raises(MetaLensError, match=r"has no files ASSAY.jsonl.gz in its folders train, valid, test"):
        FSMol(folder=tmp_path)
    file = tmp_path / "fs-mol" / "test" / "A.jsonl.gz"
    file.write_bytes(b"no gzip")
    with pytest.raises(MetaLensError, match=r"A.jsonl.gz is damaged \(BadGzipFile\)"):
        FSMol(folder=tmp_path)
    file.write_bytes(gzip.compress(b'{"Property": "2.0"}'))
    with pytest.raises(MetaLensError, match="a molecule without Property"):
        FSMol(folder=tmp_path)
    with pytest.raises(MetaLensError, match="target must be active or activity"):
        FSMol(target="toxic", folder=tmp_path)


@pytest.fixture
def real(data_folder, monkeypatch):
    """The folder with real tables and fingerprints kept by earlier runs."""
    pytest.importorskip("rdkit", reason="RDKit is not installed; pip install 'metalens[chem]'")
    monkeypatch.delenv("METALENS_CACHE")
    for dataset in (CHEMBL, KIBA, PARKINSONS):
        if dataset.find(data_folder) is None:
            pytest.skip(f"no {dataset.name} in {data_folder}; set METALENS_DATA")
    return data_folder


@pytest.mark.slow
def test_chembl_assays_have_the_published_split_and_know_their_organism(real):
    file = pd.read_csv(real / "tables" / CHEMBL.files[0])
    splits = {split: ChemblAssays(split, folder=real, n_query=None) for split in ("train", "val", "test")}
    for split, tasks in splits.items():
        assert set(tasks.task_names) <= set(file.assay_id[file.split == split])
    assert [len(tasks.task_names) for tasks in splits.values()] == [639, 80, 80]
    tasks = splits["test"]
    organism = file.groupby("assay_id").organism.first()[list(tasks.task_names)].to_numpy()
    descriptors = tasks.batch([0]).descriptors
    assert descriptors.sum() == 1
    same = [bool((tasks[i].descriptors == descriptors[0]).all()) for i in range(20)]
    assert same == (organism[:20] == organism[0]).tolist()


def test_chembl_assays_can_be_divided_evenly_by_organism(real):
    file = pd.read_csv(real / "tables" / CHEMBL.files[0]).drop_duplicates("assay_id")
    hiv = set(file.assay_id[file.organism == "Human immunodeficiency virus 1"])
    for split, share in (("train", 0.8), ("test", 0.1)):
        tasks = ChemblAssays(split, folder=real, n_query=None, stratified=True)
        assert len(tasks.task_names) == pytest.approx(share * 799, abs=1.5)
        assert len(hiv & set(tasks.task_names)) == pytest.approx(share * 353, abs=1.5)


@pytest.mark.filterwarnings("ignore:.*and are left out")
def test_molecules_of_test_kinases_can_be_new(real):
    splits = {split: Kiba(split, folder=real, new_molecules=True) for split in ("train", "val", "test")}
    file = pd.read_csv(real / "tables" / KIBA.files[0])
    seen = {
        split: set(file.smiles[np.concatenate([task.rows for task in tasks._rows])])
        for split, tasks in splits.items()
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["val"]
    assert not seen["val"] & seen["test"]
    assert set(splits["test"].task_names) < set(Kiba("test", folder=real).task_names)


def test_parkinsons_has_patients_for_each_split(real):
    splits = {split: Parkinsons(split, folder=real) for split in ("train", "val", "test")}
    assert [len(tasks.task_names) for tasks in splits.values()] == [26, 8, 8]
    order = hashed_order(map(str, range(1, 43)))
    assert set(splits["test"].task_names) == set(order[8:16])
    assert splits["test"].encoding is not None
    assert len(splits["test"].encoding.names) == 19


@pytest.mark.filterwarnings("ignore:.*and are left out")
def test_drug_recipes_have_the_metrics_of_the_field_and_whole_assays(real, monkeypatch):
    monkeypatch.setenv("METALENS_DATA", str(real))
    recipe = RECIPES["drug-chembl"]
    test, train = recipe.distribution("test", 0), recipe.distribution("train", 0)
    assert train.batch([0, 1]).query.x.shape == (2, 10, 1024)
    assert not test.equal_sizes
    rows = evaluate(Ridge(n_outputs=1), test, n_tasks=5)
    assert rows.metric.unique().tolist() == ["mse", *DRUG_METRICS]
    values = rows.pivot_table(index="task", columns="metric", values="value")
    np.testing.assert_allclose(values["rmse"] ** 2, values["mse"], rtol=1e-5)
    np.testing.assert_array_equal(values["pearson_r2_above_0.3"], values["pearson_r2"] > 0.3)


def test_kiba_has_three_splits_without_a_common_kinase(real):
    splits = {split: Kiba(split, folder=real) for split in ("train", "val", "test")}
    assert [len(tasks.task_names) for tasks in splits.values()] == [110, 20, 20]
    names = [name for tasks in splits.values() for name in tasks.task_names]
    assert len(set(names)) == 150
    file = pd.read_csv(real / "tables" / KIBA.files[0])
    given = set(file.kinase[file.split == "train"])
    assert set(splits["test"].task_names) == set(hashed_order(given)[:20])
    train = splits["train"]
    y = train._table.targets[np.concatenate([task.rows for task in train._rows])]
    assert y.mean().item() == pytest.approx(0, abs=1e-5)
    assert y.std().item() == pytest.approx(1, abs=1e-3)


def test_kiba_molecules_are_their_fingerprints(real):
    table, bits = load_kiba(KIBA.require(real))
    rows = np.random.default_rng(0).integers(len(table), size=5)
    expected = molecules._compute(table.smiles.iloc[rows].tolist(), molecules.Fingerprint())
    np.testing.assert_array_equal(bits[rows], expected)
    task = Kiba("val", folder=real)[3]
    assert (task.support.x.shape, task.query.y.shape) == ((16, 1024), (15, 1))
