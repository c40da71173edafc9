"""Every task distribution keeps the contract of `metalens.testing`."""

import numpy as np
import pytest
from small_data import arrays, clouds, line, lines, table, write_fs_mol, write_images

from metalens import (
    ArrayTasks,
    ChemblAssays,
    ClusteredSinusoid,
    FSMol,
    FunctionTasks,
    GeneratedTasks,
    Harmonic,
    ImageFolders,
    Kiba,
    M4Hourly,
    MultiDomain,
    Omniglot,
    Parkinsons,
    Pose,
    SeriesTasks,
    Sinusoid,
    TableTasks,
)
from metalens.data.interleaved import Interleaved
from metalens.testing import check_distribution, distribution_checks

SHOTS = {"k_shot": 3, "n_query": 4}
WAVES = np.sin(np.arange(60) + np.arange(20)[:, None]) + np.arange(20)[:, None]


def own_table(split, seed, **settings):
    return TableTasks(table(), split, task="patient", seed=seed, **{**SHOTS, **settings})


def domains(split, seed):
    return MultiDomain({"sine": Sinusoid(split, seed=seed), "harmonic": Harmonic(split, seed=seed)})


# Functions of a split and a seed.
SYNTHETIC = {
    "Sinusoid": lambda split, seed: Sinusoid(split, seed=seed),
    "Sinusoid of a pool": lambda split, seed: Sinusoid(split, seed=seed, n_train_tasks=5),
    "ClusteredSinusoid": lambda split, seed: ClusteredSinusoid(split, seed=seed),
    "Harmonic": lambda split, seed: Harmonic(split, seed=seed),
    "GeneratedTasks": lambda split, seed: GeneratedTasks(lines, split, block_size=4, seed=seed),
    "FunctionTasks": lambda split, seed: FunctionTasks(line, split, n_tasks=20, seed=seed, **SHOTS),
    "FunctionTasks of classes": lambda split, seed: FunctionTasks(
        clouds, split, n_tasks=20, n_way=2, seed=seed, **SHOTS
    ),
    "ArrayTasks": lambda split, seed: ArrayTasks(arrays(classes=False), split, seed=seed, **SHOTS),
    "ArrayTasks of classes": lambda split, seed: ArrayTasks(
        arrays(classes=True), split, n_way=2, seed=seed, **SHOTS
    ),
    "SeriesTasks": lambda split, seed: SeriesTasks(WAVES, split, length=5, horizon=2, seed=seed, **SHOTS),
    "TableTasks": lambda split, seed: own_table(split, seed, target="score", descriptors=["ward"]),
    "TableTasks of classes": lambda split, seed: own_table(split, seed, target="colour"),
    "TableTasks of all rows": lambda split, seed: own_table(split, seed, target="score", n_query=None),
    "MultiDomain": domains,
    "Interleaved": lambda split, seed: Interleaved(domains(split, seed), 1, 3),
}
# The same of published files.
PUBLISHED = {
    "ChemblAssays": lambda split, seed: ChemblAssays(split, n_query=4, seed=seed),
    "Kiba": lambda split, seed: Kiba(split, seed=seed),
    "M4Hourly": lambda split, seed: M4Hourly(split, seed=seed),
    "Omniglot": lambda split, seed: Omniglot(split, seed=seed),
    "Parkinsons": lambda split, seed: Parkinsons(split, seed=seed),
    "Pose": lambda split, seed: Pose(split, shrink=4, seed=seed),
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}-{check}")
        for name, factory in SYNTHETIC.items()
        for check in distribution_checks(factory)
    ],
)
def test_contract(check):
    check()


def test_contract_of_image_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
    archive = write_images(tmp_path)
    check_distribution(
        lambda split, seed: ImageFolders(archive, split, n_way=2, n_query=2, image_size=8, seed=seed)
    )


@pytest.mark.slow
def test_contract_of_fs_mol(tmp_path):
    folder = write_fs_mol(tmp_path)
    check_distribution(lambda split, seed: FSMol(split, k_shot=4, n_query=4, seed=seed, folder=folder))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Found .* of Omniglot")  # a copy may be incomplete
@pytest.mark.filterwarnings("ignore:.* have a molecule whose fingerprint is also that of another")  # ChEMBL
@pytest.mark.parametrize("name", PUBLISHED)
def test_contract_of_published_data(name, data_folder):
    check_distribution(PUBLISHED[name])
