"""The command line as people meet it, with their mistakes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from metalens.cli import _notes
from metalens.cli.run import LiveProgress
from metalens.experiments.arms import Arm, Cell

QUICK = [
    "--steps",
    "3",
    "--meta_batch_size",
    "3",
    "--n_test_tasks",
    "5",
    "--n_val_tasks",
    "3",
    "--seeds",
    "0",
    "1",
]


def metalens(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "metalens", *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "METALENS_CACHE": str(cwd / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_one_sentence(done: subprocess.CompletedProcess, words: str, status: int = 2) -> None:
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("metalens: ")
    assert words in lines[-1]
    assert not [line for line in lines[:-1] if not line.startswith("metalens: note: ")]


def test_list_and_help(metalens_here):
    done = metalens_here("list")
    assert done.returncode == 0
    for word in ("demo", "omniglot-20w1s", "ProtoNet", "TRLearner", "harmonic-10shot", "regression"):
        assert word in done.stdout
    assert "--inner" not in done.stdout
    for words in ([], ["--help"], ["run", "--help"], ["run", "demo", "--help"], ["report", "--help"]):
        done = metalens_here(*words)
        assert done.returncode == 0
        assert "usage:" in done.stdout


@pytest.mark.slow
def test_same_command_same_seed_gives_the_same_bytes(tmp_path):
    for out in ("a", "b"):
        done = metalens("run", "demo", *QUICK, "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "paired difference" in done.stdout
        assert str(tmp_path / out / "report.html") in done.stdout
    for name in ("results.csv", "metrics.csv", "curves.csv", "relations.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    done = metalens("report", "a", cwd=tmp_path)
    assert done.returncode == 0
    assert not list(tmp_path.glob(".*partial*"))


@pytest.mark.slow
def test_runs_on_the_same_tasks_are_compared_and_others_refused(tmp_path, metalens_here):
    def run(out, *words):
        done = metalens_here("run", "demo", *QUICK, "--hidden", "4", "--out", out, *words)
        assert "Report: " in done.stdout, done.stderr

    run("a", "--regularizers", "none", "TRLearner")
    run("b", "--regularizers", "none", "MetaMix", "--outer_lr", "0.02")
    run("c", "--regularizers", "none", "MetaMix")
    run("d", "--regularizers", "none", "--k_shot", "7")
    done = metalens_here("compare", "a", "b", "--format", "csv")
    names = [line.split(",")[:3] for line in done.stdout.splitlines()[1:]]
    clash = [["a: MAML", "none", "Uniform"], ["b: MAML", "none", "Uniform"]]
    assert names == [*clash, ["MAML", "TRLearner", "Uniform"], ["MAML", "MetaMix", "Uniform"]]
    same = metalens_here("compare", "a", "c", "--format", "md", "--baseline", "MAML + MetaMix").stdout
    rows = [line.split(" | ")[0] for line in same.splitlines() if line.startswith("| MAML")]
    assert rows == ["| MAML + MetaMix", "| MAML", "| MAML + TRLearner"]  # MAML is the same in both
    table = " ".join(metalens_here("compare", "c", "a").stdout.split())
    assert "differences to MAML." in table
    assert_one_sentence(metalens_here("compare", "a", "d"), "a and d were not tested on the same tasks")
    assert "settings differ in k_shot (5 and 7)." in metalens_here("compare", "a", "d").stderr
    manifest = (tmp_path / "d" / "manifest.json").read_text()
    (tmp_path / "d" / "manifest.json").write_text(manifest.replace('"k_shot": 7', '"k_shot": "many"'))
    assert_one_sentence(metalens_here("compare", "d", "a"), "The manifest of the run is damaged")
    assert_one_sentence(metalens_here("compare", "a"), "needs two runs or more")
    assert_one_sentence(metalens_here("compare", "a", "c", "--baseline", "ANIL"), "No arm is 'ANIL'")
    assert_one_sentence(metalens_here("compare", "a", "tmp"), "tmp is not a finished run")
    for kind, name, words in (("latex", "report.tex", r"\toprule"), ("md", "report.md", "| MAML |")):
        told = metalens_here("report", "a", "--format", kind)
        assert str(tmp_path / "a" / name) in "".join(told.stdout.split("\n"))
        assert words in (tmp_path / "a" / name).read_text()


def test_config_file_and_print_config(tmp_path, metalens_here):
    printed = metalens_here("run", "sinusoid-5shot", "--noise", "0.25", "--print_config")
    assert printed.returncode == 0
    assert "noise: 0.25" in printed.stdout
    (tmp_path / "mine.yaml").write_text(printed.stdout)
    again = metalens_here("run", "sinusoid-5shot", "--config", "mine.yaml", "--print_config")
    assert again.stdout == printed.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "nonsense"], "invalid choice: 'nonsense'"),
        (["fly"], "invalid choice: 'fly'"),
        (["run", "demo", "--learner", "NoSuch"], "There is no learner 'NoSuch'"),
        (["run", "demo", "--learner", "ProtoNet"], "ProtoNet needs at least 2 classes"),
        (["run", "demo", "--regularizers", "none", "TRLearner(weight=-1)"], "weight must be 0 or more"),
        (["run", "demo", "--meta_batch_size", "2"], "meta-batch of at least 3 tasks, got 2"),
        (["run", "demo", "--steps", "many"], "--steps must be int, got 'many'"),
        (["run", "demo", "--ema", "often"], "--ema must be float or null, got 'often'"),
        (["run", "demo", "--seeds", "0", "a"], "--seeds must be int, got 'a'"),
        (["run", "demo", "--schedule", "up"], "--schedule must be 'constant', 'linear', 'cosine', got 'up'"),
        (["run", "demo", "--steps", "0"], "steps must be at least 1"),
        (
            ["run", "demo", "--machine.devices", "2"],
            "devices is 2, and 1 process was started on this machine; start "
            "`torchrun --nproc-per-node 2 -m metalens run ... --machine.devices 2`",
        ),
        (["run", "demo", "--machine.devices", "3"], "3 processes cannot share 8 tasks equally"),
        (
            ["run", "demo", "--machine.devices", "2", "--machine.workers", "2"],
            "Only one of workers and devices",
        ),
        (["run", "demo", "--machine.devices", "2", "--explain"], "Several processes follow the rule"),
        (["run", "demo", "--machine.strategy", "fsdp"], "--machine.strategy must be 'auto', 'ddp'"),
        (
            ["run", "demo", "--machine.precision", "16-mixed", "--machine.accelerator", "cpu"],
            "the nearest precision is bf16-mixed",
        ),
        (["run", "demo", "--n_train_tasks", "0"], "n_train_tasks must be at least"),
        (["run", "demo", "--k_shot", "0"], "k_shot must be at least 1"),
        (["run", "demo", "--hidden", "0"], "sizes of at least 1"),
        (["run", "demo", "--machine.batching", "0"], "batching"),
        (["run", "demo", "--machine.chunk", "0"], "chunk must be at least 1"),
        (["run", "demo", "--machine.accelerator", "abacus"], "accelerator='abacus' is not possible"),
        (["run", "demo", "--nonsense", "3"], "--nonsense"),
        (["run", "demo", "--outer_lr", "nan"], "outer_lr"),
        (["run", "demo", "--seeds", "99999999999999999999999"], "seeds must be 0 or more and below"),
        (["run", "demo", "--regularizers", "TRLearner", "TRLearner()"], "Each arm must be named once"),
        (["run", "demo", "--hidden", "100000000000"], "memory"),
        (["run", "demo", "--config", "absent.yaml"], "absent.yaml"),
        (["run", "omniglot-5w1s", "--n_way", "0"], "n_way must be at least 2, got 0"),
        (["report", "absent"], "absent is not a finished run: results.csv is missing"),
    ],
)
def test_mistakes_end_in_one_sentence(words, sentence, tmp_path, metalens_here):
    assert_one_sentence(metalens_here(*words), sentence)
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("steps: [", "mine.yaml is not YAML"),
        ("", "mine.yaml must hold settings"),
        ("stpes: 3", "mine.yaml has settings that demo does not know: stpes"),
        ("learner: MAML", "mine.yaml: learner must be a list"),
        ("steps: many", "steps"),
        ("outer_lr: .nan", "outer_lr must be above 0 and finite"),
        ("overwrite: maybe", "not boolean"),
    ],
)
def test_a_wrong_config_file_is_one_sentence(content, sentence, tmp_path, metalens_here):
    (tmp_path / "mine.yaml").write_text(content)
    assert_one_sentence(metalens_here("run", "demo", "--config", "mine.yaml"), sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.slow
def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path, metalens_here):
    words = [*QUICK, "--learner", "Ridge", "--regularizers", "none"]  # nothing is trained
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "precious").write_text("x")
    done = metalens_here("run", "demo", *words, "--out", "old")
    assert_one_sentence(done, "old exists already")
    done = metalens_here("run", "demo", *words, "--out", "old", "--overwrite")
    assert_one_sentence(done, "old is no folder of a run")
    assert (tmp_path / "old" / "precious").exists()
    (tmp_path / "old" / "manifest.json").write_text("{}")
    done = metalens_here("run", "demo", *words, "--out", "old", "--overwrite")
    assert done.returncode == 0
    assert not (tmp_path / "old" / "precious").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_an_unwritable_folder_is_one_sentence(tmp_path, metalens_here):
    (tmp_path / "file").write_text("in the way")
    done = metalens_here("run", "demo", *QUICK, "--out", "file/run")
    assert_one_sentence(done, "Cannot write to file/run")
    assert_one_sentence(
        metalens_here("run", "demo", *QUICK, "--out", "/proc/run"), "Cannot write to /proc/run"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing_half_written(kind, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "metalens", "run", "demo", "--steps", "100000", "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a script ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".run.unfinished/new/weights")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(kind)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.strip().splitlines() == ["metalens: interrupted; nothing was written."]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("truncated", "garbage")), "missing"]
)
def test_damaged_zips_are_one_sentence(damage, tmp_path, data_folder, metalens_here):
    folder = tmp_path / "omniglot"
    folder.mkdir()
    for path in (data_folder / "omniglot").glob("*.zip"):
        shutil.copyfile(path, folder / path.name)
    broken = folder / "images_evaluation.zip"
    if damage == "missing":
        broken.unlink()
    else:
        content = broken.read_bytes()
        broken.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"no zip" * 100)
    done = metalens_here("run", "omniglot-5w1s", *QUICK, "--folder", str(tmp_path), "--out", "run")
    assert_one_sentence(done, "images_evaluation.zip")
    assert not (tmp_path / "run").exists()


def test_the_progress_bar_ends_at_the_last_step():
    with Progress(console=Console(file=StringIO())) as display:
        watcher = LiveProgress(display, 1)
        watcher.start_training([Cell(Arm("MAML"), 0)], 1000)
        for step in range(1, 1001):
            watcher.step(step, 1 / step)
        assert display.tasks[1].completed == 1000
        assert display.tasks[1].fields["status"].startswith("loss 0.0010")


def test_a_note_is_said_once(capsys):
    note = _notes()
    for text in ("few rows", "few rows", "few columns"):
        note(UserWarning(text), UserWarning, "file.py", 1)
    assert capsys.readouterr().err.splitlines() == ["metalens: note: few rows", "metalens: note: few columns"]


def test_a_missing_package_is_one_sentence(metalens_here, monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    done = metalens_here("list")
    assert_one_sentence(done, "jsonargparse is not installed: pip install 'metalens[all]'.")


def test_a_part_of_the_machine_keeps_the_rest(metalens_here, tmp_path):
    (tmp_path / "mine.yaml").write_text("machine: {threads: 2}")
    told = metalens_here(
        "run", "demo", "--config", "mine.yaml", "--machine.together", "false", "--print_config"
    )
    for line in ("  threads: 2", "  together: false", "  profile: true", "  keep_freed_memory: true"):
        assert line in told.stdout.splitlines()


# Data sets


def test_data_sets_are_listed_checked_and_fetched(metalens_here, tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_DATA", str(tmp_path))
    folder = tmp_path / "pacs" / "photo"
    for number, (name, image) in enumerate((name, i) for name in "abcd" for i in range(3)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name / f"{image}.png")
    actions = (["list"], ["check", "pacs"], ["fetch", "pacs"])
    told = "".join(metalens_here("data", *action).stdout for action in actions)
    for words in (
        "metadataset-dtd",
        "not here",
        "train: classes 0",
        "test: classes 4, images 12, published",
        "pacs is in",
    ):
        assert words in told
    for words, sentence in (
        (("check", "cub"), "cub is not in"),
        (("check", "cubs"), "There is no data set 'cubs'; choose from omniglot, "),
        (("fetch", "cub"), "cub cannot be fetched"),
        (("check",), "are required: data.check.name"),
    ):
        assert_one_sentence(metalens_here("data", *words), sentence)
