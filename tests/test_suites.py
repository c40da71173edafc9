"""Suites: the same bits as single runs, whatever fails, dies or is killed on the way."""

import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from metalens import MetaLensError
from metalens.cli import main
from metalens.cli import run as run_command
from metalens.experiments import RECIPES
from metalens.experiments.arms import arms_of
from metalens.experiments.experiment import run
from metalens.experiments.loading import command_of
from metalens.experiments.suites import SUITES, Entry, Suite, read_suite
from metalens.experiments.suites.report import write_suite_report, write_suite_table
from metalens.experiments.suites.running import SuiteWatcher, run_suite
from metalens.experiments.workers import processes
from metalens.specs.settings import changed

pytestmark = pytest.mark.filterwarnings("ignore:Found .* of Omniglot")  # a copy may be incomplete
TINY = replace(
    RECIPES["sinusoid-5shot"],
    learner=["MAML", "Ridge"], regularizers=["none", "TRLearner"], seeds=[0, 1], steps=4, meta_batch_size=4,
    n_val_tasks=4, validate_every=2, n_test_tasks=5, hidden=[8],
)  # fmt: skip
SUITE = Suite("tiny", "A recipe", None, [Entry("five", TINY)])
TABLES = ("results.csv", "metrics.csv", "curves.csv", "relations.csv")
YAML = """
settings: {learner: [MAML], regularizers: [none], seeds: [0, 1], n_val_tasks: 0, n_test_tasks: 5}
entries:
  - recipe: sinusoid-5shot
    settings: {steps: STEPS, hidden: [8], meta_batch_size: 4}
"""


class Noting(SuiteWatcher):
    """Keeps what was started, and can do something then."""

    def __init__(self, then=lambda what: None):
        self.started, self.then = [], then

    def start(self, entry, what):
        self.started.append((entry.name, what))
        self.then(what)


def run_here(folder, watcher=None, suite=SUITE, **settings):
    folder.mkdir(exist_ok=True)
    return run_suite(suite, folder, workers=1, threads=1, watcher=watcher, **settings)


def assert_as_single_run(entry, recipe, folder):
    """Fail unless an entry's files are those of a run by itself, to the last bit."""
    folder.mkdir(exist_ok=True)
    run(recipe, folder)
    for name in TABLES:
        assert (entry / name).read_bytes() == (folder / name).read_bytes(), name
    weights = sorted(path.name for path in (folder / "weights").iterdir())
    assert weights == sorted(path.name for path in (entry / "weights").iterdir())
    for name in weights:
        ours, theirs = (load_file(path / "weights" / name) for path in (entry, folder))
        assert all(ours[key].equal(theirs[key]) for key in theirs)


@pytest.mark.slow
def test_every_entry_is_its_run_and_what_is_done_is_skipped(tmp_path):
    folder = tmp_path / "suite"
    missing = Entry("kiba", replace(RECIPES["drug-kiba"], folder=str(tmp_path / "nowhere")))
    ridge = Entry("ridge", replace(TINY, learner=["Ridge"], regularizers=["none"]))
    suite = replace(SUITE, entries=[Entry("five", replace(TINY, learner=["MAML"])), missing, ridge])
    states = run_here(folder, suite=suite)
    assert [state.status for state in states.values()] == ["done", "failed", "done"]
    assert "kiba_kinases.csv.gz" in states["kiba"].failure.reason
    assert_as_single_run(folder / "five", replace(TINY, learner=["MAML"]), tmp_path / "alone")
    assert not (folder / "five" / "unfinished").exists()
    watcher = Noting()
    run_here(folder, watcher, suite)
    assert watcher.started == [("kiba", "plan")]
    page = write_suite_report(folder).read_text()
    assert "2 of 3 entries are done; kiba failed" in page
    assert "five/report.html" in page
    header, *rows = (folder / "results.csv").read_text().splitlines()
    assert header.startswith("entry,recipe,learner")
    assert len(rows) == 2 * 5 * (2 + 1)
    for kind, end in (("md", "†"), ("latex", "dagger"), ("csv", "p_holm")):
        assert end in write_suite_table(folder, kind).read_text()


