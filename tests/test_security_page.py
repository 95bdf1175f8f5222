"""The threat model: every line of it has its tests, and every test of hostile input has its line."""

import ast
import re
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "security.md").read_text()
NAMED = re.compile(r"`tests/(test_security_\w+\.py)::(test_\w+)`")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| threat", "| ---"))]


def written() -> Counter[tuple[str, str]]:
    """Every test of these files, whichever class it stands in."""
    files = (path for path in HERE.glob("test_security_*.py") if path != Path(__file__))
    return Counter(
        (path.name, node.name)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def test_every_line_of_the_threat_model_names_its_tests_and_they_exist() -> None:
    assert len(ROWS) > 40
    for row in ROWS:
        assert row.count("|") == 5, row
        assert NAMED.search(row.split("|")[4]), row
    assert set(NAMED.findall(PAGE)) <= set(written())


def test_every_test_of_hostile_input_stands_in_the_threat_model_once() -> None:
    assert written() == Counter(NAMED.findall(PAGE))


def test_every_limit_that_it_names_is_one() -> None:
    source = "\n".join(path.read_text() for path in (HERE.parent / "chip").rglob("*.py"))
    limits = {name for row in ROWS for name in re.findall(r"`([A-Z_]{4,})`", row.split("|")[3])}
    assert limits
    assert [name for name in limits if not re.search(rf"^{name} = ", source, re.MULTILINE)] == []


def test_how_to_report_is_said() -> None:
    policy = (HERE.parent / "SECURITY.md").read_text()
    assert "Report a vulnerability" in policy
    assert "@" not in policy
