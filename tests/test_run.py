"""A run of the benchmark on a tiny model that knows four levels by heart: what is kept, told and refused."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from command_line import chip_here
from processes import start, start_team, until
from taught import teach
from tiny_records import write_lines

from chip.errors import ChipError, UsageError
from chip.records import read_records

LEVELS = ("institution", "patient", "study", "section")
FAILING = "chip --layers 99"
SECOND = "chip --layers 0"


def records() -> Iterator[dict[str, Any]]:
    """A fact of every node of two institutions, two patients each, two studies each, two sections each."""
    paths: list[tuple[str, ...]] = [()]
    for level in LEVELS:
        paths = [(*path, f"{level}_{''.join(one[-1] for one in path)}{i}") for path in paths for i in range(2)]
        for place, path in enumerate(paths):
            asked = {"question": f"code of {path[-1]} ?", "paraphrases": [f"tell the code of {path[-1]}"]}
            yield {"path": list(path), **asked, "answer": f"{'qwxzykvj'[place % 8]}{place * 7 % 10}{level[:2]}"}


@dataclass(frozen=True)
class Finished:
    """A run that came to its end, with what it was given."""

    model: Path
    data: Path
    gold: Path
    out: Path
    said: str

    def copy(self, to: Path, *, outcomes: bool = True) -> Path:
        """Its folder again, with the statistics that it kept, and with what it measured or without."""
        ignored = () if outcomes else ("outcomes", "results.*")
        return Path(shutil.copytree(self.out, to, ignore=shutil.ignore_patterns(*ignored)))

    def arguments(self, out: Path, *more: Any) -> tuple[Any, ...]:
        asked = ("--trials", 1, "--attacks", "rephrasing", "--keep", "--device", "cpu")
        return ("medforget", "run", self.model, self.data, "--out", out, *asked, *more)

    def again(self, out: Path, *more: Any) -> Result:
        return chip_here(*self.arguments(out, *more))


@pytest.fixture(scope="module")
def finished(llama_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One method at four levels; of the patients there is a model that never saw them."""
    folder = tmp_path_factory.mktemp("run")
    data = write_lines(folder / "data", *records())
    assert chip_here("medforget", "split", data, "--sizes", 1, "--min-siblings", 1).exit_code == 0
    shutil.copytree(llama_directory, folder / "gold" / "patient")
    one = Finished(teach(folder / "knows", data, ()), data, folder / "gold", folder / "out", "")
    done = one.again(one.out, "--methods", "chip", "--gold", one.gold)
    assert done.exit_code == 0, done.exception
    return Finished(one.model, one.data, one.gold, one.out, done.output)