@pytest.mark.slow
def test_what_fails_or_dies_is_recorded_and_tried_again(tmp_path):
    folder = tmp_path / "suite"
    damaged = folder / "five" / "unfinished" / "arm1-seed0-checkpoints" / f"step-1-{'0' * 16}.safetensors"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"?")

    def kill_next(what):
        if what == "MAML, 2 seeds":
            threading.Thread(target=kill_child, daemon=True).start()

    states = run_here(folder, Noting(kill_next))
    assert states["five"].status == "failed"
    reasons = {
        (cell.arm.regularizers, cell.seed): failure.reason for cell, failure in states["five"].cells.items()
    }
    assert sorted(reasons) == [("TRLearner", 0), ("TRLearner", 1), ("none", 0), ("none", 1)]
    assert "process died" in reasons["none", 0]
    assert "checkpoint" in reasons["TRLearner", 1]
    page = write_suite_report(folder).read_text()
    assert "0 of 1 entries are done; five failed" in page
    assert "process died" in page
    assert "What failed" in (folder / "five" / "report.html").read_text()
    damaged.unlink()
    watcher = Noting()
    assert run_here(folder, watcher)["five"].status == "done"
    assert ("five", "Ridge, 2 seeds") not in watcher.started
    assert_as_single_run(folder / "five", TINY, tmp_path / "alone")


