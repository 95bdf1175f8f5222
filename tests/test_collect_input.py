"""Bad input to a collection: one sentence that names what is wrong, and nothing of it in the sums or in the file."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from collecting import all_wanted, assert_near, calls, write_ward
from tiny_records import write_hospital, write_image
from torch import Tensor

from chip.collect import Collector, Sketch, Wanted, collect, encode_all
from chip.collect.file import load_statistics
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.records import read_records
from chip.settings import CollectSettings
from chip.workflow import CollectRequest, carry_out_collection, prepare_collection

FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: not enough memory"),
)


def collecting(model: Path, data: Path, out: Path, **settings: Any) -> CollectRequest:
    return CollectRequest(str(model), data, out, CollectSettings(**{"workers": 0, **settings}), device="cpu")


@contextmanager
def memory_for(loaded: LoadedModel, tokens: int, problem: RuntimeError = FULL[0]) -> Iterator[None]:
    """Passes of more tokens than these run out of memory in the second layer."""

    def refuse(_: Any, given: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        hidden = given[0] if given else named["hidden_states"]
        if hidden.shape[0] * hidden.shape[1] > tokens:
            raise problem

    layer = loaded.model.get_submodule(f"{loaded.family.layers}.1")
    hook = layer.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A LLaVA for which the letter Z is not a number."""
    loaded = load_model(Checkpoint(tiny_models.llava(tmp_path_factory.mktemp("spoilt") / "model")), "cpu")
    token = loaded.prompts.tokenizer.encode("Z")[0]
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[token] = float("nan")
    return loaded


