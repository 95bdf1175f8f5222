"""`chip audit` as a user runs it: reports, resuming, a judge, and input that makes no audit."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from checkpoint_files import mode
from command_line import chip, chip_here
from jsonschema import Draft202012Validator
from processes import start, until
from taught import TARGET, Ward, ward_records
from tiny_records import write_lines

from chip.audit.judging import Judge
from chip.audit.report import schema
from chip.errors import ChipError, UsageError
from chip.hierarchy import Record


def asked(ward: Ward, *more: Any, base: Path | None = None, edited: Path | None = None) -> tuple[Any, ...]:
    models = (base or ward.knows, edited or ward.half)
    return ("audit", *models, "--data", ward.data, "--forget", TARGET, "--device", "cpu", *more)


def report_of(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "report.json").read_text())
    Draft202012Validator(schema()).validate(content)
    return content


def groups_of(report: dict[str, Any], measure: str, role: str) -> dict[str, float]:
    return {one["name"]: one["measures"][role][measure]["value"] for one in report["groups"] if not one["level"]}


class TestTheReport:
    @pytest.fixture(scope="class")
    def directory(self, ward: Ward, tmp_path_factory: pytest.TempPathFactory) -> Path:
        out = tmp_path_factory.mktemp("audit") / "report"
        done = chip(*asked(ward, "--gold", ward.never, "--compare", ward.never, "--quick", "--out", out))
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        for word in ("partly gone", "It cost next to nothing", "that is left without any attack"):
            assert word in " ".join(done.stdout.split())
        return out

    def test_it_says_what_each_model_knows(self, directory: Path) -> None:
        report = report_of(directory)
        assert groups_of(report, "exact_match", "base")["target"] == 1.0
        assert groups_of(report, "exact_match", "edited")["target"] == 0.4
        assert groups_of(report, "exact_match", "gold")["target"] == 0.0
        assert groups_of(report, "exact_match", "edited")["siblings"] == 1.0
        assert groups_of(report, "rouge_l", "base")["target"] == 1.0
        losses = groups_of(report, "loss", "edited")
        assert losses["target"] > losses["siblings"]
        assert report["gaps"]["exact_match"] == {"base": 0.0, "edited": 0.6, "gold": 1.0}

    def test_intervals_hold_their_values(self, directory: Path) -> None:
        for group in report_of(directory)["groups"]:
            for measures in group["measures"].values():
                for name, one in measures.items():
                    assert one["interval"] is not None or one["count"] == 1, name
                    if one["interval"] is not None:
                        assert one["interval"]["low"] <= one["value"] + 1e-9
                        assert one["value"] <= one["interval"]["high"] + 1e-9

    def test_groups_are_told_by_level_too(self, directory: Path) -> None:
        names = {one["name"]: one for one in report_of(directory)["groups"]}
        assert names["rest, institution"]["asked"] + names["rest, patient"]["asked"] == names["rest"]["asked"]

    def test_the_target_that_half_is_known_of_fails_and_says_by_how_much(self, directory: Path) -> None:
        report = report_of(directory)
        verdicts = {attack["name"]: attack["verdict"] for attack in report["attacks"]}
        assert verdicts["rephrasing"] == "fail"
        assert report["summary"]["is_gone"] == "partly"
        assert report["summary"]["is_kept"] == "yes"
        assert report["summary"]["stays_gone"] == "no"

    def test_an_attack_brings_back_only_what_is_not_left_without_it(self, directory: Path) -> None:
        report = report_of(directory)
        back = report["summary"]["back"].partition("Shows that")[0]
        assert "Brings more of it back than the 40% that is left without any attack: " in back
        for attack in report["attacks"]:
            more = any(
                one["verdict"] in ("fail", "watch")
                and one["scale"] == "share"
                and one["models"]["edited"]["value"] > 0.4
                for one in attack["findings"]
            )
            assert (f"({attack['name']}: " in back) == more

    def test_the_retrained_model_is_where_its_losses_are(self, directory: Path) -> None:
        found = report_of(directory)["distribution"]
        assert found["base"]["distance"] > found["edited"]["distance"] > 0
        assert found["base"]["statistic"] == 1.0

    def test_methods_are_points_and_no_better_one_stands_behind_the_front(self, ward: Ward, directory: Path) -> None:
        points = {one["name"]: one for one in report_of(directory)["methods"]}
        assert set(points) == {"base", "edited", "gold", str(ward.never)}
        assert points[str(ward.never)]["on_front"]
        assert not points["edited"]["on_front"]

    def test_it_is_private_and_quotes_no_record(self, directory: Path) -> None:
        text = (directory / "report.json").read_text()
        assert mode(directory / "report.json") == 0o600
        assert not any(f'"{one["answer"]}"' in text or str(one["question"]) in text for one in ward_records())
        assert report_of(directory)["examples"] == []

    def test_nothing_is_left_of_its_progress(self, directory: Path) -> None:
        assert [path for path in directory.parent.iterdir() if path.name.startswith(".")] == []

    def test_a_report_that_is_there_is_replaced_only_with_force(self, ward: Ward, directory: Path) -> None:
        with pytest.raises(ChipError, match="--force"):
            raise chip_here(*asked(ward, "--out", directory)).exception or AssertionError


class TestWhatIsAsked:
    def test_examples_are_shown_where_they_are_asked_for(self, ward: Ward, tmp_path: Path) -> None:
        done = chip_here(*asked(ward, "--attacks", "none", "--show-records", "--out", tmp_path / "r"))
        assert done.exit_code == 0
        examples = report_of(tmp_path / "r")["examples"]
        assert {"Abelna0"} == {one["answer"] for one in examples if one["question"] == f"name of {TARGET} ?"}
        assert any(not one["models"]["edited"]["exact"] for one in examples if one["group"] == "target")

    def test_options_are_chosen_by_likelihood_and_blanks_are_cloze(self, ward: Ward, tmp_path: Path) -> None:
        lines: list[dict[str, Any]] = [dict(one) for one in ward_records()]
        for one in lines:
            if TARGET in one["path"]:
                one["options"] = [one["answer"], "zzzzzz"]
        lines[1]["question"] += " it is ___"
        data = write_lines(tmp_path / "records", *lines)
        done = chip_here(
            "audit", ward.knows, ward.half, "--data", data, "--forget", TARGET, "--attacks", "none",
            "--out", tmp_path / "r",
        )  # fmt: skip
        assert done.exit_code == 0
        target = next(one for one in report_of(tmp_path / "r")["groups"] if one["name"] == "target")
        assert target["measures"]["base"]["choice"]["count"] == 4
        assert target["measures"]["base"]["choice"]["value"] == 1.0
        assert target["measures"]["base"]["cloze"]["count"] == 1

    def test_further_records_tell_what_else_is_left(self, ward: Ward, tmp_path: Path) -> None:
        others = write_lines(tmp_path / "others", {"path": ["x"], "question": "who leads ward_0 ?", "answer": "Ida"})
        done = chip_here(*asked(ward, "--attacks", "none", "--utility", others, "--out", tmp_path / "r"))
        assert done.exit_code == 0
        report = report_of(tmp_path / "r")
        assert groups_of(report, "exact_match", "edited")["utility"] == 1.0
        assert ["x"] not in [one["path"] for one in report["hierarchy"]]

    def test_the_same_audit_says_the_same(self, ward: Ward, tmp_path: Path) -> None:
        def once(name: str) -> dict[str, Any]:
            done = chip_here(*asked(ward, "--attacks", "membership", "--attacks", "prefill", "--out", tmp_path / name))
            assert done.exit_code == 0
            return {**report_of(tmp_path / name), "time": ""}

        assert once("a") == once("b")


class TestInterrupted:
    def test_an_audit_goes_on_where_it_was_killed(self, ward: Ward, tmp_path: Path) -> None:
        arguments = asked(ward, "--gold", ward.never, "--attacks", "rephrasing", "--attacks", "inspection")
        first = start(tmp_path / "said", *arguments, "--out", tmp_path / "r")
        progress = tmp_path / ".r.chip-audit"
        until(lambda: progress.exists() and "base | rephrasing" in progress.read_text(), first)
        first.kill()
        assert mode(progress) == 0o600
        assert not (tmp_path / "r").exists()

        done = chip(*arguments, "--out", tmp_path / "r")
        assert done.returncode == 0, done.stderr
        assert "goes on where it was interrupted" in done.stderr
        assert "base: the exam" not in done.stderr
        assert "base: in other words" not in done.stderr
        assert not progress.exists()
        whole = chip(*arguments, "--out", tmp_path / "whole")
        assert whole.returncode == 0, whole.stderr
        assert {**report_of(tmp_path / "r"), "time": ""} == {**report_of(tmp_path / "whole"), "time": ""}

    def test_other_records_beside_the_data_make_another_audit(self, ward: Ward, tmp_path: Path) -> None:
        def others(*questions: str) -> Path:
            lines = [{"path": ["x"], "question": one, "answer": "Ida"} for one in questions]
            return write_lines(tmp_path / "others", *lines)

        arguments = asked(ward, "--attacks", "none", "--utility", others("who leads ward_0 ?"), "--out", tmp_path / "r")
        progress = tmp_path / ".r.chip-audit"
        failed = chip_here(*arguments, "--judge", "http://127.0.0.1:1/v1")
        assert "cannot be asked" in str(failed.exception)
        assert not progress.exists()  # the judge is asked before the models are
        running = start(tmp_path / "said", *arguments)
        until(lambda: progress.exists() and "edited | exam" in progress.read_text(), running)
        running.kill()
        running.process.join()
        others("who leads ward_0 ?", "who leads ward_1 ?")
        done = chip_here(*arguments)
        assert done.exit_code == 0, done.exception
        assert next(one for one in report_of(tmp_path / "r")["groups"] if one["name"] == "utility")["asked"] == 2

    def test_progress_of_another_audit_is_dropped_and_a_damaged_one_is_named(self, ward: Ward, tmp_path: Path) -> None:
        progress = tmp_path / ".r.chip-audit"
        progress.write_text('{"format": "chip-audit-progress-1", "identity": "another", "parts": {}}')
        done = chip(*asked(ward, "--attacks", "none", "--out", tmp_path / "r"))
        assert done.returncode == 0
        assert "another audit" in done.stderr
        progress.write_text("{")
        failed = chip_here(*asked(ward, "--attacks", "none", "--out", tmp_path / "r", "--force"))
        assert "damaged" in str(failed.exception)


class TestBadInput:
    def refused(self, *arguments: Any) -> str:
        done = chip_here(*arguments)
        assert isinstance(done.exception, ChipError), done.output
        return str(done.exception)

    def test_models_that_are_swapped(self, ward: Ward) -> None:
        said = self.refused(*asked(ward, "--attacks", "none", base=ward.never, edited=ward.knows))
        assert "give the model before the edit first" in said

    @pytest.mark.parametrize("role", ["edited", "gold", "compare"])
    def test_models_of_another_family_or_size(self, ward: Ward, tmp_path: Path, role: str) -> None:
        other = tiny_models.text_model(tmp_path / "other", "llama" if role == "gold" else "qwen2", intermediate_size=32)
        arguments = asked(ward, edited=other) if role == "edited" else asked(ward, f"--{role}", other)
        said = self.refused(*arguments)
        assert "other" in said
        assert "one model" in said

    def test_a_model_to_compare_with_may_be_called_like_a_role(
        self, ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "gold").symlink_to(ward.never)
        done = chip_here(*asked(ward, "--attacks", "none", "--compare", "gold", "--out", "r"))
        assert done.exit_code == 0, done.exception
        report = report_of(tmp_path / "r")
        assert {one["name"] for one in report["methods"]} == {"base", "edited", "./gold"}
        assert "no model retrained" in " ".join(report["limits"])
        assert "named twice" in self.refused(*asked(ward, "--compare", ward.never, "--compare", ward.never))

    @pytest.mark.parametrize(("flag", "value"), [("--verify-records", 0), ("--batch-size", -3), ("--seed", -1)])
    def test_numbers_that_cannot_be(self, ward: Ward, flag: str, value: int) -> None:
        assert flag in self.refused(*asked(ward, flag, value))

    def test_a_report_is_never_put_into_a_model_or_among_records(self, ward: Ward) -> None:
        assert "config.json" in self.refused(*asked(ward, "--out", ward.half, "--force"))
        assert "records.jsonl" in self.refused(*asked(ward, "--out", ward.data))
        assert not (ward.half / "report.html").exists()

    def test_a_flag_that_names_nothing(self, ward: Ward, tmp_path: Path) -> None:
        assert "one or the other" in self.refused(*asked(ward, "--attacks", "none", "--attacks", "image"))
        assert "none of rephrasing" in self.refused(*asked(ward, "--attacks", "magic"))
        assert "records.jsonl" in self.refused(*asked(ward, "--utility", tmp_path))
        (tmp_path / "file").write_text("")
        assert "is a file" in self.refused(*asked(ward, "--out", tmp_path / "file"))

    def test_a_retrained_model_that_knows_the_target_is_named_in_the_report(self, ward: Ward, tmp_path: Path) -> None:
        done = chip_here(*asked(ward, "--gold", ward.knows, "--attacks", "none", "--out", tmp_path / "r"))
        assert done.exit_code == 0
        report = report_of(tmp_path / "r")
        assert "seems to have been trained with it" in " ".join(report["limits"])
        assert "retrained without it" not in report["summary"]["gone"]
        assert report["summary"]["stays_gone"] != "yes"

    def test_limits_are_stated_where_something_is_missing(self, ward: Ward, tmp_path: Path) -> None:
        lines = [
            {"path": ["a", "b"], "question": "who leads ward_0 ?", "answer": "Ida"},
            {"path": ["c"], "question": "who leads ward_1 ?", "answer": "Jon"},
        ]
        data = write_lines(tmp_path / "records", *lines)
        done = chip_here(
            "audit", ward.knows, ward.knows, "--data", data, "--forget", "a", "--quick", "--out", tmp_path / "r"
        )
        assert done.exit_code == 0
        report = report_of(tmp_path / "r")
        limits = " ".join(report["limits"])
        for said in ("1 record:", "no paraphrases", "no siblings", "the same weights", "no model retrained"):
            assert said in limits
        verdicts = [one["verdict"] for attack in report["attacks"] for one in attack["findings"]]
        assert "not tried" in verdicts

    def test_documents_have_no_question_to_be_asked(self, ward: Ward, tmp_path: Path) -> None:
        lines = [
            {"path": ["a", "b"], "text": "the ward is led by somebody"},
            {"path": ["a", "c"], "question": "who leads ward_1 ?", "answer": "Jon"},
        ]
        data = write_lines(tmp_path / "records", *lines)
        done = chip_here(
            "audit", ward.knows, ward.half, "--data", data, "--forget", "b", "--quick", "--out", tmp_path / "r"
        )
        assert done.exit_code == 0, done.exception
        report = report_of(tmp_path / "r")
        assert "documents without a question" in " ".join(report["limits"])
        target = next(one for one in report["groups"] if one["name"] == "target")
        assert "rouge_l" not in target["measures"]["edited"]
        assert "loss" in target["measures"]["edited"]


class _Endpoint(http.server.BaseHTTPRequestHandler):
    """Marks 10 what is the true answer word for word, and 2 anything else; at /elsewhere, sends askers away."""

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/elsewhere"):
            self.send_response(307)
            self.send_header("Location", "http://192.0.2.1/chat/completions")
            self.end_headers()
            return
        shown = content["messages"][-1]["content"].splitlines()
        answers = [line.partition(": ")[2] for line in shown if line.startswith(("True", "Answer"))]
        said = "no idea" if self.path.startswith("/mute") else "10" if answers[0] == answers[1] else "2 of 10"
        body = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class TestTheJudge:
    @pytest.fixture(scope="class")
    def endpoint(self) -> Iterator[str]:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()

    def test_its_marks_become_factuality_and_the_total(self, ward: Ward, endpoint: str, tmp_path: Path) -> None:
        done = chip_here(*asked(ward, "--attacks", "none", "--judge", f"{endpoint}/v1", "--out", tmp_path / "r"))
        assert done.exit_code == 0, done.exception
        report = report_of(tmp_path / "r")
        assert groups_of(report, "factuality", "base")["target"] == 10.0
        assert groups_of(report, "factuality", "edited")["target"] == pytest.approx(0.4 * 10 + 0.6 * 2)
        assert groups_of(report, "total", "base")["target"] == 1.0
        assert report["request"]["judge"] == f"default at {endpoint}/v1"

    @pytest.mark.parametrize("address", ["http://192.0.2.1/v1", "https://judge.example/v1", "http://[2001:db8::1]/v1"])
    def test_nothing_leaves_the_machine_unasked(self, address: str) -> None:
        with pytest.raises(UsageError, match="--allow-remote-judge"):
            Judge(address, "m")
        assert Judge(address, "m", allow_remote=True).endpoint == address

    def test_a_password_in_an_address_is_refused_and_not_repeated(self) -> None:
        with pytest.raises(UsageError, match="a name or a password") as refused:
            Judge("http://user:secret@127.0.0.1/v1", "m")
        assert "secret" not in str(refused.value)

    @pytest.mark.parametrize("address", ["127.0.0.1:8000", "http://127.0.0.1:port/v1", "ftp://127.0.0.1", "http://"])
    def test_what_is_no_address_is_refused(self, address: str) -> None:
        with pytest.raises(UsageError, match="no address"):
            Judge(address, "m")

    def test_one_that_sends_askers_away_is_not_followed(self, endpoint: str) -> None:
        with pytest.raises(ChipError, match="cannot be asked"):
            Judge(f"{endpoint}/elsewhere", "m").mark(Record(("a",), "q", "a"), "a")

    def test_one_that_gives_no_mark_or_is_not_there_is_named(self, endpoint: str) -> None:
        with pytest.raises(ChipError, match="no mark"):
            Judge(f"{endpoint}/mute", "m").mark(Record(("a",), "q", "a"), "a")
        with pytest.raises(ChipError, match="cannot be asked"):
            Judge("http://127.0.0.1:1/v1", "m").mark(Record(("a",), "q", "a"), "a")
