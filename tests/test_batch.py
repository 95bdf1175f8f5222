"""Batches: many requests from one model, alone or in one checkpoint, skipped when finished and failing alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from checkpoint_files import digests, mode
from command_line import chip_here
from edits import run_edit
from processes import start, until

from chip.edit import Applying, StagedCheckpoint, load_edit
from chip.edit.ledger import nodes_among, read_ledgers
from chip.edit.receipt import read_salt
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.stored import rounded
from chip.records import read_records
from chip.workflow import BatchRequest, BatchResult, carry_out_batch, prepare_batch


def requests_file(path: Path, *lines: dict[str, Any] | str) -> Path:
    """A file of requests, from objects or from names to forget."""
    objects = ({"forget": line} if isinstance(line, str) else line for line in lines)
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def run_batch(model: Path, data: Path, out_dir: Path, *lines: dict[str, Any] | str, **others: Any) -> BatchResult:
    """A batch in this process, without verification unless asked for."""
    requests = requests_file(out_dir.with_name(out_dir.name + ".jsonl"), *lines)
    values = {"verify": False, "device": "cpu", **others}
    return carry_out_batch(prepare_batch(BatchRequest(str(model), requests, data, out_dir, **values)))


def weights(out_dir: Path) -> dict[str, str]:
    """Digests of everything in a batch's output that has to be the same every time."""
    varying = (".json", ".statistics.safetensors")
    found = {name: one for name, one in digests(out_dir).items() if not name.startswith(".")}
    return {name: one for name, one in found.items() if "/" in name or not name.endswith(varying)}


def states(result: BatchResult) -> list[str]:
    return [one.state for one in result.outcomes]


