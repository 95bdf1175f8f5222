"""Edits applied, verified, composed and taken back from their files alone: the same bytes every time, or a refusal."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from checkpoint_files import changed_tensors, digests, mode
from command_line import chip, chip_here
from edits import run_edit
from test_edit import WEIGHT, change_of

from chip.edit import Edit, load_edit, load_edits, save_edits
from chip.edit.receipt import read_receipt
from chip.errors import ChipError, UsageError
from chip.files import lock_of, locked
from chip.models.checkpoint import Checkpoint
from chip.workflow.apply import Applied, ApplyRequest, carry_out_apply, prepare_apply
from chip.workflow.verify import RevertRequest, VerifyRequest, carry_out_recover, carry_out_revert, carry_out_verify

OTHER = "model.layers.0.mlp.down_proj.weight"


def edit_on(model: Path, *seeds: int, after: tuple[str, ...] = (), tensors: tuple[str, ...] = (WEIGHT, OTHER)) -> Edit:
    """A random edit that is tied to a model's weights."""
    base = Checkpoint(model)
    changes = tuple(change_of(seed, tensor=name) for seed, name in zip(seeds, tensors, strict=False))
    return Edit("oblique", {}, changes, {c.tensor: base.tensors[c.tensor].digest() for c in changes}, after=after)


def keep(path: Path, *edits: Edit) -> Path:
    save_edits(edits, path)
    return path


def apply(model: Path, *edits: Path, **values: object) -> tuple[Applied, ...]:
    request = ApplyRequest((model,), edits, **values)  # type: ignore[arg-type]
    return carry_out_apply(request, prepare_apply(request))


@pytest.fixture
def model(tmp_path: Path, llama_directory: Path) -> Path:
    """A copy of the tiny Llama, to be written to."""
    return Path(shutil.copytree(llama_directory, tmp_path / "model"))


