"""Mutate the formulas, and count the mutants that the tests notice.

    pip install cosmic-ray
    python tools/mutation.py --sample 240 --seed 0 --out mutants.csv
    python tools/mutation.py --sample 240 --seed 0 --again mutants.csv --out again.csv
    python tools/mutation.py --named --out named.csv

Run it in a clone of its own: the source is edited, and restored, while it runs. A mutant is one small change
of `learners/`, `regularizers/`, the formulas of `relations/`, `adapted_tasks.py`, `batching.py` or
`recomputing.py`. The sample takes places in the source at random and one change at each place; annotations
are left out. Each mutant meets its file's own tests, of `make test` alone: the oracle of that name or the
oracles of all learners, the file's doctests, the contracts of its methods on a perceptron, and all other
tests that name what the file defines, or the whole of `make test` where none does. `--named` runs a list of
changes, each of which undoes one idea of a method.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "metalens"
TIMEOUT = 1200  # seconds; a mutant that makes tests endless is noticed

# File, text, replacement: each undoes one idea.
NAMED = [
    ("relations/weights.py", "matrix.masked_fill(itself, 0.0)", "matrix"),
    ("relations/weights.py", "matrix.masked_fill(itself, -torch.inf)", "matrix"),
    ("relations/weights.py", "related.clamp(min=0)", "related"),
    ("relations/stacked.py", "predictions * others[..., None, None]", "predictions"),
    ("relations/stacked.py", "center + (of_models", "(of_models"),
    ("relations/cosine.py", "self.omega[:, None, None] * vectors", "vectors.expand(4, -1, -1, -1)"),
    ("regularizers/trlearner.py", "predictions.shape[-1]).mT", "predictions.shape[-1])"),
    ("learners/gradient.py",
     "value - sizes[name] * directions[name]",
     "value - sizes[name] * directions[name].detach()"),
    ("learners/gradient.py", "with torch.no_grad() if self.detaches_gradients else", "with"),
    ("learners/gradient.py", "value - sizes[name]", "value + sizes[name]"),
    ("learners/meta_sgd.py",
     "dict(zip(state, self.rates, strict=True))",
     "dict.fromkeys(state, self.inner_lr)"),
    ("learners/maml_plus_plus.py", "min(step, self.inner_steps - 1)", "0"),
    ("learners/maml_plus_plus.py", "(1 - share * len(early)) * final", "final"),
    ("learners/tnet.py", "transform @ state[name]", "transform.T @ state[name]"),
    ("learners/mtnet.py", "sizes[name] = self.inner_lr * rows", "sizes[name] = self.inner_lr"),
    ("learners/anil.py",
     'self.network.head.named_parameters(prefix="head")',
     "self.network.named_parameters()"),
    ("learners/boil.py", 'if not name.startswith("head.")', ""),
    ("learners/proto_maml.py", "2 * prototypes", "prototypes"),
    ("learners/imaml.py", "_add(u, hessian_u, 1 / self.proximity)", "u"),
    ("learners/reptile.py", "end[name].detach()", "state[name].detach()"),
    ("learners/baselines/linear_probe.py", "if self.training or stop is not None:", "if stop is not None:"),
    ("learners/r2d2.py", "rows @ rows.T + ridge", "rows @ rows.T + ridge.detach()"),
    ("learners/deep_kernel_gp.py", "targets - self._mean(hyper, z)", "targets"),
    ("regularizers/metamix.py",
     "lam * paired.x + (1 - lam) * query.x",
     "lam * query.x + (1 - lam) * paired.x"),
    ("learners/baselines/knn.py", "predictions.argmax(1) != y", "predictions.argmax(1) == y"),
    ("regularizers/mlti.py", "share * a + (1 - share) * b", "(1 - share) * a + share * b"),
    ("regularizers/meta_aug.py", "slots.gather(1, examples.y)", "examples.y"),
    ("regularizers/taml.py",
     "_entropy(adapted.query_predictions) - _entropy",
     "_entropy(adapted.query_predictions) + _entropy"),
    ("regularizers/mr_maml.py",
     "mean + log_sigmas[self._number].exp() * self.draws if self.training else mean",
     "mean + log_sigmas[self._number].exp() * self.draws"),
    ("regularizers/dropout_bins.py", "/ (1 - self.p)", ""),
    ("regularizers/metacrl.py", "risk + slope.square()", "risk"),
    ("adapted_tasks.py", "tensor[models.flatten()]", "tensor[torch.arange(n).repeat_interleave(k)]"),
    ("batching.py", "for task in tasks]", "for task in reversed(list(tasks))]"),
    ("recomputing.py", "*(next(gradients) if need else None", "*(None"),
    ("recomputing.py",
     "iter(_TaskByTask._with_graph(ctx, slope))",
     "(total * slope for total in ctx.totals)"),
    ("learners/mixed_mode.py",
     "enumerate(ctx.needed[ctx.n :]) if needed]",
     "enumerate(ctx.needed[ctx.n :]) if False]"),
]  # fmt: skip

RELATIONS = ["agreement", "controls", "cosine", "mutual", "stacked", "vectors", "weights"]
ALL_LEARNERS = ["test_learners", "test_gradient_learners", "test_detached_learners", "test_inner"]
ALL_LEARNERS += ["test_trlearner", "test_baselines"]
OF_FOLDER = {
    "regularizers": ["test_combined_regularizers"],
    "relations": ["test_trlearner"],
    "baselines": [*ALL_LEARNERS, "test_table_baselines", "test_partial_pooling"],
}
GENERAL = "MAML-none-mlp- or ANIL-TRLearner-mlp- or ProtoNet-none-mlp- or MAML-TAML-mlp-"


def main() -> None:
    """Run the mutants and print each with its fate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="1/1", help="this part of the sample, for several clones at once")
    parser.add_argument("--named", action="store_true")
    parser.add_argument("--again", type=Path, help="only those that survived in a table of --out")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    mutants = list(named() if arguments.named else sampled(arguments.sample, arguments.seed))
    part, parts = map(int, arguments.part.split("/"))
    chosen, killed = mutants[part - 1 :: parts], 0
    if arguments.again is not None:
        with arguments.again.open(newline="") as file:
            alive = {tuple(row[:4]) for row in csv.reader(file) if row[4] == "survived"}
        chosen = [mutant for mutant in chosen if tuple(map(str, described(*mutant))) in alive]
    with arguments.out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "line", "before", "after", "fate", "seconds"])
        for number, mutant in enumerate(chosen, 1):
            begin = time.perf_counter()
            fate = meet(mutant[0], mutant[3])
            killed += fate == "killed"
            row = [*described(*mutant), fate, f"{time.perf_counter() - begin:.0f}"]
            table.writerow(row)
            file.flush()
            print(f"{number}/{len(chosen)}", killed, *row, sep=" | ", flush=True)


