"""Damaged and hostile files end in one sentence: `python -m tools.fuzz` in small."""

import io
import pickle
import re
import socket
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from metalens.errors import MetaLensError
from tools.fuzz import guard
from tools.fuzz.damage import PICKLE, texts
from tools.fuzz.readers import READERS
from tools.fuzz.session import Session, by_hypothesis

pytestmark = pytest.mark.filterwarnings("default")  # a reader may warn

SLOW = ("calls", "configuration", "runs")  # to prepare
INPUTS = {"runs": 4, "models": 6, "unfinished runs": 6, "checkpoints": 10}  # of readers that take long
FAR_OUTSIDE = b"sensor,volt,color,bar\n" + b"".join(b"%d,2147483648,red,0.1\n" % (n // 8) for n in range(24))


def nameless():
    """Return a zip file with a member that has no name."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("?", b"content")
    return whole.getvalue().replace(b"?", b"\0")  # where a name ends


def connect():
    with socket.socket() as client:
        client.connect(("127.0.0.1", 9))


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Return the session of a reader by its name, whose sound files are written once."""
    folder, sessions = tmp_path_factory.mktemp("fuzz"), {}

    def of(name):
        if name not in sessions:
            sessions[name] = Session(name, folder / name, folder)
        return sessions[name]

    texts.validate()  # where it is new, Hypothesis writes a table of all characters
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALENS_CACHE", str(folder / "cache"))
        yield of


@pytest.fixture
def one(session, reader):
    """Return the session of the test's reader."""
    return session(reader)


@pytest.mark.filterwarnings("ignore:Without pyarrow")
@pytest.mark.parametrize("most", [3, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "reader",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in READERS],
)
def test_whatever_is_in_a_file_a_reader_ends_well_or_in_one_sentence(one, reader, most):
    by_hypothesis(one, one.count + min(most, INPUTS.get(reader, most)), 0, kinds=True)
    assert not one.found


@pytest.mark.parametrize(
    ("reader", "name", "content"),
    [
        ("calls", "learner.txt", b"MAML(" + b"x" * 5000),  # a sentence as long
        ("configuration", "demo.yaml", b"[" * 3000),  # deeper than the parser goes
        ("configuration", "demo.yaml", b"steps: 2001-99-99\n"),  # no date
        ("configuration", "demo.yaml", b"hidden: [1000000000000000000000]\n"),  # no number of PyTorch's
        ("configuration", "demo.yaml", b"meta_batch_size: 4\nsteps: null\n"),
        ("configuration", "demo.yaml", b"compile: false_\n"),
        ("checkpoints", "state.safetensors", PICKLE),
        ("unfinished runs", "unfinished/plan.json", b"[]"),
        ("unfinished runs", "unfinished/arm0-seed0.json", b'{"seconds": 1}'),
        ("new tasks", "support.csv", FAR_OUTSIDE),  # equations without a solution
        (
            "new tasks",
            "support.csv",
            FAR_OUTSIDE.replace(b"2147483648", b"0.5").replace(b"0.1", b"1e+308", 1),
        ),
        ("models", "model.json", b"[" * 200_000),
        ("models", "training.json", b"[" * 200_000),
        ("models", "weights.safetensors", PICKLE),
        ("models", "comparison.csv", b"model,task\nR2D2,1\n"),
        ("models", "comparison.csv", b"model,task,metric,value\n"),
        ("models", "curve.csv", b"metric,value\nmse,1\n"),
    ],
)
def test_what_fuzzing_found_stays_mended(session, reader, name, content):
    session(reader).check(name, content)
    assert not session(reader).found


@pytest.mark.parametrize("name", ["step", "n_worse", "n_logged"])
def test_counts_in_checkpoints_are_whole_numbers(session, name):
    one = session("checkpoints")
    content = one.sound["state.safetensors"]
    (length,) = struct.unpack("<Q", content[:8])
    header = re.sub(rb'(\\"%s\\": )\d+' % name.encode(), rb"\g<1>1.5", content[8 : 8 + length])
    assert len(header) > length
    one.check("state.safetensors", struct.pack("<Q", len(header)) + header + content[8 + length :])
    assert not one.found


@pytest.mark.parametrize(
    ("reader", "name", "before", "after"),
    [
        ("unfinished runs", "unfinished/plan.json", b", 1]]]", b", {}]]]"),
        ("unfinished runs", "unfinished/plan.json", b", 1]]]", b", 1]], []]"),
        ("models", "model.json", b'"target": "bar"', b'"target": ["bar"]'),
        ("models", "model.json", b'"deviation": ', b'"deviation": null, "x": '),
        ("models", "model.json", b'"mean": ', b'"mean": [], "x": '),
        ("models", "model.json", b'"k_shot": ', b'"k_shot": "two", "x": '),
        ("tables", "table.zip", b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\x7c"),  # version 12.4
        ("images", "images.zip", None, nameless()),
    ],
)
def test_what_fuzzing_found_in_sound_files_stays_mended(session, reader, name, before, after):
    one = session(reader)
    content = after if before is None else one.sound[name].replace(before, after)
    assert content != one.sound[name]
    one.check(name, content)
    assert not one.found


def raising(error):
    raise error


def busy():
    while True:
        time.sleep(0)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: Path("beside.txt").write_text("x"), "open"),
        (lambda: Path("inside/../beside").mkdir(), "os.mkdir"),
        (lambda: Path("inside").rename("beside"), "os.rename"),
        (lambda: subprocess.run([sys.executable, "-c", ""]), "subprocess.Popen"),
        (connect, "socket.connect"),
        (lambda: pickle.loads(PICKLE), "pickle.find_class"),
        (busy, "longer than"),
        (lambda: raising(KeyError("name")), "name"),
        (lambda: raising(MemoryError()), "memory"),
    ],
)
def test_the_guard_finds_what_a_reader_may_not_do(read, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    (tmp_path / "inside").mkdir()
    finding = guard.outcome(read, [tmp_path / "inside"])
    assert finding is not None
    assert words in finding.said
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_the_guard_lets_a_reader_write_into_its_folder_and_say_a_sentence(tmp_path):
    assert guard.outcome((tmp_path / "inside.txt").touch, [tmp_path]) is None
    assert guard.outcome(lambda: raising(MetaLensError("Row 3 is empty; fill it.")), []) is None
