"""What the benchmarks promise of themselves: how data and targets are chosen, that nothing is done twice, and
that what is told of a method names nobody. Real data are looked at where they are."""

import json
import sys
from pathlib import Path

import pytest
import tiny_models

from chip.errors import ChipError
from chip.hierarchy import Hierarchy, Record
from chip.medforget.attempts import attempt, run
from chip.records import read_records

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
sys.path.append(str(ROOT / "benchmarks"))

from audited import BEFORE, RETRAINED, Bounds, Case, Kept, key_of, measure  # noqa: E402
from memorised import consistent  # noqa: E402
from real import SOURCES, cases, chosen_records, targets  # noqa: E402


def real(name: str) -> Path:
    """A real data directory; the test is skipped where it is not."""
    if not (DATA / name / "records.jsonl").is_file():
        pytest.skip(f"{DATA / name} is not there")
    return DATA / name


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_learnt_and_the_strangers_are_all_of_the_data_and_share_nothing(tmp_path: Path, name: str) -> None:
    data = real(name)
    learnt = read_records(chosen_records(tmp_path, data, SOURCES[name])).records
    strangers = read_records(tmp_path / "strangers").records
    assert learnt
    assert len(learnt) + len(strangers) == len(read_records(data).records)
    depth = SOURCES[name].depth
    assert not {one.path[:depth] for one in learnt} & {one.path[:depth] for one in strangers}


@pytest.mark.parametrize("name", SOURCES)
def test_a_target_has_enough_records_and_the_page_does_not_name_it(tmp_path: Path, name: str) -> None:
    source = SOURCES[name]
    for case in cases(name, source, real(name), tmp_path):
        hierarchy = read_records(case.data)
        split = hierarchy.split([hierarchy.resolve(node) for node in case.forget])
        assert len(split.target) >= source.levels[case.level]
        assert not any(part in case.about for node in case.forget for part in node.split("/"))
        assert source.together or len(case.forget) == 1


def test_tofu_forgets_the_split_that_tofu_forgets(tmp_path: Path) -> None:
    forget10 = tuple(f"author_{number}" for number in range(180, 200))
    (whole,) = cases("tofu", SOURCES["tofu"].whole(), real("tofu"), tmp_path / "whole")
    assert whole.forget == forget10
    (part,) = cases("tofu", SOURCES["tofu"], real("tofu"), tmp_path / "part")
    assert part.forget == forget10[: len(part.forget)]


def test_a_target_is_the_first_node_with_records_and_a_neighbour() -> None:
    paths = [("a",), ("b", "x"), ("b", "x"), ("c", "x"), ("c", "y"), ("c", "y"), ("d", "x"), ("d", "y"), ("d", "y")]
    hierarchy = Hierarchy(("top", "below"), [Record(path) for path in paths])
    assert targets(hierarchy, "top", 2) == [("b",)]
    assert targets(hierarchy, "below", 2) == [("c", "y")]
    assert targets(hierarchy, "top", 1, lambda node: node[0] > "b") == [("c",), ("d",)]


def test_a_question_with_two_answers_about_one_image_is_contradictory() -> None:
    one, other = (Path("1.png"),), (Path("2.png"),)
    records = [
        Record((), "which side?", "left", one),
        Record((), "which side?", "right", one),
        Record((), "which side?", "left", other),
        Record((), "which organ?", "lung", one),
        Record((), "which organ?", "lung", one),
    ]
    assert consistent(records) == [2, 3, 4]


def test_a_command_is_ended_at_its_limit_and_one_that_fails_says_why(tmp_path: Path) -> None:
    endless = attempt([sys.executable, "-c", "while True: pass"], tmp_path, limit=1)
    assert endless.problem == "ended at its limit of 1 s"
    failed = attempt([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path, limit=60)
    assert failed.problem == "failed: no such thing"


@pytest.mark.parametrize("said", ["done", "", "[1]", "[" * 100_000])
def test_a_command_that_says_no_json_has_a_problem_and_no_traceback(tmp_path: Path, said: str) -> None:
    command = [sys.executable, "-c", f"print({said!r})"]
    assert attempt(command, tmp_path).problem == "said no JSON object"
    with pytest.raises(ChipError, match="said no JSON object"):
        run(command, tmp_path)


@pytest.mark.parametrize("end", ["", "; import os; os.kill(os.getppid(), 9)", "; raise SystemExit('patient_7')"])
def test_what_a_command_says_is_in_no_file_that_others_can_read_or_that_stays(tmp_path: Path, end: str) -> None:
    folder = tmp_path / "work"
    script = f"import os, json; print(json.dumps({{'left': os.listdir(), 'node': 'patient_7'}}), flush=True){end}"
    ran = attempt([sys.executable, "-c", script], folder)
    assert bool(ran.problem) == bool(end)
    assert ran.said.get("left", []) == []
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_method_is_run_audited_and_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text_data: Path
) -> None:
    model, gold = (tiny_models.text_model(tmp_path / name, "llama") for name in ("model", "gold"))
    forget = ("inst_0/patient_0",)
    case = Case("tiny", "patient", "a patient", model, text_data, forget, gold, layers=3)
    kept, bounds = Kept(tmp_path / "kept.json"), Bounds(1, 300, ("rephrasing",))
    methods = {
        "chip": "--method chip --layers 0-{last} --no-tune --no-verify",
        "wrong": "--method chip --layers 99 --no-tune",
    }
    assert list(measure(case, bounds, kept, methods)) == list(methods)
    assert set(kept.found) == {key_of(case, name) for name in (BEFORE, RETRAINED, *methods)}
    assert kept.found[key_of(case, "chip")]["verdicts"].keys() == {"rephrasing"}
    assert kept.found[key_of(case, "wrong")]["problem"].startswith("failed: ")
    assert "patient_0" not in json.dumps(kept.found)
    capsys.readouterr()
    list(measure(case, bounds, Kept(tmp_path / "kept.json"), methods))
    assert "done" not in capsys.readouterr().err