class TestNotFinite:
    @pytest.mark.parametrize("place", [0, 1, 4, 7])
    @pytest.mark.parametrize("where", ["question", "answer"])
    @pytest.mark.parametrize(
        ("kind", "role"), [("pooled", "language"), ("answer", "language"), ("pooled", "attention")]
    )
    @pytest.mark.parametrize("images", [0, 1])
    def test_one_of_several_behind_a_prefix_is_named(
        self, spoilt: LoadedModel, hospital_data: Path, place: int, where: str, kind: str, role: str, images: int
    ) -> None:
        """In a row that several records share, what is not finite spreads over all of them."""
        image = (hospital_data / "images/study_0_0.png",)[:images]
        begins = "what are the findings " * 20
        asked = [Record(("a",), f"{begins}{n} ?", f"edema {n}", image, line=n + 1) for n in range(8)]
        asked[place] = replace(asked[place], **{where: f"{getattr(asked[place], where)} Z"})
        groups = encode_all(spoilt, asked)
        assert sum(len(one) - groups[0].shared for one in groups[0].encoded) < 3 * groups[0].shared
        names = tuple(site.name for site in spoilt.sites if site.role == role)
        collector = Collector(spoilt, [("a",)], Wanted(**{kind: names}), 0.3)
        collector.add(encode_all(spoilt, [asked[place - 1]]), [asked[place - 1]], 4096)
        before = collector.statistics()
        with pytest.raises(ChipError, match=f"record on line {place + 1}: its activations are not finite"):
            collector.add(groups, asked, 4096)
        assert_near(collector.statistics(), before, 0.0)

    def test_a_prefix_that_is_not_finite_is_its_first_records(self, spoilt: LoadedModel) -> None:
        asked = [Record(("a",), f"Z, {'what are the findings ' * 3}{n} ?", "edema", line=n + 5) for n in range(4)]
        with pytest.raises(ChipError, match="record on line 5: "):
            collect(spoilt, asked, all_wanted(spoilt))

    @pytest.mark.parametrize("role", ["vision", "projector"])
    def test_an_image_is_a_record_that_shows_it(self, llava: LoadedModel, hospital_data: Path, role: str) -> None:
        """Activations of one picture are spoilt as it enters the tower."""
        records = [record for record in read_records(hospital_data).records if record.images]
        bad = next(record.images[0] for record in records if record.images != records[0].images)
        pixels = llava.prompts.encode(next(r for r in records if r.images == (bad,))).pixels["pixel_values"][0]

        def spoil(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            shown = (given[0] if given else named["pixel_values"]).clone()
            shown[(shown == pixels).flatten(1).all(1)] = float("nan")
            return ((shown, *given[1:]), named) if given else (given, {**named, "pixel_values": shown})

        tower = llava.model.get_submodule("model.vision_tower")
        hook = tower.register_forward_pre_hook(spoil, with_kwargs=True)
        names = tuple(site.name for site in llava.sites if site.role == role)
        line = min(record.line for record in records if record.images == (bad,))
        try:
            for wanted in (Wanted(pooled=names), Wanted(image=names))[: 1 + (role == "projector")]:
                with pytest.raises(ChipError, match=f"record on line {line}: its activations"):
                    collect(llava, records, wanted)
        finally:
            hook.remove()


class TestOutOfMemory:
    @pytest.mark.parametrize("problem", FULL, ids=["accelerator", "cpu"])
    @pytest.mark.parametrize("tokens", [80, 300])
    def test_passes_are_halved_until_they_fit(
        self, llava: LoadedModel, hospital_data: Path, problem: RuntimeError, tokens: int
    ) -> None:
        records = read_records(hospital_data).records
        expected, notices = collect(llava, records, all_wanted(llava)), []
        with memory_for(llava, tokens, problem):
            found = collect(llava, records, all_wanted(llava), batch_tokens=2048, notice=notices.append)
        assert_near(found, expected, 1e-6)
        sizes = [int(notice.removeprefix("memory ran out: passes of at most ").split()[0]) for notice in notices]
        assert sizes == [2048 >> (n + 1) for n in range(len(sizes))]
        assert sizes

    def test_where_nothing_fits_it_is_said_and_what_was_kept_stays(
        self, llava_directory: Path, hospital_data: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "kept.safetensors"
        carry_out_collection(prepare_collection(collecting(llava_directory, hospital_data, out)))
        before = out.read_bytes()
        larger = write_hospital(tmp_path / "larger", institutions=3)
        prepared = prepare_collection(collecting(llava_directory, larger, out))
        sentence = r"memory ran out with a record at a time \(on line \d+\): use a smaller --dtype"
        with memory_for(prepared.loaded, 3), pytest.raises(ChipError, match=sentence):
            carry_out_collection(prepared, notice=lambda _: None)
        assert out.read_bytes() == before
        assert list(tmp_path.glob(".*")) == []

    def test_other_failures_are_not_taken_for_it(self, llava: LoadedModel, hospital_data: Path) -> None:
        records = read_records(hospital_data).records
        broken = RuntimeError("expected scalar type Float but found Half")
        with memory_for(llava, 3, broken), pytest.raises(RuntimeError, match="expected scalar type"):
            collect(llava, records, all_wanted(llava))

    def test_sums_that_do_not_fit_end_it(
        self, llama: LoadedModel, text_data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half of a chunk may have been added: run again, it would count twice."""
        records = [replace(r, answer="mild edema " * 20) for r in read_records(text_data).records]
        before: Any = torch.Tensor.addmm_
        times: list[int] = []

        def full(*given: Any) -> Any:
            times.append(1)
            if len(times) == 2:
                raise FULL[0]
            return before(*given)

        monkeypatch.setattr(torch.Tensor, "addmm_", full)
        with pytest.raises(ChipError, match="memory ran out while sums were added up: use less --statistics-memory"):
            collect(llama, records, all_wanted(llama), notice=lambda _: None)


class TestImages:
    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("change", [lambda path: write_image(path, 99), Path.unlink], ids=["drawn anew", "gone"])
    def test_one_that_changes_after_the_plan_is_refused(
        self, llava: LoadedModel, tmp_path: Path, workers: int, change: Callable[[Path], object]
    ) -> None:
        records = read_records(write_ward(tmp_path, 3)).records

        def track(items: Any, doing: str) -> Iterable[Any]:
            change(tmp_path / "images/1.png")
            return items

        with pytest.raises(ChipError, match=r"record on line 5: .*/images/1\.png changed while it was being collected"):
            collect(llava, records, all_wanted(llava), workers=workers, track=track)

    @pytest.mark.parametrize("what", [b"", b"no image at all", "truncated"])
    def test_one_that_cannot_be_read_is_the_same_sentence_from_a_worker(
        self, llava: LoadedModel, tmp_path: Path, what: bytes | str
    ) -> None:
        records = read_records(write_ward(tmp_path, 3)).records
        bad = tmp_path / "images/1.png"
        bad.write_bytes(what if isinstance(what, bytes) else bad.read_bytes()[:700])
        said = []
        for workers in (0, 2):
            with pytest.raises(ChipError, match=r"record on line 5: .*/images/1\.png cannot be read") as caught:
                collect(llava, records, all_wanted(llava), workers=workers)
            said.append(str(caught.value))
        assert said[0] == said[1]
        assert "\n" not in said[0]

    def test_a_worker_that_is_killed_is_said(self, llava: LoadedModel, tmp_path: Path) -> None:
        records = read_records(write_ward(tmp_path, 40)).records

        def track(items: Any, doing: str) -> Iterator[Any]:
            for number, one in enumerate(items):
                if number == 0:
                    multiprocessing.active_children()[0].kill()
                yield one

        with pytest.raises(ChipError, match="a process that encodes ahead was ended, perhaps for want of memory"):
            collect(llava, records, all_wanted(llava), workers=2, track=track)


class TestRefused:
    def test_a_template_that_refuses_is_said_with_the_line(self, tmp_path: Path, text_data: Path) -> None:
        template = "{{ raise_exception('system turn, please') }}"
        model = tiny_models.text_model(tmp_path / "model", "llama", chat_template=template)
        loaded = load_model(Checkpoint(model), "cpu")
        with pytest.raises(ChipError, match=r"record on line \d+: the model's chat template refuses it"):
            collect(loaded, read_records(text_data).records, all_wanted(loaded))

    @pytest.mark.parametrize("what", ["model", "image", "truncated"])
    def test_statistics_that_do_not_fit_are_collected_afresh_with_a_notice(self, tmp_path: Path, what: str) -> None:
        model, data = tiny_models.llava(tmp_path / "model"), write_ward(tmp_path / "data", 3)
        out, fresh = tmp_path / "kept.safetensors", tmp_path / "fresh.safetensors"
        carry_out_collection(prepare_collection(collecting(model, data, out)))
        if what == "model":
            tiny_models.llava(model, seed=1)
        elif what == "image":
            write_image(data / "images/1.png", 99)
        else:
            out.write_bytes(out.read_bytes()[:5000])
        before = out.read_bytes()
        if what == "model":
            with pytest.raises(
                ChipError, match=r"holds other statistics \(they are of another model\); replace them with"
            ):
                prepare_collection(collecting(model, data, out))
            assert out.read_bytes() == before
        for path in (out, fresh):
            prepared = prepare_collection(replace(collecting(model, data, path), force=True))
            assert ("collected afresh" in prepared.source.notice) == (path == out)
            carry_out_collection(prepared)
        assert out.read_bytes() == fresh.read_bytes()

    def test_no_image_at_all(self, llava: LoadedModel, text_data: Path, tmp_path: Path) -> None:
        with calls(llava.model.get_submodule("model.vision_tower")) as given:
            found = collect(llava, read_records(text_data).records, all_wanted(llava))
        assert not given
        assert {one.count for one in found.image.values()} == {0}
        wide = tiny_models.llava(tmp_path / "model", hidden_size=320, intermediate_size=320)
        out = tmp_path / "kept.safetensors"
        carry_out_collection(prepare_collection(collecting(wide, text_data, out, statistics_memory=0.0025)))
        kept, _ = load_statistics(out)
        (sketch,) = kept.image.values()
        assert isinstance(sketch, Sketch)
        assert (len(sketch.rows), sketch.count, sketch.energy) == (0, 0, 0.0)
