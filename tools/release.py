"""Build the source distribution and the wheel, and check that a user gets what is in the repository.

    python -m tools.release --out dist

Both are built twice from copies of the files that git holds, in two folders: the results must be equal, byte
by byte. The wheel must hold every file of `metalens/` as it is, and nothing else but its metadata. Then it is
installed into an empty environment, where `pip check` must find nothing, and where `metalens` runs the demo,
trains on a table, predicts, and writes reports that need no other file.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ("--constraint", str(ROOT / "constraints.txt"))


def main(words: Sequence[str] | None = None) -> None:
    """Build, check and install."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for what is built")
    parser.add_argument("--no_install", action="store_true", help="do not install the wheel")
    settings = parser.parse_args(words)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built = build_twice(folder)
        (wheel,) = (path for path in built if path.suffix == ".whl")
        check_wheel(wheel, repository_files())
        print(f"built, twice the same: {', '.join(path.name for path in built)}", flush=True)
        if not settings.no_install:
            use(wheel, folder)
        settings.out.mkdir(parents=True, exist_ok=True)
        for path in built:
            shutil.copy(path, settings.out)
            print(f"{digest(path)}  {path.name}")
    print(f"checked in {time.monotonic() - begin:.0f} s")


def repository_files() -> list[str]:
    """Return the files that git holds, and new ones that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(name for name in found.split("\0") if name and (ROOT / name).is_file())


def commit_time() -> str:
    """Return the time of the last commit, in seconds, which the files of a build bear."""
    command = ["git", "log", "-1", "--format=%ct"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def build_twice(folder: Path) -> list[Path]:
    """Build in two copies of the repository, and return the files of the first.

    Raises:
        SystemExit: the files of the second differ.
    """
    builds: list[list[Path]] = []
    for number in (1, 2):
        copy, out = folder / f"copy {number}", folder / f"built {number}"
        for name in repository_files():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)  # with another time of change
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
        epoch = {"SOURCE_DATE_EPOCH": commit_time()}
        subprocess.run(command, check=True, env=os.environ | epoch, stdout=subprocess.DEVNULL)
        builds.append(sorted(out.iterdir()))
    first, second = ({path.name: digest(path) for path in build} for build in builds)
    if first != second:
        sys.exit(f"Two builds differ: {first} and {second}.")
    return builds[0]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_wheel(wheel: Path, files: Sequence[str]) -> None:
    """Exit unless a wheel holds exactly the files of the package, the licence and the bill of materials.

    Raises:
        SystemExit: a file is missing, stray, or has another content.
    """
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        metadata = [name for name in archive.namelist() if ".dist-info/" in name]
    wanted = {name: (ROOT / name).read_bytes() for name in files if name.startswith("metalens/")}
    if held != wanted:
        names = sorted(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))
        sys.exit(f"{wheel.name} does not hold metalens/ as it is: {', '.join(names)}.")
    for needed in ("/licenses/LICENSE", "/sboms/sbom.cdx.json"):
        if not any(name.endswith(needed) for name in metadata):
            sys.exit(f"{wheel.name} has no {needed[1:]}.")


def use(wheel: Path, folder: Path) -> None:
    """Install a wheel into an empty environment, and do there what a user does first."""
    home = folder / "environment"
    venv.create(home, with_pip=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python, metalens = scripts / "python", scripts / "metalens"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def call(*command: object) -> None:
        words = list(map(str, command))
        print(f"$ {Path(words[0]).name} {' '.join(words[1:])}", flush=True)
        subprocess.run(words, check=True, cwd=folder, env=clean, stdout=subprocess.DEVNULL)

    call(python, "-m", "pip", "install", "--quiet", *CONSTRAINTS, "torch")
    call(python, "-m", "pip", "install", "--quiet", *CONSTRAINTS, f"{wheel}[cli]")
    call(python, "-m", "pip", "check")
    write_tables(folder)
    call(metalens, "run", "demo", "--seeds", "0", "1", "--steps", "50", "--out", "demo")
    roles = ("--task", "sensor", "--target", "pressure")
    short = ("--steps", "50", "--baselines", "Ridge", "MixedModel", "MeanPredictor")
    call(metalens, "train", "--data", "sensors.csv", *roles, *short, "--out", "model")
    tables = ("--support", "few.csv", "--query", "new.csv")
    call(metalens, "predict", "--model", "model", *tables, "--out", "predictions.csv")
    predictions = pd.read_csv(folder / "predictions.csv")
    known = pd.read_csv(folder / "new.csv")["pressure"]
    error = float(((predictions["prediction"] - known) ** 2).mean()) ** 0.5
    if not (predictions["lower"] < predictions["upper"]).all() or not error < known.std():
        sys.exit(
            f"The predictions of a line have the error {error:.3g}, and targets spread {known.std():.3g}."
        )
    for report in (folder / "demo" / "report.html", folder / "model" / "report.html"):
        check_report(report)


def write_tables(folder: Path) -> None:
    """Write a table of 40 sensors, each a line of its own, and the known and new rows of another."""
    rng = np.random.default_rng(0)
    sensor = np.repeat(np.arange(41), 12)
    slope, offset = rng.normal(size=(2, 41))
    frame = pd.DataFrame(
        {"sensor": [f"s{number}" for number in sensor], "voltage": rng.normal(size=len(sensor))}
    )
    frame["pressure"] = 100 + 10 * (slope[sensor] * frame["voltage"] + offset[sensor])
    frame["pressure"] += 0.1 * rng.normal(size=len(sensor))  # without noise, intervals may have no width
    frame[sensor < 40].to_csv(folder / "sensors.csv", index=False)
    new = frame[sensor == 40]
    new[:6].to_csv(folder / "few.csv", index=False)
    new[6:].to_csv(folder / "new.csv", index=False)


class Sources(HTMLParser):
    """What a page loads, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.headings = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.headings += tag in ("h1", "h2")
        if tag in ("img", "script", "link", "iframe"):
            self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]


def check_report(path: Path) -> None:
    """Exit unless a report has headings and images, and loads nothing from elsewhere.

    Raises:
        SystemExit: it is otherwise.
    """
    page = Sources()
    page.feed(path.read_text(encoding="utf-8"))
    if page.headings < 2 or any(not source.startswith(("data:", "#")) for source in page.loaded):
        sys.exit(f"{path} has {page.headings} headings and loads {page.loaded}.")


if __name__ == "__main__":
    main()