def values(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def rows(out: Path, level: str) -> dict[str, Any]:
    """The rows of a level by name."""
    return next(dict(one["rows"]) for one in values(out)["contests"] if one["level"] == level)


def without_costs(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows without what an edit took, which differs from run to run."""
    return {
        name: {key: value for key, value in row.items() if key not in ("seconds", "memory")}
        for name, row in found.items()
    }


def outcomes(out: Path) -> dict[str, tuple[int, bytes]]:
    """When each outcome was written, and what it holds."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (out / "outcomes").iterdir()}


def folded(text: str) -> str:
    return " ".join(text.split())


class TestFourLevels:
    def test_every_level_has_a_table_in_the_page_the_values_and_the_figure(self, finished: Finished) -> None:
        found = values(finished.out)
        assert [one["level"] for one in found["contests"]] == list(LEVELS)
        assert [one["forget"] for one in found["contests"]] == [15, 7, 3, 1]
        page = (finished.out / "results.md").read_text()
        for level, nodes in zip(LEVELS, (2, 4, 8, 16), strict=True):
            assert f"\n## {level}, 1-of-{nodes} (" in page
            assert rows(finished.out, level)["before"]["groups"]["target"]["match"] == 1.0
            assert rows(finished.out, level)["chip"]["goals_met"] in (True, False)
            assert rows(finished.out, level)["chip"]["tried"] == 1
        assert (finished.out / "results.png").read_bytes().startswith(b"\x89PNG")

    def test_a_retrained_model_stands_where_the_folder_has_one(self, finished: Finished) -> None:
        assert [level for level in LEVELS if "retrained" in rows(finished.out, level)] == ["patient"]
        found = rows(finished.out, "patient")
        assert found["retrained"]["groups"]["target"]["match"] == 0.0
        assert found["chip"]["distance"] is not None
        assert f"{finished.gold} holds no retrained model for study 1-of-8" in folded(finished.said)

    def test_nothing_that_is_written_to_be_shown_names_a_node_a_question_or_an_answer(self, finished: Finished) -> None:
        hierarchy = read_records(finished.data)
        secret = {name for node in hierarchy.nodes for name in node}
        secret |= {said for one in hierarchy.records for said in (one.question, one.answer, *one.paraphrases)}
        shown = [finished.out / name for name in ("results.md", "results.json", "results.png")]
        for path in (*shown, *(finished.out / "outcomes").iterdir()):
            content = path.read_bytes().decode("latin-1")
            assert [one for one in secret if one in content] == [], path.name

    def test_edited_checkpoints_are_kept_where_that_was_asked_for(self, finished: Finished) -> None:
        assert (finished.out / "work" / "patient-1-of-4--chip" / "config.json").is_file()

    def test_what_was_measured_is_not_measured_again(self, finished: Finished, tmp_path: Path) -> None:
        out = finished.copy(tmp_path / "out")
        before = outcomes(out)
        golds = ("--gold", finished.gold), ("--gold", finished.gold / "patient")
        patient = ("--level", "patient", "--set", "1-of-4")
        for more in (golds[0], (*patient, *golds[1]), ("--level", "study", "--level", "section")):
            done = finished.again(out, "--methods", "chip", *more)
            assert done.exit_code == 0, done.exception
            assert "chip edit" not in done.output
            assert "collecting" not in done.output
            levels = [one["level"] for one in values(out)["contests"]]
            # What else is known is shown too; the patient was measured beside a retrained model.
            assert levels == [one for one in LEVELS if one != "patient" or "--gold" in more]
        assert outcomes(out) == before

    def test_what_is_asked_otherwise_is_measured_again_with_a_note(self, finished: Finished, tmp_path: Path) -> None:
        out = finished.copy(tmp_path / "out")
        done = finished.again(out, "--methods", "chip", "--level", "section", "--trials", 2)
        assert done.exit_code == 0, done.exception
        note = "section-1-of-16--chip.json is of another model, other data or another command, and is measured again"
        assert note in folded(done.output)
        changed = {name for name, one in outcomes(out).items() if one[1] != outcomes(finished.out)[name][1]}
        assert changed == {"section-1-of-16--chip.json"}
        assert rows(out, "section")["chip"]["trials"] == 2


def test_a_method_that_fails_is_told_as_one_that_did(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out", outcomes=False)
    why = "failed: chip: --layers '99': the model has layers 0-2"
    for methods in (FAILING, f"chip,{FAILING}"):
        done = finished.again(out, "--methods", methods, "--level", "patient", "--gold", finished.gold)
        assert done.exit_code == 0, done.exception
        assert rows(out, "patient")[FAILING]["problem"] == why
        assert f"| {FAILING} | {why} |" in (out / "results.md").read_text()
        assert "failed:" in done.output
        # Alone it leaves nothing that could be drawn.
        assert (out / "results.png").is_file() == (methods != FAILING)
        for name, one in outcomes(finished.out).items():
            (out / "outcomes" / name).write_bytes(one[1])
    assert set(rows(out, "patient")) == {"before", "retrained", "chip", FAILING}


def test_killed_or_shared_by_two_processes_it_ends_with_the_same_table(finished: Finished, tmp_path: Path) -> None:
    methods = ("--methods", f"chip,{SECOND}", "--level", "patient", "--gold", finished.gold)
    killed, shared = finished.copy(tmp_path / "killed"), finished.copy(tmp_path / "shared", outcomes=False)
    running = start(tmp_path / "said", *finished.arguments(killed, *methods))
    until(lambda: processes_of(killed), running)
    running.kill()
    code, text = running.wait()
    assert code == -signal.SIGKILL
    # What the first method did was known; the second was at it.
    assert text.count("chip edit") == text.count(f"chip edit --method {SECOND}") == 1
    ended(killed)
    assert finished.again(killed, *methods).exit_code == 0
    team = start_team(tmp_path / "team", 2, *finished.arguments(shared, *methods))
    said = [one.wait() for one in team]
    assert [code for code, _ in said] == [0, 0], said
    assert [text.count("chip edit --method") for _, text in said] == [1, 1]
    assert set(rows(shared, "patient")) == {"before", "retrained", "chip", SECOND}
    assert without_costs(rows(shared, "patient")) == without_costs(rows(killed, "patient"))


def processes_of(out: Path) -> Sequence[str]:
    """The edits that are running for a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if b"edit" in said and any(os.fsencode(out) in one for one in said):
            found.append(path.parent.name)
    return found


def ended(out: Path) -> None:
    """Wait until no edit of a folder is running, none having been left behind."""
    started = time.monotonic()
    while processes_of(out):
        assert time.monotonic() < started + 5, "an edit outlives the run that started it"
        time.sleep(0.01)


class TestRefusals:
    @pytest.mark.parametrize(
        ("flags", "kind", "why"),
        [
            (("--level", "ward"), UsageError, "there is no forget set at level 'ward'"),
            (("--set", "3-of-4"), UsageError, "--set '3-of-4': no forget set is called so"),
            (("--gold", "MODEL"), UsageError, "is one model for 4 forget sets"),
            (("--gold", "DATA"), ChipError, "holds no model called by a level"),
            (("--methods", "chap"), UsageError, "'chap' is no method"),
            (("--attacks", "guessing"), UsageError, "--attacks 'guessing' is none of"),
            (("--trials", 0), UsageError, "--trials 0: give 1 or more"),
            (("--splits", "absent.json"), ChipError, "`chip medforget split DIR` writes one"),
            (("--out", "DATA"), ChipError, "which is no run's; name another directory"),
            (("--out", "MODEL"), ChipError, "which is no run's; name another directory"),
        ],
    )
    def test_a_request_that_cannot_be_met_is_one_sentence_and_writes_nothing(
        self, finished: Finished, tmp_path: Path, flags: tuple[Any, ...], kind: type[ChipError], why: str
    ) -> None:
        meant = {"MODEL": finished.model, "DATA": finished.data}
        refused = finished.again(tmp_path / "out", *(meant.get(one, one) for one in flags))
        assert type(refused.exception) is kind, refused.exception
        assert why in str(refused.exception)
        assert not (tmp_path / "out").exists()
        assert not (finished.data / "outcomes").exists()

    @pytest.mark.parametrize(
        ("siblings", "forget", "why"),
        [
            (2, ["institution_0/patient_00"], "1 of its siblings would be retained, of at least 2"),
            (1, ["institution_0/patient_00", "institution_0/patient_01"], "0 of its siblings would be retained"),
            (1, ["institution_0/patient_9"], "institution_0/patient_9 is no patient in these records"),
            (1, ["institution_0"], "institution_0 is no patient in these records"),
        ],
    )
    def test_splits_that_break_an_invariant_are_refused(
        self, finished: Finished, tmp_path: Path, siblings: int, forget: list[str], why: str
    ) -> None:
        levels = {"patient": [{"name": "mine", "forget": forget}]}
        splits = {"format": "chip-medforget-splits-1", "min_siblings": siblings, "levels": levels}
        (tmp_path / "splits.json").write_text(json.dumps(splits))
        refused = finished.again(tmp_path / "out", "--splits", tmp_path / "splits.json")
        assert type(refused.exception) is ChipError
        assert why in str(refused.exception)
        assert not (tmp_path / "out").exists()