def named() -> Iterator[tuple[Path, int, str, str]]:
    """Yield file, line, text before and text after for every change of the list."""
    for name, old, new in NAMED:
        path = PACKAGE / name
        before = path.read_text(encoding="utf-8")
        if before.count(old) < 1:
            raise SystemExit(f"{name} has no {old!r}; bring the list of named mutants up to date.")
        yield path, before[: before.index(old)].count("\n") + 1, before, before.replace(old, new)


def sampled(size: int, seed: int) -> Iterator[tuple[Path, int, str, str]]:
    """Yield a random sample: places in the source, and one change at each."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    files = [*PACKAGE.glob("learners/**/*.py"), *PACKAGE.glob("regularizers/*.py")]
    files += [PACKAGE / "relations" / f"{name}.py" for name in RELATIONS]
    files += [PACKAGE / "adapted_tasks.py", PACKAGE / "batching.py", PACKAGE / "recomputing.py"]
    places: dict[tuple[Path, tuple[int, int]], list[tuple[str, int]]] = {}
    for path in sorted(file for file in files if file.name != "__init__.py"):
        nodes = list(ast_nodes(get_ast_from_path(path)))
        for name in operator_names():
            operator = get_operator(name)
            if operator.arguments() or "BitOr" in name:  # `A | B` is an annotation here
                continue
            positions = [position for node in nodes for position in operator().mutation_positions(node)]
            for occurrence, (start, _) in enumerate(positions):
                places.setdefault((path, start), []).append((name, occurrence))
    rng = random.Random(seed)
    for path, start in rng.sample(sorted(places), min(size, len(places))):
        name, occurrence = rng.choice(places[path, start])
        before = path.read_text(encoding="utf-8")
        after = mutate_code(before, get_operator(name)(), occurrence)
        if after is not None:
            yield path, start[0], before, after


def meet(path: Path, mutated: str) -> str:
    """Return whether the file's own tests notice the mutated text."""
    original = path.read_text(encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    path.write_text(mutated, encoding="utf-8")
    try:
        for words in own_tests(path):
            options = ["-x", "-p", "no:cacheprovider", "--doctest-modules"]
            command = [sys.executable, "-m", "pytest", *options, *words]
            run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=TIMEOUT)
            if run.returncode not in (0, 5):  # 5: no such test
                return "killed"
    except subprocess.TimeoutExpired:
        return "killed"
    finally:
        path.write_text(original, encoding="utf-8")
    return "survived"