def kill_child():
    while not (children := multiprocessing.active_children()):
        time.sleep(0.001)
    os.kill(children[0].pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_suite_goes_on_to_the_same_bits(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(YAML.replace("STEPS", "60"))
    words = [
        sys.executable,
        "-m",
        "metalens",
        "suite",
        "mine.yaml",
        "--out",
        "out",
        "--checkpoint_every",
        "0",
    ]
    first = subprocess.Popen([*words, "--workers", "1"], cwd=tmp_path)
    checkpoints = tmp_path / "out" / "sinusoid-5shot" / "unfinished" / "arm0-seed0-checkpoints"
    while not (checkpoints.is_dir() and list(checkpoints.glob("step-?*.safetensors"))):
        assert first.poll() is None
        time.sleep(0.005)
    first.kill()
    first.wait()
    until = time.monotonic() + 20
    seen = None
    while seen != (seen := sorted(checkpoints.iterdir())) and time.monotonic() < until:
        time.sleep(0.2)  # the worker ends by itself
    assert not (tmp_path / "out" / "sinusoid-5shot" / "manifest.json").exists()
    with pytest.raises(SystemExit):
        main(["suite", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out")])
    assert "resume with --resume" in capsys.readouterr().err
    subprocess.run([*words, "--resume"], cwd=tmp_path, check=True, capture_output=True)
    (entry,) = read_suite(str(tmp_path / "mine.yaml")).entries
    folder = tmp_path / "alone"
    folder.mkdir()
    run(changed(entry.recipe, {"machine": {"threads": 1}}), folder)
    for name in TABLES[:3]:
        assert (folder / name).read_bytes() == (tmp_path / "out" / "sinusoid-5shot" / name).read_bytes()


@pytest.mark.slow
def test_processes_end_with_the_block():
    begin = time.monotonic()
    with processes(1) as submit:
        assert submit(os.getpid).result() != os.getpid()
        assert isinstance(submit(int, "x").exception(), ValueError)
        assert "died" in str(submit(os._exit, 3).exception())
        sleeping = submit(time.sleep, 600)
        while not multiprocessing.active_children():
            time.sleep(0.001)
    assert isinstance(sleeping.exception(), MetaLensError)
    assert time.monotonic() - begin < 300


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("entries: [", "is not YAML"),
        ("[1, 2]", "must have description, settings, sizes, entries"),
        ("entry: []", "has 'entry'; it can have description"),
        ("entries: {}", "entries must be a list"),
        ("description: x", "must have entries"),
        ("entries: [demo]", "entry 1 must have recipe, name"),
        ("entries: [{name: x}]", "entry 1 must have a recipe"),
        ("entries: [{recipe: demo, study: x}]", "entry 1 has 'study'; it can have recipe, name"),
        ("entries: [{recipe: demos}]", "entry 1, demos: There is no recipe 'demos'; choose from demo"),
        ("entries: [{recipe: demo}, {recipe: demo}]", "several entries are called demo"),
        ("entries: [{recipe: demo, name: a/b}]", "its name becomes a folder"),
        ("entries: [{recipe: demo, settings: {step: 3}}]", "entry 1, demo: It has no setting 'step'; it has"),
        ("entries: [{recipe: demo, settings: {steps: many}}]", "steps"),
        ("entries: [{recipe: demo, settings: {steps: null}}]", "steps must have a value, got null"),
        ("entries: [{recipe: demo, settings: {seeds: 3}}]", "seeds must be a list, such as [a, b], got 3"),
        ("entries: [{recipe: demo, settings: {seeds: [null]}}]", "seeds"),
        ("entries: [{recipe: demo, settings: {steps: 0}}]", "steps must be at least 1, got 0"),
        ("entries: [{recipe: demo, settings: {machine: {workers: 2}}}]", "The machine is the suite's to"),
        ("entries: [{recipe: demo, settings: {learner: ['MAML(']}}]", "Cannot read 'MAML('"),
        ("{sizes: [a], entries: [{recipe: demo}]}", "sizes must be settings"),
        ("{sizes: {a: 1}, entries: [{recipe: demo}]}", "sizes must have settings for each"),
        ("{sizes: {a: {}}, entries: [{recipe: demo}]}", "its sizes are a; choose one with --size"),
    ],
)
def test_a_wrong_file_is_one_sentence(content, sentence, tmp_path, capsys):
    (tmp_path / "wrong.yaml").write_text(content)
    with pytest.raises(SystemExit) as end:
        main(["suite", str(tmp_path / "wrong.yaml"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_later_settings_override_earlier_ones(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "{settings: {steps: 1, k_shot: 2}, sizes: {a: {steps: 3}, b: {}}, entries: ["
        "{recipe: demo, settings: {steps: 2}, sizes: {b: {k_shot: 4}}},"
        "{recipe: sinusoid-5shot, only: [b]}]}"
    )
    a, b = read_suite(str(path), "a").entries, read_suite(str(path), "b").entries
    assert [(entry.recipe.steps, entry.recipe.k_shot) for entry in a] == [(3, 2)]
    assert [(entry.recipe.steps, entry.recipe.k_shot) for entry in b] == [(2, 4), (1, 2)]
    with pytest.raises(MetaLensError, match="its sizes are a, b"):
        read_suite(str(path))


@pytest.mark.filterwarnings("ignore:Found .* of Omniglot")  # a copy may lack some characters
@pytest.mark.parametrize("size", ["smoke", "small", "full"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "regression" else pytest.mark.slow) for name in SUITES]
)
def test_every_arm_of_the_suites_assembles(name, size, data_folder, monkeypatch):
    monkeypatch.setenv("METALENS_DATA", str(data_folder))
    for entry in read_suite(name, size).entries:
        for arm in arms_of(entry.recipe):
            arm.build(entry.recipe, seed=0).check_meta_batch_size(entry.recipe.meta_batch_size, 1)


@pytest.mark.parametrize("name", SUITES)
def test_the_command_of_an_entry_is_the_entry(name):
    for entry in read_suite(name, "small").entries:
        _, _, *words = shlex.split(command_of(entry.recipe))
        parser = run_command._parser(RECIPES[words[0]])
        choices = parser.parse_args(words[1:]).as_dict()
        settings = {key: choices[key] for key in vars(entry.recipe) if key in choices}
        assert changed(entry.recipe, settings) == entry.recipe
        assert settings["seeds"] == entry.recipe.seeds


def test_folders_of_others_are_kept(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(YAML.replace("STEPS", "1"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    for words in ([], ["--overwrite"], ["--resume"]):
        with pytest.raises(SystemExit):
            main(["suite", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out"), *words])
        assert "other files" in capsys.readouterr().err
    assert (tmp_path / "out" / "precious").exists()
