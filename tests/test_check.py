"""Identifiers that stand in a data set are found wherever they stand; what merely looks like one is left alone."""

import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import chip, chip_here
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError
from tiny_records import LEVELS, write_hospital, write_lines

from chip.errors import ChipError
from chip.medforget import identifier_patterns as kinds
from chip.medforget import metadata
from chip.medforget.burned_in import burned_in, burned_in_file
from chip.medforget.check import BURNED_IN, FOREIGN, MALFORMED, NOT_FOUND, UNREADABLE, check
from chip.medforget.identifiers import find_identifiers
from chip.records import read_records, write_records
from chip.records.parquet import ForgetSet, write_parquet

IDENTIFYING = {
    kinds.DATES: (
        "03/14/2019", "2019-03-14", "14.03.2019", "14.3.19", "March 14, 2019", "Mar 14", "14 March", "3rd of May 2011",
        "May 2011", "on 3/14", "20190314", "2019-03-14T10:11:12", "14-MAR-2019", "JUNE 2ND", "study_2019-03-14",
        "3/2019", "CT of 11/2", "film from 14/3", "from 14/3", "radiograph 3/14", "exam of 3/5", "COMPARISON: 3/14",
        "compared to 3/14", "the 3/14 CT", "study dated 3/5",
    ),
    kinds.AGES: ("a 93-year-old man", "101 yo", "aged 95", "age: 92", "94 y/o", "97 years old", "in her 90s"),
    kinds.PHONES: ("617-555-0199", "(617) 555-0199", "617.555.0199", "+49 511 532 0", "pager 31234", "ext. 5512"),
    kinds.FAXES: ("fax: 617-555-0198", "FAX number (617) 555-0198"),
    kinds.MAILS: ("jane.doe+x@mail.hospital.org", "a@b.de"),
    kinds.URLS: ("https://hospital.test/patients/1", "www.hospital.de", "massgeneral.org"),
    kinds.ADDRESSES: ("10.0.0.1", "fe80::1ff:fe23:4567:890a"),
    kinds.SOCIAL: ("123-45-6789", "SSN 123456789", "social security number: 123 45 6789"),
    kinds.RECORDS: ("MRN: 1234567", "accession number A-12345", "Acc# 9988", "medical record no. 4711", "chart # 5551"),
    kinds.PLANS: ("policy number XZ1234", "Medicare 1EG4-TE5-MK73"),
    kinds.ACCOUNTS: ("account no. 44556", "acct 887766"),
    kinds.LICENCES: ("license number 55667", "NPI 1234567893"),
    kinds.VEHICLES: ("VIN 1HGCM82633A004352", "license plate BCD-5678"),
    kinds.DEVICES: ("serial number SN12345", "1.2.840.113619.2.5.1762583153", "pacemaker S/N 443322"),
    kinds.PLACES: (
        "12 Main Street", "7 North Oak Avenue", "Hauptstraße 12", "Boston, MA 02114", "02114-1234", "P.O. Box 12",
        "ZIP code 02114",
    ),
    kinds.NAMES: (
        "Dr. Smith", "Dr Smith", "DR. SMITH", "dr. smith", "Mrs. O'Neil", "Ms. Jane Doe", "Prof. J. Doe", "Mr. Müller",
        "dictated by John Smith", "discussed with Smith", "patient: Doe, Jane", "PATIENT NAME: DOE, JANE",
        "John Q. Smith, MD", "DOE^JOHN", "Attending: Smith", "Dr. House", "Dr. Right", "DR. HOUSE", "Dr. He",
        "DICTATED BY: ALAN TURING", "ELECTRONICALLY SIGNED BY: JOHN DOE", "APPROVED BY JOHN DOE",
        "Signed electronically by Maria Lopez", "Radiologist: A. Turing", "Dr. J.R. Smith", "Dr. van der Berg",
        "discussed by telephone with Turing",
    ),
    kinds.NUMBERS: ("7654321", "the number 1234567890"),
    kinds.USERS: ("/home/alice/records", r"C:\Users\alice\records", "/Users/alice"),
}  # fmt: skip