class TestIndependent:
    @pytest.mark.parametrize("method", ["counterpart", "oblique", "chip"])
    def test_each_is_what_an_edit_by_itself_gives(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path, method: str
    ) -> None:
        settings = {"method": method, "keys": "answer"} if method == "oblique" else {"method": method}
        lines = [{"forget": name, "out": name[-1], "settings": settings} for name in ("patient_0", "patient_2")]
        result = run_batch(llava_directory, hospital_data, tmp_path / "out", *lines)
        assert states(result) == ["done", "done"]
        for name in ("patient_0", "patient_2"):
            alone = run_edit(llava_directory, hospital_data, tmp_path / name, name, **settings)
            kept = load_edit(tmp_path / "out" / f"{name[-1]}.edit.safetensors")
            for mine, theirs in zip(kept.changes, alone.edit.changes, strict=True):
                assert mine.tensor == theirs.tensor
                np.testing.assert_allclose(mine.delta(), theirs.delta(), rtol=1e-4, atol=1e-7)

    def test_a_failing_request_stops_no_other(self, tmp_path: Path, llava_directory: Path, hospital_data: Path) -> None:
        lines = ["patient_0", "nobody", "FINDINGS", {"forget": "patient_1", "settings": {"layers": "7"}}, "patient_2"]
        requests = requests_file(tmp_path / "requests.jsonl", *lines)
        done = chip_here(
            "batch", llava_directory, requests, "--data", hospital_data, "--out-dir", tmp_path / "out", "--no-verify"
        )
        assert done.exit_code == 1
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert [one["state"] for one in summary["requests"]] == ["done", "failed", "failed", "failed", "done"]
        for reason in ("no node is called 'nobody'", "'FINDINGS' names 8 nodes", "the model has layers 0-2"):
            assert reason in done.output
        assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"request-0001", "request-0005"}

    def test_nothing_that_is_kept_names_a_node(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        result = run_batch(llava_directory, hospital_data, tmp_path / "out", "patient_0", "nobody", verify=True)
        for name in ("summary.json", "ledger.json", "request-0001.receipt.json", "request-0001.edit.safetensors"):
            assert mode(tmp_path / "out" / name) == 0o600
            content = (tmp_path / "out" / name).read_bytes()
            assert b"patient_0" not in content
            assert b"nobody" not in content
        first, second = json.loads(result.summary.read_text())["requests"]
        assert len(first["nodes"]) == 1
        assert {row["group"] for row in first["verification"]} >= {"target", "siblings", "rest"}
        assert second["nodes"] == []

    def test_what_is_finished_is_not_done_again(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        out = tmp_path / "out"
        run_batch(llava_directory, hospital_data, out, "patient_0", "patient_1")
        before = digests(out)
        again = run_batch(llava_directory, hospital_data, out, "patient_0", "patient_1", "patient_2")
        assert states(again) == ["done before", "done before", "done"]
        after = digests(out)
        assert {name: after[name] for name in before if "summary" not in name and "ledger" not in name} == {
            name: one for name, one in before.items() if "summary" not in name and "ledger" not in name
        }

    def test_edits_of_many_tensors_are_known_as_its_own(self, tmp_path: Path, hospital_data: Path) -> None:
        model, out = tiny_models.llava(tmp_path / "model", num_hidden_layers=24), tmp_path / "out"
        run_batch(model, hospital_data, out, "patient_0")
        assert states(run_batch(model, hospital_data, out, "patient_0")) == ["done before"]

    def test_an_output_that_was_tampered_with_is_not_taken_for_finished(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        out = tmp_path / "out"
        run_batch(llava_directory, hospital_data, out, "patient_0")
        whole = weights(out)
        (tensor,) = [
            Checkpoint(out / "request-0001").tensors[name]
            for name in load_edit(out / "request-0001.edit.safetensors").tensors[:1]
        ]
        with tensor.file.open("r+b") as handle:
            handle.seek(tensor.start)
            handle.write(b"\0\0\0\0")
        again = run_batch(llava_directory, hospital_data, out, "patient_0")
        assert states(again) == ["failed"]
        assert "exists already" in again.outcomes[0].reason
        assert states(run_batch(llava_directory, hospital_data, out, "patient_0", force=True)) == ["done"]
        assert weights(out) == whole

    def test_other_settings_are_another_request(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        out = tmp_path / "out"
        run_batch(llava_directory, hospital_data, out, "patient_0")
        other = {"forget": "patient_0", "settings": {"strength": 0.5}}
        assert states(run_batch(llava_directory, hospital_data, out, other)) == ["failed"]

    def test_several_processes_write_the_same_bytes(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        lines = ["patient_0", {"forget": "patient_1", "settings": {"method": "oblique"}}, "study_2_0", "nobody"]
        one = run_batch(llava_directory, hospital_data, tmp_path / "one", *lines)
        two = run_batch(llava_directory, hospital_data, tmp_path / "two", *lines, jobs=2)
        assert states(one) == states(two) == ["done", "done", "done", "failed"]
        assert weights(tmp_path / "one") == weights(tmp_path / "two")


class TestCumulative:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_the_checkpoint_is_the_kept_edits_in_their_order(
        self, tmp_path: Path, hospital_data: Path, dtype: str
    ) -> None:
        model = tiny_models.llava(tmp_path / "model", dtype=getattr(torch, dtype))
        lines = ["study_0_0", {"forget": "patient_1", "settings": {"method": "oblique"}},
                 {"forget": "patient_0", "settings": {"method": "chip"}}]  # fmt: skip
        result = run_batch(model, hospital_data, tmp_path / "out", *lines, cumulative=True)
        assert states(result) == ["done"] * 3
        edits = [load_edit(tmp_path / "out" / f"request-000{number}.edit.safetensors") for number in (1, 2, 3)]
        assert [edit.after for edit in edits] == [(), (edits[0].identity,), (edits[0].identity, edits[1].identity)]
        with StagedCheckpoint(Checkpoint(model), Applying(edits), tmp_path / "applied") as staged:
            staged.commit()
        assert digests(tmp_path / "applied") == digests(tmp_path / "out" / "model")
        files = [tmp_path / "out" / f"request-000{number}.edit.safetensors" for number in (1, 2, 3)]
        assert chip_here("apply", model, *files, "--out", tmp_path / "again").exit_code == 0
        assert digests(tmp_path / "again") == digests(tmp_path / "out" / "model")
        # By hand: each edit rounded once, to the checkpoint's own dtype.
        name = edits[0].changes[0].tensor
        values = Checkpoint(model).tensors[name].read()
        for change in (change for edit in edits for change in edit.changes if change.tensor == name):
            values = rounded(change.added(values), values.dtype)
        assert np.array_equal(Checkpoint(tmp_path / "out" / "model").tensors[name].read(), values)

    def test_what_is_left_behind_is_what_is_meant_to_be(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        out = tmp_path / "out"
        run_batch(
            llava_directory, hospital_data, out, "patient_0", {"forget": "patient_1", "out": "b"}, cumulative=True
        )
        assert {path.name for path in out.iterdir()} == {
            "model", "model.receipt.json", "model.statistics.safetensors", "ledger.json", "summary.json",
            "request-0001.edit.safetensors", "request-0001.receipt.json", "b.edit.safetensors", "b.receipt.json",
        }  # fmt: skip

    def test_it_goes_on_where_it_stopped_and_takes_more_requests(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        names = ["study_0_0", "patient_1", "study_0_1"]
        whole = run_batch(llava_directory, hospital_data, tmp_path / "whole", *names, cumulative=True)
        run_batch(llava_directory, hospital_data, tmp_path / "parts", *names[:2], cumulative=True)
        parts = run_batch(llava_directory, hospital_data, tmp_path / "parts", *names, cumulative=True)
        assert states(parts) == ["done before", "done before", "done"]
        assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
        again = run_batch(llava_directory, hospital_data, tmp_path / "whole", *names, cumulative=True)
        assert states(again) == ["done before"] * 3
        assert again.together is not None
        assert again.together.state == "done before"
        assert whole.together is not None

    def test_a_checkpoint_of_its_own_is_replaced_and_no_other(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        out, names = tmp_path / "out", ["patient_0", "patient_1"]
        run_batch(llava_directory, hospital_data, out, names[0], cumulative=True)
        # As if a run had been killed between receipt and checkpoint: the ledger still knows the one that stands.
        (out / "model.receipt.json").unlink()
        assert states(run_batch(llava_directory, hospital_data, out, *names, cumulative=True)) == [
            "done before",
            "done",
        ]
        (out / "model" / "config.json").write_text((out / "model" / "config.json").read_text() + "\n")
        before = digests(out / "model")
        with pytest.raises(ChipError, match="exists already"):
            run_batch(llava_directory, hospital_data, out, *names, "study_2_0", cumulative=True)
        assert digests(out / "model") == before

    def test_what_was_forgotten_is_nothing_to_forget(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        result = run_batch(llava_directory, hospital_data, tmp_path / "out", "patient_0", "study_0_1", cumulative=True)
        assert states(result) == ["done", "failed"]
        assert "have forgotten all of it" in result.outcomes[1].reason

    def test_jobs_are_refused(self, tmp_path: Path, llava_directory: Path, hospital_data: Path) -> None:
        with pytest.raises(ChipError, match="leave out --jobs"):
            run_batch(llava_directory, hospital_data, tmp_path / "out", "patient_0", cumulative=True, jobs=2)

    @pytest.mark.parametrize("cumulative", [False, True])
    def test_killed_at_any_moment_it_ends_as_an_undisturbed_one(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path, cumulative: bool
    ) -> None:
        names = ["study_0_0", "patient_1", "study_0_1"]
        run_batch(llava_directory, hospital_data, tmp_path / "whole", *names, cumulative=cumulative)
        requests = requests_file(tmp_path / "requests.jsonl", *names)
        out = tmp_path / "killed"
        arguments = ["batch", llava_directory, requests, "--data", hospital_data, "--out-dir", out, "--no-verify"]
        arguments += ["--device", "cpu", *(["--cumulative"] if cumulative else [])]
        for moment in ("*.statistics.safetensors", "request-0001.*", "request-0002.edit.*", "request-0003.receipt*"):
            running = start(tmp_path / "said", *arguments)
            until(lambda moment=moment: list(out.glob(moment)), running)
            running.kill()
            running.wait()
        code, said = start(tmp_path / "said", *arguments).wait()
        assert code == 0, said
        assert weights(out) == weights(tmp_path / "whole")
        assert not list(out.glob(".model.chip-scratch"))


class TestLedger:
    def test_it_keeps_what_was_forgotten_out_of_later_edits(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        out = tmp_path / "out"
        run_batch(llava_directory, hospital_data, out, "study_0_0", "patient_1", cumulative=True)
        ledger, salt = read_ledgers([out / "ledger.json"], read_salt()), read_salt()
        hashes = ledger.forgotten(Checkpoint(out / "model").digest)
        hierarchy = read_records(hospital_data)
        gone = nodes_among(hierarchy.nodes, hashes, salt)
        assert gone == (("inst_0", "patient_0", "study_0_0"), ("inst_0", "patient_1"))
        later = run_edit(
            out / "model", hospital_data, tmp_path / "later", "patient_2", forgotten=(out / "ledger.json",)
        )
        kept = {path for path in later.prepared.hierarchy.paths if any(path[: len(node)] == node for node in gone)}
        assert not kept
        # The receipt of that edit goes on where the ledger ends.
        receipts = (out / "ledger.json", tmp_path / "later.receipt.json")
        last = run_edit(tmp_path / "later", hospital_data, tmp_path / "last", "patient_3", forgotten=receipts)
        assert set(last.prepared.opened.forgotten) == {*gone, ("inst_1", "patient_2")}

    def test_a_ledger_of_another_model_is_refused(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        run_batch(llava_directory, hospital_data, tmp_path / "out", "patient_1")
        with pytest.raises(ChipError, match="the ledger knows nothing of this model"):
            run_edit(llava_directory, hospital_data, tmp_path / "later", "patient_2",
                     forgotten=(tmp_path / "out" / "ledger.json",))  # fmt: skip

    def test_another_salt_is_refused(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_batch(llava_directory, hospital_data, tmp_path / "out", "patient_1")
        monkeypatch.setenv("CHIP_SALT_FILE", str(tmp_path / "salt"))
        with pytest.raises(ChipError, match="another salt"):
            read_ledgers([tmp_path / "out" / "ledger.json"], read_salt())

    @pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": "chip-ledger-1"}', b'{"format": 3}', b"\xff"])
    def test_what_is_none_is_one_sentence(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "ledger").write_bytes(content)
        with pytest.raises(ChipError, match="is neither a ledger nor a receipt"):
            read_ledgers([tmp_path / "ledger"], b"salt")
