"""`metalens relations DIR`: how a trained model relates tasks to each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from metalens.cli.progress import say
from metalens.errors import MetaLensError
from metalens.io.files import MODEL, atomic_path
from metalens.specs.outside import named_by

By = Literal["features", "labeled", "adaptation", "predictions", "regression"]

if TYPE_CHECKING:
    from metalens.relations.clusters import RelationMap


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = (
        "Show how a trained model relates tasks to each other: nearest tasks, groups, a heat map with the "
        "tree of tasks (PNG), and all relations as a table (CSV)."
    )
    # fmt: off
    add = parser.add_argument
    add("folder", type=str, help="folder of a finished run, or of a trained model")
    add("--data", type=str | None, default=None,
        help="For a trained model: tasks to relate; by default those of the comparison. Of the other options "
        "only --groups and --out apply.")
    add("--arm", type=str | None, default=None,
        help="Arm by its label or number; by default the first with TRLearner.")
    add("--seed", type=int | None, default=None, help="Seed; by default the first.")
    add("--split", type=Literal["train", "val", "test"], default="test", help="Which tasks.")
    add("--tasks", type=int, default=30, help="Number of tasks, from number 0 on.")
    add("--groups", type=int | None, default=None, help="Number of groups; by default as many as are clear.")
    add("--by", type=By | None, default=None,
        help="Instead of the relations of the arm: plain cosine of these task vectors; how well the models "
        "of two tasks predict each other's support sets; or the weights with which the models of the other "
        "tasks predict a support set best.")
    add("--out", type=str | None, default=None, help="Folder to write to; by default DIR/relations.")
    # fmt: on


def execute(settings: Namespace, words: list[str]) -> None:
    """Compute, show and write the relations."""
    folder, data, known = Path(settings.folder), settings.data, []
    out = folder / "relations" if settings.out is None else Path(settings.out)
    if (folder / MODEL).is_file():
        title = "Tasks on which models were compared" if data is None else f"Tasks of {data}"
        relations = _of_model(folder, data, settings.groups)
        stem = "held-out" if data is None else Path(data).stem
    elif data is not None:
        raise MetaLensError(f"{folder} is no folder of a trained model; leave out --data, which is for one.")
    else:
        with named_by(folder):
            relations, title, known, stem = _of_run(folder, settings)
    _show(relations, title, known, out, stem)


def _of_run(folder: Path, settings: Namespace) -> tuple[RelationMap, str, list[str], str]:
    """Return the relations of an arm, their title, the agreement with known relations, and a file name."""
    from metalens.experiments.arms import arms_of  # all slow to import
    from metalens.experiments.loading import arm_of, load_objective, recipe_of
    from metalens.relations.clusters import relation_map
    from metalens.relations.relate import plain_relation, relate
    from metalens.reports.reading import read_manifest

    recipe = recipe_of(read_manifest(folder))
    if settings.tasks < 3:
        raise MetaLensError(f"--tasks must be at least 3, got {settings.tasks}.")
    arm, by = arm_of(recipe, settings.arm), settings.by
    seed = recipe.seeds[0] if settings.seed is None else settings.seed
    objective = load_objective(folder, recipe, arm, seed)
    relation = objective.relation if by is None else plain_relation(by)
    found = relate(objective.learner, relation, recipe.distribution(settings.split, seed), settings.tasks)
    known = "" if found.agreement is None else f"{found.agreement:.2f}"
    stem = f"{settings.split}-arm{arms_of(recipe).index(arm)}-seed{seed}{'' if by is None else f'-{by}'}"
    return (
        relation_map(found.matrix, found.names, settings.groups),
        f"{arm}, seed {seed}, {settings.split} tasks: {found.kind}",
        [f"Rank correlation with what is known about the tasks: {known}"] if known else [],
        stem,
    )


def _of_model(folder: Path, data: str | None, n_groups: int | None) -> RelationMap:
    """Return the relations of new tasks, or those of the tasks on which models were compared."""
    from metalens.relations.clusters import RelationMap, relation_map

    if data is not None:
        from metalens.estimators import load_model

        return load_model(folder).relations(data, n_groups=n_groups)
    from metalens.estimators.report import read_model_folder

    relations = read_model_folder(folder).relations
    if not isinstance(relations, RelationMap):
        raise MetaLensError(f"{relations} Give --data with more of them.")
    return relation_map(relations.matrix, relations.names, n_groups)


def _show(relations: RelationMap, title: str, known: list[str], out: Path, stem: str) -> None:
    """Print relations, and write them as a table and a picture."""
    from metalens.relations.clusters import relations_as_table
    from metalens.reports.relation_map import relation_figure, relations_summary

    console = Console(highlight=False)
    console.print(title, style="bold", markup=False)
    for part in [*relations_summary(relations), *known]:
        console.print(part)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / f"{stem}.csv") as path:
        relations_as_table(relations).to_csv(path, index=False)
    with atomic_path(out / f"{stem}.png") as path:
        relation_figure(relations, title).savefig(path, format="png", dpi=150)
    say(f"Picture: {(out / f'{stem}.png').resolve()}", f"Table: {(out / f'{stem}.csv').resolve()}")
