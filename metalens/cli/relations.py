"""`metalens relations DIR`: which tasks a trained model finds alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from metalens.errors import MetaLensError
from metalens.files import atomic_path


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = (
        "Show which tasks a trained model finds alike: nearest tasks, groups, a heat map with the tree of "
        "tasks (PNG), and all relations as a table (CSV)."
    )
    parser.add_argument("folder", type=str, help="folder of a finished run")
    parser.add_argument(
        "--arm", type=str | None, default=None,
        help="Arm by its name, its regularizers or its number; by default the first with TRLearner.",
    )  # fmt: skip
    parser.add_argument("--seed", type=int | None, default=None, help="Seed; by default the first.")
    parser.add_argument("--split", type=Literal["train", "val", "test"], default="test", help="Which tasks.")
    parser.add_argument("--tasks", type=int, default=30, help="How many tasks, from number 0 on.")
    parser.add_argument(
        "--groups", type=int | None, default=None, help="How many groups; by default as many as are clear."
    )
    parser.add_argument(
        "--by", type=Literal["features", "labeled", "adaptation", "predictions"] | None, default=None,
        help="In place of the relations of the arm: plain cosine of these task vectors, or how well the "
        "models of two tasks predict each other's support sets.",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=str | None, default=None, help="Folder to write to; by default DIR/relations."
    )


def execute(settings: Namespace, words: list[str]) -> None:
    """Compute, show and write the relations."""
    from metalens.benchmarks.arms import arms_of  # all slow to import
    from metalens.benchmarks.loading import arm_of, load_objective, recipe_of
    from metalens.benchmarks.relating import regularizer_of, relate
    from metalens.results.reading import read_manifest
    from metalens.results.relation_map import (
        relation_figure,
        relation_map,
        relations_as_table,
        relations_summary,
    )

    folder = Path(settings.folder)
    recipe = recipe_of(read_manifest(folder))
    if settings.tasks < 3:
        raise MetaLensError(f"--tasks must be at least 3, got {settings.tasks}.")
    arm = arm_of(recipe, settings.arm)
    seed = recipe.seeds[0] if settings.seed is None else settings.seed
    objective = load_objective(folder, recipe, arm, seed)
    regularizer = regularizer_of(objective, settings.by)
    found = relate(objective.learner, regularizer, recipe.distribution(settings.split, seed), settings.tasks)
    relations = relation_map(found.matrix, found.names, settings.groups)

    console = Console()
    title = f"{arm}, seed {seed}, {settings.split} tasks: {found.kind}"
    console.print(title, style="bold", highlight=False, markup=False)
    for part in relations_summary(relations):
        console.print(part, highlight=False)
    if found.agreement is not None:
        console.print(
            f"Rank correlation with what is known about the tasks: {found.agreement:.2f}", highlight=False
        )
    out = folder / "relations" if settings.out is None else Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    by = "" if settings.by is None else f"-{settings.by}"
    stem = f"{settings.split}-arm{arms_of(recipe).index(arm)}-seed{seed}{by}"
    with atomic_path(out / f"{stem}.csv") as path:
        relations_as_table(relations).to_csv(path, index=False)
    with atomic_path(out / f"{stem}.png") as path:
        relation_figure(relations, title).savefig(path, format="png", dpi=150)
    for kind, name in (("Picture", f"{stem}.png"), ("Table", f"{stem}.csv")):
        console.print(f"{kind}: {(out / name).resolve()}", soft_wrap=True, markup=False, highlight=False)
