"""Starting up: what is imported when, and Ctrl-C meanwhile; each case in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

import metalens

ENTRIES = {"script": ["-c", "from metalens.cli import main; main()"], "module": ["-m", "metalens"]}


def python(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run Python in a folder, whose modules come before those that are installed."""
    command = [sys.executable, "-B", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 0, "usage: metalens"),
        (["--help"], 0, "usage: metalens"),
        (["report", "--help"], 0, "folder of a run, suite or sweep"),
        (["fly"], 2, "metalens: argument command: invalid choice: 'fly'"),
        (["--fly"], 2, "metalens: "),
    ],
)
def test_help_and_unknown_commands_do_without_torch(entry, words, status, said, tmp_path):
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    done = python(*ENTRIES[entry], *words, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == (status != 0)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "words",
    [["run", "demo"], *(pytest.param(w, marks=pytest.mark.slow) for w in (["list"], ["report", "run"]))],
)
@pytest.mark.parametrize("raising", ["signal.raise_signal({})", "exec('signal.raise_signal({})')"])
def test_interruption_while_torch_is_imported_is_one_sentence(entry, kind, words, raising, tmp_path):
    (tmp_path / "torch.py").write_text(
        "import signal\n"
        # Python's own handler, which is absent in jobs in the background of a script: they ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + raising.format(f"signal.{kind}")
    )
    done = python(*ENTRIES[entry], *words, cwd=tmp_path)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines() == ["metalens: interrupted; nothing was written."]
    assert [path.name for path in tmp_path.iterdir()] == ["torch.py"]


EXTRAS = ("matplotlib", "rich", "jsonargparse", "jinja2", "yaml", "pooch", "PIL", "optuna")
CORE = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))"  # importing one raises ImportError


@pytest.mark.slow
@pytest.mark.parametrize(
    "first_use",
    [
        "from metalens import MAML",
        "from metalens import *; MAML",
        "import metalens; metalens.learners.MAML, metalens.training",
        "import metalens; assert {'MAML', 'fit', 'learners'} <= set(dir(metalens))",
        "from metalens.learners import MAML; from metalens import training, evaluate",
    ],
)
def test_names_are_there_at_their_first_use_in_a_core_install(first_use, tmp_path):
    done = python("-c", f"{CORE}; {first_use}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_exported_name_is_there_and_no_other():
    for package in (metalens.data, metalens.learners, metalens.networks, metalens.regularizers):
        assert set(package.__all__) < set(metalens.__all__)
        for name in package.__all__:
            assert getattr(metalens, name) is getattr(package, name)
    assert len(set(metalens.__all__)) == len(metalens.__all__)
    assert set(metalens.__all__) <= set(dir(metalens))
    for name in metalens.__all__:
        assert hasattr(metalens, name)
    with pytest.raises(AttributeError, match="No metalens attribute MALM"):
        _ = metalens.MALM  # pyright: ignore
    with pytest.raises(ImportError, match="cannot import name 'MALM' from 'metalens'"):
        from metalens import MALM  # noqa: F401 # pyright: ignore


FIT = """
import warnings
warnings.simplefilter("ignore")
import numpy as np, pandas as pd
from metalens import MetaRegressor
x = np.random.default_rng(0).random(160)
table = pd.DataFrame({"t": np.repeat(np.arange(20), 8), "x": x, "y": x})
baselines = ("ProfileRidge", "KNN(n_neighbors=2)")
model = MetaRegressor(steps=2, hidden=(4,), baselines=baselines).fit(table, task="t", target="y")
model.save("model")
print(MetaRegressor.load("model").adapt(table[:4]).predict(table[4:8]).shape)
"""


@pytest.mark.slow
def test_a_core_install_fits_a_table(tmp_path):
    done = python("-c", f"{CORE}\n{FIT}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(4,)\n"
