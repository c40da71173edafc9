"""Feeding one reader with inputs, by Hypothesis or by atheris, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NoReturn

CHUNK = 1000  # inputs of one session of Hypothesis, which remembers all


class Session:
    """One reader and one engine: counts inputs, and keeps those that are found."""

    def __init__(self, target: str, folder: Path, kept: Path) -> None:
        from metalens.io.files import cache_folder
        from tools.fuzz.guard import write
        from tools.fuzz.readers import READERS

        self.target, self.reader = target, READERS[target]
        self.folder, self.kept, self.cache = folder / "files", kept, cache_folder()
        self.count, self.seconds, self.found = 0, 0.0, {}
        self._write = write
        self.folder.mkdir(parents=True)
        self.reader.write(self.folder)
        names = sorted(path for path in self.folder.rglob("*") if path.is_file())
        self.sound = {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in names}
        for name in [*self.sound][: 1 if self.reader.writes else None]:  # also imports what is imported late
            if finding := self._outcome(name):
                raise AssertionError(f"{target}: the sound file {name} is refused: {finding}")
        write(self.folder, self.sound)
        self.begin = time.process_time()

    def check(self, name: str, content: bytes) -> None:
        """Read the files with one of them changed."""
        path = self.folder / name
        path.write_bytes(content)
        self.count += 1
        finding = self._outcome(name)
        if finding is not None and finding not in self.found:
            self.found[finding] = len(self.found)
            kept = self.kept / f"{self.target.replace(' ', '-')}-{len(self.found)}-{path.name}"
            kept.write_bytes(content)
            print(f"{self.target}: {finding.what} at {finding.where}: {finding.said} [{kept}]", flush=True)
        if self.reader.writes:
            self._write(self.folder, self.sound)
        else:
            path.write_bytes(self.sound[name])
        shutil.rmtree(self.cache, ignore_errors=True)

    def _outcome(self, name: str):
        from tools.fuzz.guard import outcome

        folders = [self.cache, self.folder] if self.reader.writes else [self.cache]
        return outcome(
            lambda: self.reader.read(self.folder, name), folders, may_be_large=self.reader.may_be_large
        )

    def end(self, results: Path) -> None:
        """Write how it went."""
        facts = {
            "inputs": self.count,
            "findings": len(self.found),
            "seconds": time.process_time() - self.begin,
        }
        results.write_text(json.dumps(facts))


def by_hypothesis(session: Session, inputs: int, seed: int, *, kinds: bool) -> None:
    """Change files by strategies: of their kind, or of bytes alone."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    from tools.fuzz.damage import changed, edited

    strategies = [
        st.tuples(st.just(name), changed(name, content) if kinds else edited(content))
        for name, content in session.sound.items()
    ]
    while session.count < inputs:
        n = min(CHUNK, inputs - session.count)
        quiet = settings(max_examples=n, database=None, deadline=None, phases=[Phase.generate],
                         suppress_health_check=list(HealthCheck))  # fmt: skip

        @hypothesis.seed(seed + session.count)
        @quiet
        @given(st.one_of(strategies))
        def feed(change: tuple[str, bytes]) -> None:
            session.check(*change)

        feed()


def by_atheris(session: Session, inputs: int, seed: int, corpus: Path, results: Path) -> NoReturn:
    """Change bytes, and keep what reaches new lines; the first byte says which file it is."""
    import atheris

    names = list(session.sound)
    corpus.mkdir()
    for number, name in enumerate(names):
        (corpus / str(number)).write_bytes(bytes([number]) + session.sound[name])

    def feed(data: bytes) -> None:
        if data:
            session.check(names[data[0] % len(names)], data[1:])
        if session.count == inputs:
            session.end(results)
            sys.stdout.flush()
            os._exit(0)  # libFuzzer never returns

    # Time and memory are limited by the guard; with -timeout=0 atheris interrupts after a second.
    settings = [f"-seed={seed + 1}", "-max_len=20000", "-timeout=86400", "-rss_limit_mb=0", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *settings, str(corpus)], feed)
    atheris.Fuzz()
    raise AssertionError("atheris returned")


def work(target: str, engine: str, inputs: int, seed: int, folder: Path, kept: Path) -> None:
    """Feed one reader, in a process of its own."""
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    has_atheris = engine == "atheris" and importlib.util.find_spec("atheris") is not None
    folder.mkdir()
    if has_atheris:
        os.dup2(os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT), 2)  # atheris tells of every module
        import atheris

        with atheris.instrument_imports(include=["metalens"]):
            import tools.fuzz.readers  # noqa: F401
    os.chdir(folder)
    os.environ["METALENS_CACHE"], tempfile.tempdir = str(folder / "cache"), str(folder)
    session = Session(target, folder, kept)
    from tools.fuzz.guard import limit_memory

    limit_memory()
    if has_atheris:
        by_atheris(session, inputs, seed, folder / "corpus", folder / "results.json")
    by_hypothesis(session, inputs, seed, kinds=engine == "hypothesis")
    session.end(folder / "results.json")
