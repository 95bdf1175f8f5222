"""What is shown to people: names, answers and directories of a stranger reach no page and no terminal as they are."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from command_line import chip_here
from hostile import ESCAPES, SCRIPT, said_by
from safetensors.torch import load_file
from test_page import Reader, disturb
from tiny_records import write_lines

from chip.audit.page import render
from chip.cli.console import Printer
from chip.readable import markdown, plain_json, readable

NAME = SCRIPT.replace("/", "∕") + "\"'&{{ 7 * 7 }}${7*7}"
"""What may stand in the name of a node: all but a slash and what does not print."""
TEXT = f"{SCRIPT}{ESCAPES}</title></svg>]]>--><svg onload=alert(1)>{{{{ 7 * 7 }}}}"
ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models in directories whose names act, and records whose names and answers do."""
    root = tmp_path_factory.mktemp("report")
    lines = [
        {"path": ["i", f"{NAME} {number}"], "question": f"who ? {TEXT}", "answer": f"{number} {TEXT}", "x": TEXT}
        for number in range(3)
    ]
    write_lines(root / "data", *lines)
    before = root / f"before {SCRIPT.replace('/', '')} {ESCAPES}"
    tiny_models.text_model(before, "llama")
    after = root / f"after {ESCAPES}"
    shutil.copytree(before, after)
    disturb(after / "model.safetensors", 0)
    before.rename(root / "a")
    after.rename(root / "b")
    for kept, name in (("a", before.name), ("b", after.name)):
        (root / name).symlink_to(root / kept)
    return root


@pytest.fixture(scope="module")
def models(place: Path) -> tuple[Path, Path]:
    before, after = sorted((one for one in place.iterdir() if one.is_symlink()), key=lambda one: one.name, reverse=True)
    return before, after


@pytest.fixture(scope="module")
def report(place: Path, models: tuple[Path, Path]) -> dict[str, Any]:
    """A real audit of all that, with examples."""
    asked = ("audit", *models, "--data", place / "data", "--forget", f"{NAME} 0", "--show-records", "--quick")
    done = chip_here(*asked, "--attacks", "prefill", "--attacks", "inspection", "--out", place / "out")
    assert done.exit_code == 0, done.exception
    assert not ACTS.search(done.output)
    found: dict[str, Any] = json.loads((place / "out" / "report.json").read_bytes())
    return found


class TestThePage:
    def test_names_answers_and_directories_are_text_in_it_and_nothing_else(
        self, place: Path, report: dict[str, Any]
    ) -> None:
        html = (place / "out" / "report.html").read_text()
        page = Reader(html)
        assert not {tag for tag, _ in page.elements} & {"script", "img", "iframe", "object", "form", "base", "link"}
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        assert not ACTS.search(html)
        assert NAME in page.text
        assert readable(TEXT) in page.text
        assert "49" not in re.findall(r"\{\{.*?\}\}|\$\{.*?\}", page.text)
        assert "{{ 7 * 7 }}" in page.text

    def test_its_policy_forbids_what_might_get_through(self, report: dict[str, Any]) -> None:
        policies = [one["content"] for _, one in Reader(render(report)).elements if "http-equiv" in one]
        assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]
        assert "script-src" not in policies[0]

    def test_titles_and_figures_hold_them_as_text(self, report: dict[str, Any]) -> None:
        html = render(report)
        title = re.search(r"<title>(.*?)</title>", html, re.DOTALL)
        assert title is not None
        assert "<" not in title[1]
        drawn = "".join(re.findall(r"<svg\b.*?</svg>", html, re.DOTALL))
        assert "<script" not in drawn
        assert "onload" not in {name for _, attributes in Reader(drawn).elements for name in attributes}

    def test_the_file_beside_it_holds_them_as_json_that_is_plain(self, place: Path, report: dict[str, Any]) -> None:
        assert not ACTS.search((place / "out" / "report.json").read_text())
        assert any(one["answer"].endswith(TEXT) for one in report["examples"])