HARMLESS = (
    "disc at L1/2 and 3/4 ribs", "a 4 mm nodule", "1/2 of the vertebra", "T12/L1", "3.2 x 1.1 cm", "grade 2/5 motion",
    "may 3 mm be measured", "Dr. ___", "Dr. ___ Findings were as before", "discussed with ___ at 10:45 on ___",
    "MR Angiography", "MS Lesions", "on MR. The liver is normal", "Chest, PA and lateral", "90 degrees", "95% on air",
    "98.6 F and 120/80", "version 1.5.2", "discussed with Radiology", "reviewed by the attending", "Patient: Supine",
    "series 2 image 14", "a 45-year-old man", "___-year-old", "dated ___", "COMPARISON: ___.", "on 2/3 views", "100 ml",
    "account for 300 of them", "10:45:30", "ext 5 cm", "May represent atelectasis", "case 3 of 40", "88 years old",
    "CT 12", "12-14 mm", "7.5 French", "patient_123", "study_14_2", "inst_0", "A) clear B) left effusion", "[blank]",
    "Findings were communicated to Dr. ___", "discussed with Dr. ___ by Dr. ___", "Drs. ___ and ___",
    "reviewed with Dr ___", "performed with Omnipaque", "PERFORMED BY INTERVENTIONAL RADIOLOGY", "DICTATED BY: ___",
    "1/2 of a vertebra", "4/5 strength", "from 3/5 to 4/5", "exam 5/5 throughout", "on exam 4/5", "a ratio of 1/2",
    "image 3/14", "series 1/2", "CT through 1/2 of it", "grade 3/6 murmur", "from 1/2 of it", "MR. Right kidney",
    "2019", "in 2019", "1,234,567.5", "0.12345678", "C-reactive protein 3.0", "PICC line 35 cm", "1.2.3",
)  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in IDENTIFYING.items() for text in texts])
def test_an_identifier_of_each_kind_is_found_as_that_kind(kind: str, text: str) -> None:
    assert kind in {one.kind for one in find_identifiers(text)}


@pytest.mark.parametrize("text", HARMLESS)
def test_what_merely_looks_like_an_identifier_is_none(text: str) -> None:
    assert [(one.kind, text[one.start : one.stop]) for one in find_identifiers(text)] == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("discussed with Dr. Turing", ["Turing"]),
        ("signed by Dr Turing, MD", ["Turing"]),
        ("Dr. van der Berg was told", ["van der Berg"]),
        ("Dr. J.R. Smith", ["J.R. Smith"]),
        ("communicated to Dr. ___ by Dr. House", ["House"]),
        ("DICTATED BY: ALAN TURING\nFINDINGS: clear", ["ALAN TURING"]),
        ("ELECTRONICALLY SIGNED BY: DR. ALAN TURING", ["ALAN TURING"]),
    ],
)
def test_a_name_is_found_whole_and_once(text: str, names: list[str]) -> None:
    assert [text[one.start : one.stop] for one in find_identifiers(text)] == names


@given(
    planted=st.sampled_from([(kind, text) for kind, texts in IDENTIFYING.items() for text in texts]),
    before=st.lists(st.sampled_from(HARMLESS), max_size=3),
    after=st.lists(st.sampled_from(HARMLESS), max_size=3),
    mark=st.sampled_from([". ", ", ", "; ", "\n", " - "]),
)
@settings(max_examples=300, deadline=None)
def test_a_planted_identifier_is_found_wherever_it_stands(
    planted: tuple[str, str], before: list[str], after: list[str], mark: str
) -> None:
    kind, text = planted
    assert kind in {one.kind for one in find_identifiers(mark.join([*before, text, *after]))}


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_matches_lie_in_the_text_and_do_not_overlap(text: str) -> None:
    found = list(find_identifiers(text))
    assert all(0 <= one.start < one.stop <= len(text) for one in found)
    assert all(one.stop <= other.start for one, other in pairwise(found))