class TestApplying:
    def test_it_writes_what_the_edit_itself_wrote(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        done = run_edit(llava_directory, hospital_data, tmp_path / "out", "patient_1")
        (again,) = apply(llava_directory, tmp_path / "out.edit.safetensors", out=tmp_path / "again")
        assert digests(again.out) == digests(done.out)
        assert again.edits == (done.edit.identity,)
        assert dict(done.edit.edited) == {n: Checkpoint(done.out).tensors[n].digest() for n in done.planned}

    def test_it_needs_neither_torch_nor_transformers(self, tmp_path: Path, model: Path) -> None:
        edit = keep(tmp_path / "edit", edit_on(model, 1))
        spell = "import sys; from chip.cli import main; sys.argv = sys.argv[:1] + {!r}\ntry: main()\nfinally: print({})"
        command = ["apply", str(model), str(edit), "--out", str(tmp_path / "out")]
        loaded = "[name for name in ('torch', 'transformers') if name in sys.modules]"
        asked = [sys.executable, "-c", spell.format(command, loaded)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert "written:" in done.stdout
        assert done.stdout.endswith("[]\n"), done.stderr

    def test_another_model_is_refused(self, tmp_path: Path, model: Path) -> None:
        edit = keep(tmp_path / "edit", edit_on(model, 1))
        apply(model, edit, in_place=True)
        with pytest.raises(ChipError, match=rf"solved on other weights than those of .* \({WEIGHT} differs\)"):
            apply(model, edit, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_model_that_carries_the_edit_already_is_told_so_and_not_to_transfer_it(
        self, tmp_path: Path, model: Path
    ) -> None:
        edit = keep(tmp_path / "edit", edit_on(model, 1))
        apply(model, edit, out=tmp_path / "out", edit_out=tmp_path / "applied")
        for transfer in (False, True):
            with pytest.raises(ChipError, match="carries edit 1 already; give the model as it was before"):
                apply(tmp_path / "out", tmp_path / "applied", out=tmp_path / "twice", transfer=transfer)
        with pytest.raises(ChipError, match="was given twice"):
            apply(model, edit, edit, out=tmp_path / "twice")

    def test_in_place_is_the_same_as_beside(self, tmp_path: Path, model: Path) -> None:
        edit = keep(tmp_path / "edit", edit_on(model, 1, 2))
        apply(model, edit, out=tmp_path / "out")
        apply(model, edit, in_place=True)
        assert digests(model) == digests(tmp_path / "out")

    def test_in_place_leaves_files_that_others_share_alone(self, tmp_path: Path, model: Path) -> None:
        edit = keep(tmp_path / "edit", edit_on(model, 1))
        os.link(model / "model.safetensors", tmp_path / "shared")
        with pytest.raises(ChipError, match="is a link or has others"):
            apply(model, edit, in_place=True)

    def test_links_are_made_of_what_is_not_edited_alone(self, tmp_path: Path) -> None:
        model = tiny_models.text_model(tmp_path / "model", "llama", shard_size="40KB")
        edit = keep(tmp_path / "edit", edit_on(model, 1))
        (done,) = apply(model, edit, out=tmp_path / "out", link=True)
        edited = Checkpoint(model).tensors[WEIGHT].file.name
        for path in (tmp_path / "out").iterdir():
            assert path.samefile(model / path.name) == (path.name != edited)
        assert "hard link" in done.copied

    def test_a_folder_of_epochs_is_edited_in_the_order_of_their_numbers(self, tmp_path: Path, model: Path) -> None:
        edit = keep(tmp_path / "edit", edit_on(model, 1))
        for number in (2, 10, 1):
            shutil.copytree(model, tmp_path / f"epochs/checkpoint-{number}")
        done = apply(tmp_path / "epochs", edit, out=tmp_path / "out")
        assert [one.out.name for one in done] == ["checkpoint-1", "checkpoint-2", "checkpoint-10"]
        apply(model, edit, out=tmp_path / "single")
        assert all(digests(one.out) == digests(tmp_path / "single") for one in done)
        assert all((tmp_path / f"out/{one.out.name}.receipt.json").is_file() for one in done)

    def test_one_epoch_that_does_not_fit_stops_before_anything_is_written(self, tmp_path: Path, model: Path) -> None:
        edit = keep(tmp_path / "edit", edit_on(model, 1))
        for number in (1, 2):
            shutil.copytree(model, tmp_path / f"epochs/checkpoint-{number}")
        apply(tmp_path / "epochs/checkpoint-2", edit, in_place=True)
        with pytest.raises(ChipError, match="checkpoint-2"):
            apply(tmp_path / "epochs", edit, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("values", [{}, {"out": Path("out"), "in_place": True}, {"in_place": True, "link": True}])
    def test_flags_that_contradict_each_other_are_refused(self, tmp_path: Path, model: Path, values: dict) -> None:
        edit = keep(tmp_path / "edit", edit_on(model, 1))
        with pytest.raises(UsageError):
            apply(model, edit, **values)

    def test_two_runs_on_one_output_are_kept_apart(self, tmp_path: Path, model: Path) -> None:
        edit = keep(tmp_path / "edit", edit_on(model, 1))
        with locked(lock_of(tmp_path / "out"), ""), pytest.raises(ChipError, match="another run is writing"):
            apply(model, edit, out=tmp_path / "out")
        with locked(lock_of(model), ""), pytest.raises(ChipError, match="another run is editing"):
            apply(model, edit, in_place=True)
        apply(model, edit, out=tmp_path / "out")
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


class TestComposing:
    def test_two_edits_at_once_are_one_after_the_other(self, tmp_path: Path, model: Path) -> None:
        first = keep(tmp_path / "a", edit_on(model, 1, 2))
        apply(model, first, out=tmp_path / "after a")
        applied = as_applied(tmp_path / "after a", model, first)
        second = keep(tmp_path / "b", edit_on(tmp_path / "after a", 3, 4, after=(applied.identity,)))
        apply(tmp_path / "after a", second, out=tmp_path / "after b")
        keep(tmp_path / "a", applied)
        (both,) = apply(model, first, second, out=tmp_path / "both", edit_out=tmp_path / "chain")
        assert digests(tmp_path / "both") == digests(tmp_path / "after b")
        apply(model, tmp_path / "chain", out=tmp_path / "chained")
        assert digests(tmp_path / "chained") == digests(tmp_path / "both")
        chain = load_edits(tmp_path / "chain")
        assert tuple(one.identity for one in chain) == both.edits
        assert chain[1].after == (chain[0].identity,)

    def test_edits_of_one_base_are_applied_in_turn_where_the_first_is_named(self, tmp_path: Path, model: Path) -> None:
        first, second = keep(tmp_path / "a", edit_on(model, 1)), keep(tmp_path / "b", edit_on(model, 2))
        apply(model, first, second, out=tmp_path / "both")
        apply(model, first, out=tmp_path / "one", edit_out=tmp_path / "applied")
        with pytest.raises(ChipError, match="other weights"):
            apply(tmp_path / "one", second, out=tmp_path / "two")
        apply(tmp_path / "one", second, out=tmp_path / "two", after=(tmp_path / "applied",))
        assert digests(tmp_path / "two") == digests(tmp_path / "both")

    def test_what_was_not_applied_cannot_be_named(self, tmp_path: Path, model: Path) -> None:
        first, second = keep(tmp_path / "a", edit_on(model, 1)), keep(tmp_path / "b", edit_on(model, 2))
        apply(model, first, out=tmp_path / "one", edit_out=tmp_path / "applied")
        with pytest.raises(ChipError, match="does not carry what --after names"):
            apply(model, second, out=tmp_path / "two", after=(tmp_path / "applied",))


def as_applied(edited: Path, base: Path, file: Path) -> Edit:
    """An edit with the digests of what it wrote."""
    edit = load_edit(file)
    return replace(edit, edited={name: Checkpoint(edited).tensors[name].digest() for name in edit.tensors})


class TestVerifying:
    @pytest.fixture
    def written(self, tmp_path: Path, model: Path) -> tuple[Path, Path, Path]:
        edit = keep(tmp_path / "edit", edit_on(model, 1, 2))
        apply(model, edit, out=tmp_path / "out")
        return model, edit, tmp_path / "out"

    def test_what_was_written_is_proved(self, written: tuple[Path, Path, Path]) -> None:
        base, edit, out = written
        found = carry_out_verify(VerifyRequest(out, base, (edit,), out.with_name("out.receipt.json")))
        assert found.proof is not None
        assert found.proof.edited == 2
        assert found.proof.unchanged == len(Checkpoint(base).tensors) - 2
        assert found.proof.edited_digest == Checkpoint(out).digest

    @pytest.mark.parametrize("bit", range(0, 200_000, 9973))
    def test_any_bit_that_differs_is_found(self, written: tuple[Path, Path, Path], bit: int) -> None:
        base, edit, out = written
        content = bytearray((out / "model.safetensors").read_bytes())
        place = bit % (len(content) * 8)
        content[place // 8] ^= 1 << place % 8
        (out / "model.safetensors").write_bytes(content)
        with pytest.raises(ChipError):
            carry_out_verify(VerifyRequest(out, base, (edit,)))

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "new.txt"])
    def test_other_files_count_too(self, written: tuple[Path, Path, Path], name: str) -> None:
        base, edit, out = written
        (out / name).write_text((base / name).read_text() + " " if (base / name).exists() else "new")
        with pytest.raises(ChipError, match=name):
            carry_out_verify(VerifyRequest(out, base, (edit,)))

    def test_another_edit_is_not_the_one(self, tmp_path: Path, written: tuple[Path, Path, Path]) -> None:
        base, _, out = written
        with pytest.raises(ChipError, match="is not as the edit makes it"):
            carry_out_verify(VerifyRequest(out, base, (keep(tmp_path / "other", edit_on(base, 7, 2)),)))
        with pytest.raises(ChipError, match="and no edit changes it"):
            carry_out_verify(VerifyRequest(out, base, (keep(tmp_path / "other", edit_on(base, 1)),)))

    def test_a_receipt_of_another_checkpoint_is_refused(self, written: tuple[Path, Path, Path]) -> None:
        base, _, out = written
        with pytest.raises(ChipError, match="is not of"):
            carry_out_verify(VerifyRequest(base, receipt=out.with_name("out.receipt.json")))

    @pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "new.txt"])
    def test_a_receipt_is_of_the_other_files_too(self, written: tuple[Path, Path, Path], name: str) -> None:
        _, _, out = written
        (out / name).write_text((out / name).read_text() + " " if (out / name).exists() else "new")
        with pytest.raises(ChipError, match="files beside its weights differ"):
            carry_out_verify(VerifyRequest(out, receipt=out.with_name("out.receipt.json")))

    def test_the_exit_code_tells(self, tmp_path: Path, written: tuple[Path, Path, Path]) -> None:
        base, edit, out = written
        good = chip_here("verify", out, "--against", base, "--edit", edit, "--json")
        assert good.exit_code == 0
        assert json.loads(good.stdout)["proof"]["edited"] == 2
        bad = chip("verify", base, "--against", base, "--edit", edit)
        assert (bad.returncode, bad.stderr.count("\n")) == (1, 1)


class TestReverting:
    @pytest.mark.parametrize("in_place", [False, True])
    def test_the_base_is_back_bit_for_bit(self, tmp_path: Path, model: Path, in_place: bool) -> None:
        edit = keep(tmp_path / "edit", edit_on(model, 1, 2))
        apply(model, edit, out=tmp_path / "out")
        back = None if in_place else tmp_path / "back"
        done = carry_out_revert(RevertRequest(tmp_path / "out", (edit,), model, back, in_place=in_place))
        assert digests(done.out) == digests(model)
        tensors = read_receipt(done.receipt)["tensors"]
        assert {name: one["after"] for name, one in tensors.items()} == dict(load_edit(edit).base)

    def test_what_was_changed_since_is_not_lost(self, tmp_path: Path, model: Path) -> None:
        first, second = (
            keep(tmp_path / "a", edit_on(model, 1)),
            keep(tmp_path / "b", edit_on(model, 2, tensors=(OTHER,))),
        )
        apply(model, first, second, out=tmp_path / "out")
        with pytest.raises(ChipError, match="and no edit changes it"):
            carry_out_revert(RevertRequest(tmp_path / "out", (first,), model, tmp_path / "back"))
        carry_out_revert(RevertRequest(tmp_path / "out", (first, second), model, tmp_path / "back"))
        assert digests(tmp_path / "back") == digests(model)


class TestReceipts:
    @pytest.fixture
    def keys(self, tmp_path: Path) -> tuple[Path, Path, Path]:
        """A private key, its public key, and another public key."""
        serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        paths = tuple(tmp_path / name for name in ("private.pem", "public.pem", "other.pem"))
        one, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        paths[0].write_bytes(one.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        for path, key in zip(paths[1:], (one, other), strict=True):
            path.write_bytes(key.public_key().public_bytes(pem, form))
        return paths[0], paths[1], paths[2]

    def test_a_signature_is_of_this_receipt_and_this_key(
        self, tmp_path: Path, model: Path, keys: tuple[Path, Path, Path]
    ) -> None:
        private, public, other = keys
        (done,) = apply(model, keep(tmp_path / "edit", edit_on(model, 1)), out=tmp_path / "out", sign=private)
        assert mode(done.receipt) == 0o600
        asked = VerifyRequest(done.out, receipt=done.receipt, public_key=public)
        assert carry_out_verify(asked).signed_by
        with pytest.raises(ChipError, match="not one of this receipt by the key in"):
            carry_out_verify(replace(asked, public_key=other))
        content = json.loads(done.receipt.read_text())
        done.receipt.write_text(json.dumps({**content, "copied": "otherwise"}))
        with pytest.raises(ChipError, match="was changed or forged"):
            carry_out_verify(asked)
        del content["signature"]
        done.receipt.write_text(json.dumps(content))
        with pytest.raises(ChipError, match="is not signed"):
            carry_out_verify(asked)

    def test_a_key_that_cannot_sign_is_refused_before_anything_is_written(self, tmp_path: Path, model: Path) -> None:
        pytest.importorskip("cryptography")
        edit = keep(tmp_path / "edit", edit_on(model, 1))
        with pytest.raises(ChipError, match="holds no private key that can be used"):
            apply(model, edit, out=tmp_path / "out", sign=edit)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("name", "value"),
        [("format", "chip-receipt-1"), ("edits", {}), ("tensors", {"w": {"before": "x", "after": "y"}}), ("proof", 3)],
    )
    def test_what_breaks_the_schema_is_named_without_repeating_it(
        self, tmp_path: Path, model: Path, name: str, value: object
    ) -> None:
        (done,) = apply(model, keep(tmp_path / "edit", edit_on(model, 1)), out=tmp_path / "out")
        assert read_receipt(done.receipt)["action"] == "apply"
        content = json.loads(done.receipt.read_text())
        done.receipt.write_text(json.dumps({**content, name: value}))
        with pytest.raises(ChipError, match=rf"is no receipt that chip wrote: \$\.{name}"):
            read_receipt(done.receipt)


class TestMemory:
    def test_writing_takes_a_block_and_not_the_checkpoint(self, tmp_path: Path) -> None:
        """128 MiB of weights are edited by a process that grows by less than they take."""
        from safetensors.numpy import save_file

        rng = np.random.default_rng(0)
        (tmp_path / "model").mkdir()
        (tmp_path / "model/config.json").write_text('{"model_type": "llama"}')
        save_file({WEIGHT: rng.normal(size=(4096, 8192)).astype(np.float32)}, tmp_path / "model/model.safetensors")
        change = change_of(1, outputs=4096, inputs=8192)
        kept = Checkpoint(tmp_path / "model").tensors[WEIGHT].digest()
        edit = keep(tmp_path / "edit", Edit("oblique", {}, (change,), {WEIGHT: kept}))
        measured = (
            "import resource, sys\nfrom pathlib import Path\n"
            "from chip.workflow.apply import ApplyRequest, carry_out_apply, prepare_apply\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "request = ApplyRequest((Path(sys.argv[1]),), (Path(sys.argv[2]),), Path(sys.argv[3]))\n"
            "carry_out_apply(request, prepare_apply(request))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        )
        command = [sys.executable, "-c", measured, str(tmp_path / "model"), str(edit), str(tmp_path / "out")]
        grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024
        assert changed_tensors(tmp_path / "model", tmp_path / "out") == {WEIGHT}
        assert grown < 3 * 4096 * 8192


class TestRecovering:
    def test_a_path_that_is_not_there_is_told_apart_from_one_that_needs_nothing(
        self, tmp_path: Path, model: Path
    ) -> None:
        assert carry_out_recover(model) == ()
        with pytest.raises(ChipError, match="does not exist, and nothing of it was left behind"):
            carry_out_recover(tmp_path / "nothing")
        (tmp_path / ".gone.chip-partial").mkdir()
        assert "was removed" in carry_out_recover(tmp_path / "gone")[0]
