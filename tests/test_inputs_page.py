"""The page on what is read names, for each line, a test that there is."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reference" / "inputs.md"


def test_each_line_of_the_page_is_held_by_a_test():
    defined = set(
        re.findall(r"^def (test_\w+)", "\n".join(p.read_text("utf-8") for p in TESTS.glob("*.py")), re.M)
    )
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [line for line in rows if not line.endswith("| test |")]
    assert len(rows) > 30
    for line in rows:
        named = re.findall(r"`(test_\w+)`", line)
        assert named, line
        assert set(named) <= defined, line