class TestTheTerminal:
    def test_a_plan_and_a_table_show_what_would_act(
        self, place: Path, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        asked = ("edit", models[0], "--data", place / "data", "--forget", f"{NAME} 0", "--out", tmp_path / "out")
        said = said_by(capsys, *asked, "--no-tune", "--workers", 0, "--statistics", tmp_path / "s.safetensors")
        assert "␛[2J" in said
        assert not ACTS.search(said)
        assert (tmp_path / "out").is_dir()

    def test_answers_that_are_shown_because_they_were_asked_for_do_not_act(
        self, place: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = said_by(capsys, "concepts", place / "data", "--forget", f"{NAME} 0")
        assert "␛[2J" in said
        assert not ACTS.search(said)

    def test_a_node_is_listed_as_it_is_called_and_json_is_plain(
        self, place: Path, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = said_by(capsys, "inspect", models[0], "--data", place / "data")
        assert f"  {NAME} 0  (patient, records: 1)" in said
        assert not ACTS.search(said)
        assert not ACTS.search(said_by(capsys, "inspect", models[0], "--data", place / "data", "--json"))

    def test_a_template_that_refuses_with_an_escape_does_not_act(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(llama_directory, tmp_path / "m")
        (tmp_path / "m" / "chat_template.jinja").write_text("{{ raise_exception('" + ESCAPES + "') }}")
        asked = ("edit", tmp_path / "m", "--data", text_data, "--forget", "patient_1", "--out", tmp_path / "out")
        said = said_by(capsys, *asked, "--workers", 0)
        assert "␛[2J" in said
        assert not ACTS.search(said)

    def test_a_message_of_a_missing_file_does_not_act(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = said_by(capsys, "inspect", tmp_path / ESCAPES)
        assert not ACTS.search(said)

    def test_a_line_that_a_name_holds_is_not_taken_for_one_of_chips(
        self, tmp_path: Path, llama_directory: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        forged = "note: nothing is left"
        model = Path(shutil.copytree(llama_directory, tmp_path / f"m\n{forged}\n"))
        (model / "model.safetensors").rename(model / f"a\n{forged}\n.safetensors")
        weights = dict.fromkeys(load_file(model / f"a\n{forged}\n.safetensors"), f"a\n{forged}\n.safetensors")
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
        said = said_by(capsys, "inspect", model)
        assert f"in a␤{forged}␤.safetensors" in said
        assert forged not in said.splitlines()
        said = said_by(capsys, "inspect", tmp_path / f"gone\n{forged}\n")
        assert f"gone␤{forged}␤" in said
        assert forged not in said.splitlines()

    def test_tables_and_notices_keep_their_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        printer = Printer(False)
        printer.facts({"model": "a\nnote: b", "records": "3"})
        printer.notice("a\nb")
        printer.line("a\nb")
        captured = capsys.readouterr()
        assert [line.rstrip() for line in captured.out.splitlines()] == ["model    a␤note: b", "records  3", "a␤b"]
        assert captured.err == "note: a␤b\n"


class TestTables:
    @pytest.mark.parametrize("text", [TEXT, "a | b", "a\n# b", "$\\frac{", ESCAPES, SCRIPT])
    def test_a_cell_of_markdown_holds_no_tag_no_cell_and_no_line(self, text: str) -> None:
        said = markdown(text)
        assert not ACTS.search(said)
        assert "<" not in said
        assert "\n" not in said
        assert not re.search(r"(?<!\\)\|", said)

    def test_json_for_people_is_the_same_json(self) -> None:
        content = {"a": [TEXT, "Zoë, 患者\U000e0001\ud7ff", 1.5, None], ESCAPES: {}}
        assert json.loads(plain_json(content)) == content
        assert not ACTS.search(plain_json(content))
        assert "患者" in plain_json(content)