HOSTILE = (
    "a", "1", "1-", "1.", "A a ", "Dr ", "a@", "a.", "Aa^", "::", "0:", "-", "(", "www.", " ", "+1 ", "MRN ", "on 1/",
    "12 Main ", "Smith ", "'", "A'", "/home/", "St ", "patient: ", "by ", "Jan ", "9", "_",
    "Dr. van ", "SIGNED BY: A ", "A. ", "the 1/2 ", "CT of ", "by phone ",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_work_grows_no_faster_than_the_text(piece: str) -> None:
    """Counted, not timed: bounded repetitions alone, so no pattern can look further than some hundred signs ahead."""
    short, long = (list(find_identifiers(piece * count)) for count in (200, 2_000))
    assert len(long) <= 10 * len(short) + 10


def test_no_pattern_repeats_without_a_bound() -> None:
    from re import _constants, _parser  # type: ignore[attr-defined]

    def repeats(tree: Any) -> Any:
        for operation, value in tree:
            if operation in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
                yield value[1]
                yield from repeats(value[2])
            elif operation is _constants.BRANCH:
                for one in value[1]:
                    yield from repeats(one)
            elif operation is _constants.SUBPATTERN:
                yield from repeats(value[-1])
            elif operation in (_constants.ASSERT, _constants.ASSERT_NOT):
                yield from repeats(value[1])

    for pattern in kinds.PATTERNS:
        bounds = list(repeats(_parser.parse(pattern.expression.pattern)))
        assert all(bound < 1000 for bound in bounds), pattern.kind


def plant(directory: Path, **values: Any) -> Path:
    """A data directory of one record that holds nothing else that identifies."""
    record = {"path": ["inst_0", "p_1"], "image": None, "question": "what is seen ?", "answer": "clear lungs", **values}
    return write_lines(directory, record)


@pytest.mark.parametrize("kind", IDENTIFYING)
@pytest.mark.parametrize(
    "values",
    [
        lambda text: {"question": text},
        lambda text: {"answer": text},
        lambda text: {"paraphrases": ["which ?", text]},
        lambda text: {"options": ["clear lungs", text]},
        lambda text: {"translations": {"de": text}},
        lambda text: {"other": [{"deep": text}]},
    ],
)
def test_an_identifier_is_found_under_every_key(
    tmp_path: Path, kind: str, values: Callable[[str], dict[str, Any]]
) -> None:
    text = IDENTIFYING[kind][0]
    given_values = values(text)
    found = check(plant(tmp_path, **given_values))
    assert found.counts.get(kind) == 1
    (key,) = given_values
    where = found.first[kind][0].where
    assert where.startswith("records.jsonl, line 1, ")
    assert where.split(", ")[-1] in (key, "de", "deep")
    assert text not in json.dumps(found.as_json())


def test_names_of_nodes_are_searched_but_their_numbers_are_ids(tmp_path: Path) -> None:
    path = ["inst_0", "19500101", "s50414267"]
    assert check(plant(tmp_path, path=path, answer="record 50414267 of 19500101")).clean
    assert check(plant(tmp_path, path=["inst_0", "Dr. Smith"])).counts == {kinds.NAMES: 1}
    assert check(plant(tmp_path, answer="50414267")).counts == {kinds.NUMBERS: 1}


def test_numbers_that_name_other_nodes_are_no_findings_and_hide_none(tmp_path: Path) -> None:
    """As options have them where an export's own ids are numbers."""
    patients = ["5041420", "19500101", "5041422"]
    asked = {
        "question": "whose picture ?",
        "options": [f"{sign}) {name}" for sign, name in zip("ABC", patients, strict=True)],
    }
    records = [{"path": ["inst_0", name], "answer": f"A) {name}", **asked} for name in patients]
    assert check(write_lines(tmp_path, *records)).clean
    records[0]["answer"] = "seen as 5041429, MRN: 5041422, and as 504142255"
    found = check(write_lines(tmp_path, *records))
    assert found.counts == {kinds.NUMBERS: 2, kinds.RECORDS: 1}


def test_links_that_lead_out_are_told_and_not_followed(tmp_path: Path) -> None:
    data, outside = plant(tmp_path / "data"), tmp_path / "outside"
    outside.mkdir()
    (outside / "notes.txt").write_text("seen by Dr. Smith\n")
    for name, target in (("notes.txt", outside / "notes.txt"), ("folder", outside), ("gone.json", outside / "gone")):
        (data / name).symlink_to(target)
    (data / "again.jsonl").symlink_to("records.jsonl")
    found = check(data)
    assert found.counts == {FOREIGN: 3}
    assert [one.where for one in found.first[FOREIGN]] == ["folder", "gone.json", "notes.txt"]
    (data / "records.jsonl").rename(outside / "records.jsonl")
    (data / "records.jsonl").symlink_to(outside / "records.jsonl")
    with pytest.raises(ChipError, match=r"holds no records\.jsonl of its own"):
        check(data)


def test_manifests_tell_no_users_and_no_times(tmp_path: Path) -> None:
    plant(tmp_path)
    made = {
        "made": "2026-11-22T10:11:12",
        "user": "alice",
        "source": "/home/alice/mimic",
        "seed": 3,
        "version": "0.9.1",
    }
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    (tmp_path / "notes.txt").write_text("nothing\nseen by Dr. Smith\n")
    found = check(tmp_path)
    assert found.counts == {kinds.DATES: 1, kinds.USERS: 2, kinds.NAMES: 1}
    assert found.first[kinds.NAMES][0].where == "notes.txt, line 2"


def picture(side: int = 64) -> Image.Image:
    return Image.fromarray(np.full((side, side), 90, dtype=np.uint8))


def saved(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture().save(path, **options)
    return path


def test_what_image_files_hold_beside_their_picture_is_found(tmp_path: Path) -> None:
    text, xmp = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    text.add_text("Patient", "somebody")
    xmp.add_itxt("XML:com.adobe.xmp", "<x/>")
    exif, turned = Image.Exif(), Image.Exif()
    exif[ExifTags.Base.Artist] = "somebody"
    turned[ExifTags.Base.Orientation] = 1
    images = tmp_path / "images"
    expected = {
        saved(images / "plain.png"): (),
        saved(images / "plain.jpg"): (),
        saved(images / "progressive.jpg", progressive=True, dpi=(72, 72)): (),
        saved(images / "turned.jpg", exif=turned): (),
        saved(images / "plain.tif"): (),
        saved(images / "plain.gif"): (),
        saved(images / "plain.bmp"): (),
        saved(images / "text.png", pnginfo=text): (metadata.TEXT,),
        saved(images / "xmp.png", pnginfo=xmp): (metadata.XMP,),
        saved(images / "exif.png", exif=exif): (metadata.EXIF,),
        saved(images / "exif.jpg", exif=exif): (metadata.EXIF,),
        saved(images / "exif.webp", exif=exif): (metadata.EXIF,),
        saved(images / "comment.jpg", comment=b"somebody"): (metadata.TEXT,),
        saved(images / "comment.gif", comment=b"somebody"): (metadata.TEXT,),
        saved(images / "xmp.jpg", xmp=b"<x/>"): (metadata.XMP,),
        saved(images / "artist.tif", tiffinfo={315: "somebody"}): (metadata.EXIF,),
        saved(images / "profile.jpg", icc_profile=b"no profile at all"): (metadata.PROFILE,),
    }
    for name in ("trailing.png", "trailing.jpg"):
        path = saved(images / name)
        path.write_bytes(path.read_bytes() + b"somebody")
        expected[path] = (metadata.TRAILING,)
    for path, parts in expected.items():
        assert metadata.hidden_parts(path.read_bytes()) == parts, path.name


def test_dicom_files_and_files_of_other_kinds_are_told(tmp_path: Path) -> None:
    plant(tmp_path)
    for name in ("left.dcm", "without_a_suffix"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" + bytes(8))
    (tmp_path / "weights.bin").write_bytes(b"x")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "images" / "cut.jpg").write_bytes(saved(tmp_path / "images" / "whole.jpg").read_bytes()[:200])
    counts = check(tmp_path).counts
    assert (counts[metadata.DICOM], counts[FOREIGN], counts[UNREADABLE]) == (2, 1, 2)


def test_formats_that_start_programs_and_images_beyond_all_bounds_are_not_opened(tmp_path: Path) -> None:
    held, images = io.BytesIO(), tmp_path / "images"
    picture().save(held, "EPS")
    for look in (metadata.hidden_parts, burned_in_file):
        with pytest.raises(UnidentifiedImageError):
            look(held.getvalue())
    plant(tmp_path)
    images.mkdir()
    (images / "program.png").write_bytes(held.getvalue())
    Image.new("1", (9_000, 9_000)).save(images / "large.png")
    assert check(tmp_path).counts == {UNREADABLE: 2}


def radiograph(side: int, seed: int) -> Image.Image:
    """Something like a chest: a bright middle, two dark lungs, ribs, and noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    levels = 60 + 120 * np.exp(-((x - 0.5) ** 2) / 0.02)
    for middle in (0.3, 0.7):
        levels -= 70 * np.exp(-((x - middle) ** 2 / 0.02 + (y - 0.5) ** 2 / 0.06))
    for rib in range(9):
        levels += 18 * np.exp(-((y - 0.1 - 0.09 * rib - 0.15 * (x - 0.5) ** 2) ** 2) / 0.0003)
    levels += draw.normal(0, 6, (side, side))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(("side", "size"), [(112, 12), (224, 10), (512, 16), (512, 32), (1024, 24), (1024, 64)])
@pytest.mark.parametrize("corner", ["top left", "bottom right", "middle"])
def test_text_that_is_drawn_into_a_radiograph_is_found_in_its_place(side: int, size: int, corner: str) -> None:
    image = radiograph(side, seed=side + size)
    font = ImageFont.load_default(size)
    pen = ImageDraw.Draw(image)
    width = pen.textlength("DOE, JANE", font=font)
    across, down = {"top left": (0.03, 0.03), "middle": (0.3, 0.45), "bottom right": (0.97 - width / side, 0.86)}[
        corner
    ]
    pen.text((across * side, down * side), "DOE, JANE", font=font, fill=250)
    boxes = burned_in(image)
    assert boxes
    assert any(abs(box.left - across) < 0.5 and abs(box.top - down) < 0.15 for box in boxes)


@pytest.mark.parametrize("side", [112, 224, 512, 1024])
def test_a_radiograph_without_text_has_none_and_a_side_marker_is_no_text(side: int) -> None:
    for seed in range(4):
        image = radiograph(side, seed)
        assert burned_in(image) == ()
        ImageDraw.Draw(image).text((0.06 * side, 0.06 * side), "L", font=ImageFont.load_default(side // 12), fill=255)
        assert burned_in(image) == ()


def test_images_of_every_mode_and_shape_can_be_looked_at() -> None:
    deep = Image.fromarray((np.arange(4096, dtype=np.uint16) * 16).reshape(64, 64))
    for image in (
        deep,
        Image.new("1", (8, 8)),
        Image.new("RGBA", (3, 90)),
        Image.new("P", (1, 1)),
        Image.new("F", (5, 5)),
    ):
        assert burned_in(image) == ()


def test_the_verb_tells_kinds_and_places_and_ends_with_what_it_cannot_find(tmp_path: Path) -> None:
    directory = plant(tmp_path / "data", answer="seen by Dr. Abramowitz on 03/14/2019")
    image = radiograph(224, 1)
    ImageDraw.Draw(image).text((8, 8), "DOE, JANE", font=ImageFont.load_default(12), fill=250)
    (directory / "images").mkdir()
    image.save(directory / "images" / "a.png")
    done = chip("medforget", "check", directory)
    assert done.returncode == 1, done.stderr
    assert "records.jsonl, line 1, answer" in done.stdout
    assert BURNED_IN in done.stdout
    assert "Abramowitz" not in done.stdout
    assert done.stdout.rstrip().endswith(NOT_FOUND[-1])
    shown = chip_here("medforget", "check", directory, "--show", "--json")
    assert shown.exit_code == 1
    found = json.loads(shown.stdout)["found"]
    assert found[kinds.NAMES]["first"] == [{"where": "records.jsonl, line 1, answer", "text": "Abramowitz"}]
    assert set(found) == {kinds.NAMES, kinds.DATES, BURNED_IN}


def test_three_places_are_told_and_on_request_every_match(tmp_path: Path) -> None:
    names = ("Turing", "Hopper", "Lovelace", "Babbage", "Church")
    directory = plant(tmp_path / "data", answer=". ".join(f"Dr. {name}" for name in names))
    brief = json.loads(chip_here("medforget", "check", directory, "--json").stdout)["found"][kinds.NAMES]
    assert (brief["count"], len(brief["first"])) == (5, 3)
    assert all("text" not in one for one in brief["first"])
    shown = chip_here("medforget", "check", directory, "--show", "--json")
    assert [one["text"] for one in json.loads(shown.stdout)["found"][kinds.NAMES]["first"]] == list(names)
    told = chip_here("medforget", "check", directory, "--show").stdout
    assert all(f"line 1, answer: {name}" in told for name in names)


def test_a_clean_data_set_ends_with_zero_and_still_says_what_cannot_be_found(tmp_path: Path) -> None:
    done = chip_here("medforget", "check", write_hospital(tmp_path / "records"))
    assert done.exit_code == 0, done.output
    assert "nothing was found" in done.stdout
    assert NOT_FOUND[0] in " ".join(done.stdout.split())


@pytest.mark.parametrize("line", ["{", "[" * 100_000, b"\xff\xfe"])
def test_what_is_no_data_directory_is_one_sentence(tmp_path: Path, line: str | bytes) -> None:
    with pytest.raises(ChipError, match=r"holds no records\.jsonl"):
        check(tmp_path)
    with pytest.raises(ChipError, match=r"records\.jsonl is a file; name the data directory"):
        check(write_lines(tmp_path, line) / "records.jsonl")
    with pytest.raises(ChipError, match=r"records\.jsonl, line 1: not JSON"):
        check(write_lines(tmp_path, line))


class TestParquet:
    """Parquet files of the published layout, as `build --parquet` writes them."""

    def written(self, directory: Path, *records: dict[str, Any], image: Image.Image | None = None) -> Path:
        """A data set and the same as parquet, two files of each of two levels; with an image that all records show."""
        if image is not None:
            (directory / "images").mkdir(parents=True)
            image.save(directory / "images" / "a.png")
        write_records(directory, LEVELS, ({"image": image and "images/a.png", **one} for one in records))
        hierarchy = read_records(directory)
        sets = [ForgetSet("patient", "all", (("i0", "p0"),)), ForgetSet("institution", "all", (("i0",),))]
        write_parquet(directory, hierarchy, sets)
        return directory

    @staticmethod
    def record(patient: str = "p0", answer: str = "clear lungs", **more: Any) -> dict[str, Any]:
        return {"path": ["i0", patient], "question": "what ?", "answer": answer, **more}

    def test_a_clean_data_set_stays_clean_and_every_picture_is_looked_at_once(self, tmp_path: Path) -> None:
        clean = self.written(tmp_path, self.record(), self.record("p1"), image=radiograph(64, 1))
        found = check(clean)
        assert found.clean, found.counts
        assert found.looked_at["images"] == 1
        assert found.looked_at["other files"] == 0

    def test_what_their_texts_say_is_found_once_in_whatever_files_it_stands(self, tmp_path: Path) -> None:
        named = self.record(answer="seen by Dr. Abramowitz", paraphrases=["on 03/14/2019 ?"])
        data = self.written(tmp_path, named, self.record("p1"))
        write_lines(data, self.record(), self.record("p1"))
        found = check(data)
        assert found.counts == {kinds.NAMES: 1, kinds.DATES: 1}
        assert found.first[kinds.NAMES][0].where == "institution_level/forget_set_all.parquet, row 1, answer"

    def test_their_pictures_are_looked_at_where_no_file_has_them(self, tmp_path: Path) -> None:
        image = radiograph(224, 1)
        ImageDraw.Draw(image).text((8, 8), "DOE, JANE", font=ImageFont.load_default(12), fill=250)
        data = self.written(tmp_path, self.record(), self.record("p1"), image=image)
        assert check(data).counts == {BURNED_IN: 1}
        (data / "images" / "a.png").unlink()
        found = check(data)
        assert found.counts == {BURNED_IN: 1}
        assert found.first[BURNED_IN][0].where.startswith("institution_level/forget_set_all.parquet, row 1, ")

    def test_what_cannot_be_looked_into_is_told(self, tmp_path: Path) -> None:
        data = self.written(tmp_path, self.record(), self.record("p1"))
        arrow = pytest.importorskip("pyarrow.parquet")
        table = arrow.read_table(data / "patient_level" / "forget_set_all.parquet")
        metadata = table.column_names.index("metadata")
        malformed = table.set_column(metadata, "metadata", [["{"] * len(table)])
        arrow.write_table(malformed, data / "malformed.parquet")
        arrow.write_table(table.drop_columns(["metadata"]), data / "other.parquet")
        (data / "broken.parquet").write_bytes(b"PAR1 and nothing")
        found = check(data)
        assert found.counts == {FOREIGN: 2, MALFORMED: 1}
        assert [one.where for one in found.first[FOREIGN]] == ["broken.parquet", "other.parquet"]
        assert [one.where for one in found.first[MALFORMED]] == ["malformed.parquet, row 1"]