def own_tests(path: Path) -> list[list[str]]:
    """Return the arguments of pytest for the tests of a file, the quickest first."""
    shared = path.stem in ("base", "gradient")  # what all methods build on
    text = path.read_text(encoding="utf-8")
    methods = [name for name in catalogued() if f"class {name}(" in text and not shared]
    files = [f"tests/oracles/{name}.py" for name in oracles_of(path)]
    contracts = " or ".join(f"{name}-none-mlp- or MAML-{name}-mlp-" for name in methods) or GENERAL
    first = [str(path.relative_to(ROOT)), *files]
    core = [
        "tests/test_release.py",
        *([] if methods else ["tests/test_core.py", "tests/test_training.py"]),
    ]
    named = naming(text) or ["tests"]  # all, where none names it
    others = [name for name in dict.fromkeys([*core, *named]) if name not in files]
    return [first, ["tests/contracts", "-k", contracts], others]


def naming(text: str) -> list[str]:
    """Return the tests, contracts apart, that name a class or function that a module's text defines.

    A function whose name is a plain word is not counted.
    """
    defined = re.findall(r"^(?:class ([A-Z]\w*)|def ([a-z]+_\w+))", text, re.MULTILINE)
    defined = ["".join(names) for names in defined]
    words = re.compile(rf"\b(?:{'|'.join(defined)})\b") if defined else re.compile("(?!)")
    files = [*ROOT.glob("tests/test_*.py"), *ROOT.glob("tests/oracles/test_*.py")]
    found = [file for file in files if words.search(file.read_text(encoding="utf-8"))]
    return sorted(str(file.relative_to(ROOT)) for file in found)


def oracles_of(path: Path) -> list[str]:
    """Return the oracles named like a module, or else of the modules that import it and of its folder."""
    files = {file.stem for file in (ROOT / "tests/oracles").glob("test_*.py")}
    if f"test_{path.stem}" in files:
        return sorted(name for name in files if name.startswith(f"test_{path.stem}"))
    uses = re.compile(rf"^from metalens\.[\w.]*\b{path.stem} import", re.MULTILINE)
    users = [file.stem for file in PACKAGE.rglob("*.py") if uses.search(file.read_text(encoding="utf-8"))]
    found = sorted({f"test_{name}" for name in users} & files)
    return list(dict.fromkeys([*found, *OF_FOLDER.get(path.parent.name, ALL_LEARNERS)]))


def catalogued() -> list[str]:
    """Return the names that the packages of learners and regularizers export."""
    packages = [PACKAGE / folder / "__init__.py" for folder in ("learners", "regularizers")]
    return [name for path in packages for name in re.findall(r'"(\w+)"', path.read_text(encoding="utf-8"))]


def described(path: Path, line: int, before: str, after: str) -> tuple[Path, int, str, str]:
    """Return file, line, and the first line that differs, before and after."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    old, new = next(((a.strip(), b.strip()) for a, b in pairs if a != b), ("", ""))
    return path.relative_to(ROOT), line, old, new


if __name__ == "__main__":
    main()
