"""Proofs that a checkpoint is its base but for what an edit writes; and ledgers of what was forgotten."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import mode
from safetensors.numpy import load_file, save_file

from chip.edit import Applying, Change, Edit
from chip.edit.ledger import Entry, Ledger, entry_of, nodes_among, owner_of, read_ledgers, write_ledger
from chip.edit.proof import files_digest, prove, verify
from chip.edit.receipt import hashed_nodes
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.stored import Array

NOTHING = np.zeros((4, 3), np.float32)
EDIT = Edit("chip", {}, (Change("one", np.full((4, 3), 0.5, np.float32), None),))


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    """Three tensors in two files, and two files more."""
    directory = tmp_path / "base"
    (directory / "more").mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    (directory / "more" / "words.txt").write_text("words")
    draw, places = np.random.default_rng(0), {"one": "a", "two": "a", "three": "b"}
    for file in "ab":
        own = {name: draw.normal(size=(4, 3)).astype(np.float32) for name in places if places[name] == file}
        save_file(own, directory / f"{file}.safetensors")
    index = {"weight_map": {name: f"{file}.safetensors" for name, file in places.items()}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return Checkpoint(directory)


@pytest.fixture
def edited(tmp_path: Path, base: Checkpoint) -> Path:
    out = tmp_path / "edited"
    shutil.copytree(base.directory, out)
    Applying([EDIT]).write(base, out)
    return out


def rewrite(path: Path, name: str, values: Array) -> None:
    save_file({**load_file(path), name: values}, path)


class TestProof:
    def test_it_counts_what_is_as_it_was_and_what_is_as_the_edit_makes_it(self, base: Checkpoint, edited: Path) -> None:
        found, out = verify(base, Checkpoint(edited), [EDIT]), Checkpoint(edited)
        assert (found.unchanged, found.edited, found.files) == (2, 1, 3)
        assert (found.base_digest, found.edited_digest) == (base.digest, out.digest)
        assert base.digest != out.digest
        assert found.files_digest == files_digest(out) == files_digest(base)
        same = prove(base, base, {})
        assert (same.unchanged, same.edited) == (3, 0)

    def test_the_digest_of_the_files_is_over_names_and_contents_of_all_but_tensors(self, base: Checkpoint) -> None:
        names = ("config.json", "model.safetensors.index.json", "more/words.txt")
        contents = {name: (base.directory / name).read_bytes() for name in names}
        listed = "".join(f"{name}\0{hashlib.sha256(contents[name]).hexdigest()}\n" for name in names)
        assert files_digest(base) == hashlib.sha256(listed.encode()).hexdigest()

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (
                lambda out: rewrite(out / "b.safetensors", "three", NOTHING),
                "three in .* is not as in",
            ),
            (
                lambda out: rewrite(out / "a.safetensors", "one", NOTHING),
                "one in .* the edit makes",
            ),
            (
                lambda out: (out / "config.json").write_text('{"model_type": "other"}'),
                "^config.json in .* not as in",
            ),
            (lambda out: (out / "more" / "words.txt").write_text("other"), "words.txt in .* is not as in"),
            (lambda out: (out / "more" / "words.txt").unlink(), "words.txt is not in .*edited, but in the other"),
            (lambda out: (out / "more" / "new.txt").write_text(""), "new.txt is not in .*base, but in the other"),
            (lambda out: (out / "old.bin").write_text("weights"), "old.bin in .* is no file that an edited"),
            (
                lambda out: save_file(load_file(out / "b.safetensors"), out / "b.safetensors", {"a": "b"}),
                "the header of b.safetensors in .* is not as in",
            ),
        ],
        ids=range(8),
    )
    def test_the_first_difference_is_named(
        self, base: Checkpoint, edited: Path, damage: Callable[[Path], None], said: str
    ) -> None:
        damage(edited)
        with pytest.raises(ChipError, match=said):
            verify(base, Checkpoint(edited), [EDIT])

    def test_what_stays_behind_may_lie_there_if_it_lay_in_the_base(self, base: Checkpoint, edited: Path) -> None:
        for directory in (base.directory, edited):
            (directory / "old.bin").write_text("weights")
        assert verify(base, Checkpoint(edited), [EDIT]).files == 3
        (edited / "old.bin").write_text("others")
        with pytest.raises(ChipError, match=r"old\.bin in .* is no file that an edited checkpoint carries"):
            verify(base, Checkpoint(edited), [EDIT])
        (edited / "old.bin").unlink()
        assert verify(base, Checkpoint(edited), [EDIT]).files == 3

    def test_an_edit_that_does_not_fit_proves_nothing(self, base: Checkpoint, edited: Path) -> None:
        other = replace(EDIT, changes=(replace(EDIT.changes[0], left=np.zeros((5, 3), np.float32)),))
        with pytest.raises(ChipError, match="does not fit its shape"):
            verify(base, Checkpoint(edited), [other])


SALT = b"s" * 32


class TestLedger:
    entries = (Entry("a", "b", ("1", "2")), Entry("b", "c", ("3",)), Entry("a", "d", ("4",)), Entry("x", "b", ("5",)))

    def test_a_model_has_forgotten_what_all_that_it_came_of_has(self) -> None:
        one = Ledger(self.entries)
        assert one.forgotten("c") == {"1", "2", "3", "5"}
        assert one.forgotten("b") == {"1", "2", "5"}
        assert one.forgotten("d") == {"4"}
        for other in ("a", "x", "e"):
            with pytest.raises(ChipError, match="the ledger knows nothing of this model"):
                one.forgotten(other)
        around = Ledger((Entry("a", "b", ("1",)), Entry("b", "a", ("2",))))
        assert around.forgotten("a") == {"1", "2"}

    def test_an_entry_takes_the_place_of_those_of_its_checkpoint(self) -> None:
        new = Entry("a", "b", ("9",))
        assert Ledger(self.entries, "me").with_entry(new) == Ledger((*self.entries[1:3], new), "me")

    def test_nodes_are_found_again_by_their_hashes_the_outermost_of_them(self) -> None:
        nodes = [("i", "p"), ("i",), ("j", "q"), ("j", "q", "s"), ("k",)]
        hashes = hashed_nodes([("j", "q", "s"), ("j", "q"), ("k",)], SALT)
        assert nodes_among(nodes, hashes, SALT) == (("j", "q"), ("k",))
        assert nodes_among(nodes, hashes, b"t" * 32) == ()

    def test_what_is_written_is_read_back_by_its_owner_alone(self, tmp_path: Path) -> None:
        assert owner_of(SALT) == hashed_nodes([()], SALT)[0] != owner_of(b"t" * 32)
        one, other = (Ledger(part, owner_of(SALT)) for part in (self.entries[:1], self.entries[1:]))
        for name, ledger in (("one", one), ("other", other), ("nobodys", Ledger(self.entries))):
            write_ledger(ledger, tmp_path / name)
            assert mode(tmp_path / name) == 0o600
        assert read_ledgers([tmp_path / "one", tmp_path / "other"], SALT) == Ledger(self.entries, owner_of(SALT))
        assert read_ledgers([tmp_path / "nobodys"], SALT) == Ledger(self.entries, owner_of(SALT))
        assert read_ledgers([], SALT) == Ledger((), owner_of(SALT))
        with pytest.raises(ChipError, match="one was written with another salt than yours"):
            read_ledgers([tmp_path / "nobodys", tmp_path / "one"], b"t" * 32)
        content = json.loads((tmp_path / "one").read_text())
        assert content == {
            "format": "chip-ledger-1",
            "owner": owner_of(SALT),
            "entries": [{"base": "a", "checkpoint": "b", "nodes": ["1", "2"]}],
        }

    @pytest.mark.parametrize("values", [{"base": 1}, {"checkpoint": None}, {"nodes": ["1", 2]}, {"nodes": 3}], ids=str)
    def test_entries_of_anything_but_texts_are_refused(self, tmp_path: Path, values: dict[str, object]) -> None:
        entry = {"base": "a", "checkpoint": "b", "nodes": ["1"], **values}
        content = {"format": "chip-ledger-1", "owner": "", "entries": [entry]}
        (tmp_path / "ledger").write_text(json.dumps(content))
        with pytest.raises(ChipError, match="ledger is neither a ledger nor a receipt"):
            read_ledgers([tmp_path / "ledger"], SALT)

    def test_a_receipt_of_forgetting_is_an_entry_and_no_other_is(self) -> None:
        proof = {"edited_digest": "b", "base_digest": "a"}
        receipt: dict[str, Any] = {"proof": proof, "action": "edit", "edits": [{"nodes": ["1"]}, {"nodes": ["2", "3"]}]}
        assert entry_of(receipt) == Entry("a", "b", ("1", "2", "3"))
        assert entry_of({**receipt, "action": "apply", "forgotten": ["4"]}) == Entry("a", "b", ("1", "2", "3", "4"))
        assert entry_of({**receipt, "action": "revert"}) is None
        assert entry_of({**receipt, "proof": None}) is None
