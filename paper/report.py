"""The report of a finished study: one self-contained HTML page, and its figures as files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from metalens.errors import MetaLensError
from metalens.io.files import MANIFEST, atomic_path, writing_into
from metalens.io.json import read_json
from metalens.reports.reading import naming_damage
from metalens.reports.run_report import figures_folder, save_figure, template
from paper import catalogue
from paper.study import Study, Tables


def read_study(folder: Path) -> tuple[Study, Tables, dict[str, Any]]:
    """Return a finished study with its tables and its manifest.

    Raises:
        MetaLensError: a file is missing or damaged.
    """
    path = folder / MANIFEST
    manifest = read_json(path, "run the study again", {"study": str, "configuration": dict, "tables": list})
    try:
        study = replace(catalogue.get_study(manifest["study"]), **manifest["configuration"])
        tables = {}
        for name in manifest["tables"]:
            path = folder / f"{name}.csv"
            tables[name] = pd.read_csv(path)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise MetaLensError(f"{path} is missing or damaged ({error}); run the study again.") from error
    return study, tables, manifest


def sentences_of(study: Study, tables: Tables, folder: Path) -> list[str]:
    """Return the findings of a study, after what limits them.

    Raises:
        MetaLensError: the tables, which are those of the folder, are damaged.
    """
    with naming_damage(folder, "run the study"):
        return [*study.cautions(tables), *study.findings(tables)]


def write_study_report(folder: str | Path) -> Path:
    """Write `report.html`, `figures/*.svg` and `figures/*.png` from the files of a finished study.

    The same files give the same report, byte for byte.

    Args:
        folder: with `manifest.json` and the tables that it names.

    Returns:
        The path of `report.html`, which needs no other file and no network.

    Raises:
        MetaLensError: a file is missing or damaged, or the folder is not writable.
    """
    folder = Path(folder)
    study, tables, manifest = read_study(folder)
    report = folder / "report.html"
    with writing_into(folder):
        drawn = figures_folder(folder)
        with naming_damage(folder, "run the study"):
            images = [
                (name, save_figure(drawing.figure, drawn / name), drawing.caption)
                for name, drawing in study.drawings(tables).items()
            ]
            page = template(Path(__file__).parent / "study.html.j2").render(
                manifest=manifest,
                findings=sentences_of(study, tables, folder),
                images=images,
                columns=list(tables["summary"].columns),
                rows=[[_cell(value) for value in row] for row in tables["summary"].itertuples(index=False)],
            )
        with atomic_path(report) as path:
            path.write_text(page, encoding="utf-8")
    return report


def _cell(value: Any) -> str:
    """Return a cell of a table as text.

    >>> _cell(0.123456), _cell(-2.0), _cell(float("nan")), _cell("mse"), _cell(1e-9)
    ('0.1235', '−2', '', 'mse', '1e−09')
    """
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}".replace("-", "−")
    return str(value)
