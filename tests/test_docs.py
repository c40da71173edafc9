"""All Python of pages and notebooks runs: the blocks in their order, in one namespace and an empty folder.

A block below `<!-- test: skip (reason) -->` is left out. `make doctest` runs these tests beside the examples
of docstrings; some pages train for longer than a test may take.
"""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "paper").rglob("*.md")])
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
BLOCK = re.compile(
    r"^(?P<skip> *<!-- test: skip \(.+?\) -->\n+)?(?P<indent> *)```python[^\n]*\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(page):
    """Return the Python of a page, each block on the lines that it has there."""
    text, found = page.read_text(encoding="utf-8"), []
    for block in BLOCK.finditer(text):
        if not block["skip"]:
            before = "\n" * text.count("\n", 0, block.start("code"))
            found.append(before + re.sub(f"^{block['indent']}", "", block["code"], flags=re.MULTILINE))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # a page may show what is warned of
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if blocks(page)]
)
def test_python_of_the_page_runs(page, tmp_path, monkeypatch):
    run(page, blocks(page), tmp_path, monkeypatch)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("notebook", [pytest.param(path, id=path.stem) for path in NOTEBOOKS])
def test_a_notebook_is_stored_without_outputs_and_runs(notebook, tmp_path, monkeypatch):
    if notebook.stem == "molecules":
        pytest.importorskip("rdkit")
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    run(notebook, ["".join(cell["source"]) for cell in code], tmp_path, monkeypatch)


def run(page, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # so that classes of the page can be pickled
    for code in texts:
        exec(compile(code, page, "exec"), vars(module))


def test_blocks_are_found_on_their_lines_and_can_be_skipped(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n```python\na = 1\n```\n\n<!-- test: skip (needs a file) -->\n```python\nraise\n```\n\n"
        "=== tab\n\n    ```python\n    if a:\n        b = 2\n    ```\n\n```sh\nls\n```\n"
    )
    assert blocks(page) == ["\n\n\na = 1\n", "\n" * 14 + "if a:\n    b = 2\n"]


def test_the_readme_says_what_the_benchmark_says():
    readme = _rows((ROOT / "README.md").read_text(encoding="utf-8"), "| table, task |")
    benchmark = (ROOT / "docs" / "benchmark-tables.md").read_text(encoding="utf-8")
    named = {"ridge of the task": "task ridge", "mixed model, random slope": "MixedLM, random slope"}
    named["LightGBM, pooled"] = "LightGBM"
    head, *rows = readme
    assert len(rows) >= 5
    for table, k, n_tasks, *values in rows:
        section = benchmark.split(f"\n## {table.split(',')[0]}\n")[1]
        assert f"{n_tasks} with k = {k}" in section.splitlines()[1]
        (_, *columns), *methods = _rows(section, "| skill |")
        skill = {name: cells[columns.index(f"k = {k}")] for name, *cells in methods}
        assert values == [skill[named.get(name, name)] for name in head[3:]]


def _rows(text, start):
    """Return the cells of the table of a page that begins with a text, its head first."""
    lines = text[text.index(start) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|--" not in line]
