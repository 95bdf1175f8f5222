"""Exports as they lie on disk: both layouts give the same studies, and whatever is wrong is counted and left out."""

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from mimic import WrittenStudy, write_mimic, write_table
from mimic_reports import LABELS
from PIL import Image

from chip.errors import ChipError
from chip.medforget import kinds
from chip.medforget.export import Export, Kept, Problems, Study
from chip.medforget.places import inside, is_node_name
from chip.medforget.reading import open_export
from chip.medforget.reports import LONGEST_REPORT, report_of
from chip.medforget.tables import LONGEST_LINE

SECRET = "confidential carcinoma"
REPORT = f"FINDINGS: {SECRET}.\nIMPRESSION: None."


def opened(path: Path) -> tuple[list[Study], dict[str, int], Export]:
    """The studies of an export, how often each problem was found, and the export."""
    problems = Problems()
    export = open_export(path, problems)
    return list(export.studies()), problems.counts, export


def said(study: Study) -> str:
    """A report that stood in a table."""
    assert isinstance(study.report, Kept)
    return study.report.read()


def in_order(written: Sequence[WrittenStudy]) -> list[WrittenStudy]:
    return sorted(written, key=lambda study: (study.patient, study.name))


def report_file(folder: Path, study: WrittenStudy) -> Path:
    return folder / "files" / study.folder / f"{study.name}.txt"


@pytest.fixture(name="mimic")
def _mimic(tmp_path: Path) -> tuple[Path, list[WrittenStudy]]:
    folder = tmp_path / "export"
    return folder, in_order(write_mimic(folder, patients=4, studies=2, shape="usual"))


Mimic = tuple[Path, list[WrittenStudy]]


BROKEN_OFF = gzip.compress(b"x" * 999, mtime=0)[:20]
"""The beginning of a packed file."""


class TestMimic:
    @pytest.mark.parametrize("apart", [False, True])
    def test_an_export_is_read_as_it_was_written(self, tmp_path: Path, apart: bool) -> None:
        written = in_order(write_mimic(tmp_path / "a" / "b", apart=apart))
        studies, counts, export = opened(tmp_path)
        assert export.kind == "MIMIC-CXR"
        assert not counts
        assert [(one.patient, one.name) for one in studies] == [(one.patient, one.name) for one in written]
        for study, one in zip(studies, written, strict=True):
            assert study.labels == one.drawn.labels
            assert {(shown.path, shown.view) for shown in study.pictures} == {(i.path, i.view) for i in one.images}
            assert isinstance(study.report, Path)
            report = report_of(study, Problems())
            assert report is not None
            assert report.text == one.drawn.text
        assert {shown.path.suffix for study in studies for shown in study.pictures} == {".jpg", ".dcm"}

    def test_studies_may_be_gone_through_again_and_nothing_is_counted_twice(self, mimic: Mimic) -> None:
        folder, written = mimic
        report_file(folder, written[0]).rename(folder / "files" / "stray.txt")
        problems = Problems()
        export = open_export(folder, problems)
        before = dict(problems.counts)
        assert list(export.studies()) == list(export.studies())
        assert problems.counts == before == {kinds.UNKNOWN_FILE: 1}

    def test_all_tables_may_be_missing(self, mimic: Mimic) -> None:
        folder, written = mimic
        for path in folder.glob("*.csv*"):
            path.unlink()
        studies, counts, _ = opened(folder)
        assert [one.name for one in studies] == [one.name for one in written]
        assert not counts
        assert all(not one.labels for one in studies)

    def test_chexpert_wins_over_negbio_and_what_they_disagree_on_is_counted(self, mimic: Mimic) -> None:
        folder, written = mimic
        before = opened(folder)[0]
        path = folder / "mimic-cxr-2.0.0-negbio.csv"
        rows = list(csv.reader(path.open()))
        place = next(i for i in range(2, len(rows[0])) if rows[1][i])
        rows[1][place] = "0.0" if rows[1][place] != "0.0" else "1.0"
        write_table(path, rows[0], rows[1:])
        studies, counts, _ = opened(folder)
        assert counts == {kinds.DIFFERING_LABELS: 1}
        assert [one.labels for one in studies] == [one.labels for one in before]
        (folder / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
        assert [one.labels for one in opened(folder)[0]] != [one.labels for one in before]
        assert written

    def test_tables_that_disagree_with_the_files_are_counted_by_what_they_name(self, mimic: Mimic) -> None:
        folder, written = mimic
        one, other = written[0], written[-1]
        rows = [
            ["99999999", "88888888", *[""] * 14],
            [one.patient[1:], other.name[1:], *[""] * 14],
            [one.patient[1:], one.name[1:], "present", *[""] * 13],
            [one.patient[1:]],
        ]
        write_table(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", ("subject_id", "study_id", *LABELS), rows)
        (folder / "mimic-cxr-2.0.0-negbio.csv").unlink()
        image = written[1].images[0]
        image.path.rename(image.path.with_stem("renamed"))
        write_table(folder / "cxr-study-list.csv.gz", ("subject_id", "study_id", "path"), [
            (one.patient[1:], one.name[1:], "../../etc/passwd"), ("99999999", "88888888", "files/a"),
        ])  # fmt: skip
        studies, counts, _ = opened(folder)
        assert len(studies) == len(written)
        assert counts == {
            kinds.STUDY_NOT_THERE: 1,
            kinds.OTHER_PATIENT: 1,
            kinds.MALFORMED_ROW: 2,
            kinds.STUDY_WITHOUT_LABELS: len(written),
            kinds.TABLE_IMAGE_NOT_THERE: 1,
            kinds.IMAGE_WITHOUT_METADATA: 1,
            kinds.OUTSIDE: 1,
        }

    def test_a_study_id_that_two_patients_have_is_left_out_for_both(self, mimic: Mimic) -> None:
        folder, written = mimic
        twin = folder / "files" / written[-1].folder / f"{written[0].name}.txt"
        twin.write_text(REPORT)
        studies, counts, _ = opened(folder)
        assert written[0].name not in [one.name for one in studies]
        assert len(studies) == len(written) - 1
        assert counts == {kinds.SHARED_STUDY: 1}

    def test_where_every_study_id_is_shared_the_error_says_to_make_them_unique(self, tmp_path: Path) -> None:
        for patient in ("p10000001", "p10000002"):
            (tmp_path / "p10" / patient).mkdir(parents=True)
            (tmp_path / "p10" / patient / "s50000001.txt").write_text(REPORT)
        with pytest.raises(ChipError, match=r"s50000001 .* make them unique"):
            opened(tmp_path)

    def test_links_are_followed_inside_the_export_and_left_out_where_they_leave_it(
        self, mimic: Mimic, tmp_path: Path
    ) -> None:
        folder, written = mimic
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "report.txt").write_text(SECRET)
        first, second = (report_file(folder, one) for one in written[:2])
        first.rename(folder / "LICENSE")
        first.symlink_to(folder / "LICENSE")
        second.unlink()
        second.symlink_to(tmp_path / "outside" / "report.txt")
        (folder / "files" / "p10" / "p10999999").symlink_to(tmp_path / "outside")
        studies, counts, _ = opened(folder)
        assert counts == {kinds.OUTSIDE: 2}
        assert [report_of(one, Problems()) is None for one in studies[:2]] == [False, True]

    def test_an_image_that_stands_as_jpg_and_as_dicom_is_one_picture(self, mimic: Mimic) -> None:
        folder, written = mimic
        image = next(one for study in written for one in study.images if one.path.suffix == ".jpg")
        image.path.with_suffix(".dcm").write_bytes(b"")
        studies, counts, _ = opened(folder)
        shown = [picture.path for study in studies for picture in study.pictures]
        assert image.path in shown
        assert image.path.with_suffix(".dcm") not in shown
        assert not counts

    @pytest.mark.parametrize(
        "damage", [b"", b"a,b\n1,2\n", b"\x1f\x8bdamaged", gzip.compress(b"x" * 999, mtime=0)[:20]]
    )
    def test_a_table_that_cannot_be_read_is_an_error_that_names_it(self, mimic: Mimic, damage: bytes) -> None:
        folder, _ = mimic
        (folder / "mimic-cxr-2.0.0-metadata.csv.gz").write_bytes(damage)
        with pytest.raises(ChipError, match=r"mimic-cxr-2\.0\.0-metadata\.csv\.gz"):
            opened(folder)

    def test_of_several_versions_of_a_table_the_newest_is_read(self, mimic: Mimic) -> None:
        folder, written = mimic
        one = written[0]
        row = (one.images[0].identity, one.name[1:], one.patient[1:], "newest")
        columns = ("dicom_id", "study_id", "subject_id", "ViewPosition")
        write_table(folder / "mimic-cxr-2.1.0-metadata.csv", columns, [row])
        assert "NEWEST" in {shown.view for shown in opened(folder)[0][0].pictures}

    def test_strict_makes_the_first_problem_an_error(self, mimic: Mimic) -> None:
        folder, _ = mimic
        (folder / "files" / "notes.doc").write_text(SECRET)
        with pytest.raises(ChipError, match=r"files that fit no layout.*notes\.doc"):
            open_export(folder, Problems(strict=True))


def plain_rows() -> Iterator[dict[str, Any]]:
    for patient, study, view in product(range(3), range(2), ("PA", "LATERAL")):
        yield {
            "patient_id": f"pat {patient}",
            "study_id": f"stu_{patient}_{study}",
            "institution_id": f"inst_{patient % 2}",
            "image": f"images/{patient}_{study}_{view}.png",
            "report": REPORT,
            "view": view.lower(),
            "label:Edema": "1.0" if study else "",
            "label:Fracture": "-1",
        }


def write_plain(folder: Path, rows: Sequence[dict[str, Any]], name: str = "export.csv") -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for row in rows:
        if str(row.get("image", "")).startswith("images/"):
            Image.new("L", (4, 4)).save(folder / row["image"])
    path = folder / name
    if ".jsonl" in name:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    else:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        write_table(path, columns, [[row.get(column, "") for column in columns] for row in rows])
    return path


class TestPlain:
    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
    @pytest.mark.parametrize("whole", [False, True])
    def test_rows_of_a_study_make_one_study_wherever_they_stand(self, tmp_path: Path, name: str, whole: bool) -> None:
        rows = list(plain_rows())
        path = write_plain(tmp_path, rows[::2] + rows[1::2], name)
        studies, counts, export = opened(path if whole else tmp_path)
        assert export.kind == ("JSONL" if "jsonl" in name else "CSV")
        assert not counts
        assert [one.name for one in studies] == [f"stu_{patient}_{study}" for patient in range(3) for study in range(2)]
        first = studies[1]
        assert (first.patient, first.institution) == ("pat 0", "inst_0")
        assert first.labels == {"Edema": 1.0, "Fracture": -1.0}
        assert [shown.view for shown in first.pictures] == ["PA", "LATERAL"]
        assert all(shown.path.is_file() for shown in first.pictures)
        assert said(first) == REPORT

    def test_studies_hold_no_text_but_know_where_it_waits(self, tmp_path: Path) -> None:
        count, length = 100, 50_000
        with (tmp_path / "a.jsonl").open("w") as lines:
            for number in range(count):
                row = {
                    "patient_id": f"p{number}",
                    "study_id": f"s{number}",
                    "report": f"FINDINGS: {number}".ljust(length),
                }
                lines.write(json.dumps(row) + "\n")
        tracemalloc.start()
        try:
            studies = opened(tmp_path)[0]
            assert tracemalloc.get_traced_memory()[1] < count * length / 4
        finally:
            tracemalloc.stop()
        assert {said(one).strip() for one in studies} == {f"FINDINGS: {number}" for number in range(count)}

    def test_a_row_that_repeats_a_report_adds_nothing_and_a_blank_one_is_none(self, tmp_path: Path) -> None:
        row = {"patient_id": "p", "study_id": "s"}
        write_plain(tmp_path, [{**row, "report": text} for text in ("\0 ", REPORT, REPORT)], "a.jsonl")
        (study,), counts, _ = opened(tmp_path)
        assert said(study) == REPORT
        assert counts == {kinds.NUL_BYTES: 1}

    def test_numbers_may_be_ids_in_json(self, tmp_path: Path) -> None:
        write_plain(tmp_path, [{"patient_id": 7, "study_id": 8, "report": REPORT}], "a.jsonl")
        ((study),) = opened(tmp_path)[0]
        assert (study.patient, study.name, study.institution) == ("7", "8", "")

    def test_a_report_may_be_a_file_that_a_row_names(self, tmp_path: Path) -> None:
        (tmp_path / "one.txt").write_text(REPORT)
        write_plain(tmp_path, [
            {"patient_id": "p", "study_id": "s", "report_path": "one.txt"},
            {"patient_id": "p", "study_id": "t", "report_path": "two.txt"},
        ])  # fmt: skip
        studies, counts, _ = opened(tmp_path)
        assert counts == {kinds.REPORT_NOT_THERE: 1}
        assert [report_of(one, Problems()) is not None for one in studies] == [True, False]

    @pytest.mark.parametrize(("change", "kind", "left"), [
        ({"patient_id": ""}, kinds.NO_NODE_NAME, 5),
        ({"study_id": "a/b"}, kinds.NO_NODE_NAME, 5),
        ({"study_id": ".."}, kinds.NO_NODE_NAME, 5),
        ({"institution_id": "a\x07b"}, kinds.NO_NODE_NAME, 5),
        ({"image": "images/none.jpg"}, kinds.IMAGE_NOT_THERE, 6),
        ({"image": "../secret.png"}, kinds.OUTSIDE, 6),
        ({"image": "/etc/hostname"}, kinds.OUTSIDE, 6),
        ({"image": "a\0b"}, kinds.OUTSIDE, 6),
        ({"report_path": "../../report.txt"}, kinds.OUTSIDE, 6),
        ({"study_id": "stu_1_0"}, kinds.SHARED_STUDY, 4),
        ({"institution_id": "inst_9"}, kinds.SHARED_PATIENT, 4),
        ({"label:Edema": "yes"}, kinds.MALFORMED_ROW, 6),
        ({"patient_id": 1.5}, kinds.MALFORMED_ROW, 5),
        ({"study_id": True}, kinds.MALFORMED_ROW, 5),
    ])  # fmt: skip
    def test_what_is_wrong_with_a_row_is_counted_and_left_out(
        self, tmp_path: Path, change: dict[str, Any], kind: str, left: int
    ) -> None:
        first, *others = [row for row in plain_rows() if row["view"] == "pa"]
        write_plain(tmp_path, [first, *others]).unlink()
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ({**first, **change}, *others)))
        studies, counts, _ = opened(tmp_path)
        assert counts == {kind: 1}
        assert len(studies) == left

    def test_what_rows_of_a_study_disagree_on_is_the_first_ones(self, tmp_path: Path) -> None:
        rows = list(plain_rows())[:2]
        rows[1] |= {"report": "FINDINGS: Another.", "label:Fracture": "1"}
        write_plain(tmp_path, rows)
        (study,), counts, _ = opened(tmp_path)
        assert counts == {kinds.DIFFERING_REPORTS: 1, kinds.DIFFERING_ROWS: 1}
        assert (said(study), study.labels["Fracture"]) == (REPORT, -1.0)

    @pytest.mark.parametrize("lines", [
        "p,s,\"open", "p,s", "p,s,x,y", '"a"b,s,x',
    ])  # fmt: skip
    def test_malformed_rows_of_a_csv_are_counted(self, tmp_path: Path, lines: str) -> None:
        (tmp_path / "a.csv").write_text(f"patient_id,study_id,report\nq,t,{SECRET}\n\n{lines}\n")
        studies, counts, _ = opened(tmp_path)
        assert (len(studies), counts) == (1, {kinds.MALFORMED_ROW: 1})

    @pytest.mark.parametrize("line", ["{", "[1]", "\"text\"", "null", "[" * 100_000])  # fmt: skip
    def test_malformed_lines_of_json_are_counted(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "a.jsonl").write_text(f'{{"patient_id": "p", "study_id": "s", "report": "x"}}\n{line}\n\n')
        studies, counts, _ = opened(tmp_path)
        assert (len(studies), counts) == (1, {kinds.MALFORMED_ROW: 1})

    @pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
    def test_a_line_without_an_end_is_one_malformed_row_and_never_in_memory_as_a_whole(
        self, tmp_path: Path, name: str
    ) -> None:
        csv_row, length = "patient_id,study_id,report\n" * name.startswith("a.csv"), 4 * LONGEST_LINE
        row = "p,s,FINDINGS: x\n" if csv_row else '{"patient_id": "p", "study_id": "s", "report": "FINDINGS: x"}\n'
        with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
            file.write(csv_row.encode())
            for _ in range(length // (1 << 20)):
                file.write(b"x" * (1 << 20))
            file.write(f"\n{row}".encode())
        problems = Problems()
        tracemalloc.start()
        try:
            studies = list(open_export(tmp_path / name, problems).studies())
            assert tracemalloc.get_traced_memory()[1] < length * 3 / 4
        finally:
            tracemalloc.stop()
        assert len(studies) == 1
        where = f"{name}, line {2 if csv_row else 1}"
        assert problems.as_json() == {kinds.MALFORMED_ROW: {"count": 1, "examples": [where]}}

    @pytest.mark.parametrize(("encoding", "counted"), [
        ("utf-8", {}), ("utf-8-sig", {}), ("utf-16", {}), ("cp1252", {kinds.OTHER_ENCODING: 1}),
    ])  # fmt: skip
    def test_a_csv_may_be_in_any_encoding_that_spreadsheets_write(
        self, tmp_path: Path, encoding: str, counted: dict[str, int]
    ) -> None:
        (tmp_path / "a.csv").write_bytes("patient_id,study_id,report\np,s,Lungenödem – groß\n".encode(encoding))
        (study,), counts, _ = opened(tmp_path)
        assert said(study) == "Lungenödem – groß"
        assert counts == counted

    def test_a_cell_may_be_longer_than_the_csv_module_allows_and_its_limit_is_left_alone(self, tmp_path: Path) -> None:
        before = csv.field_size_limit()
        write_plain(tmp_path, [{"patient_id": "p", "study_id": "s", "report": "FINDINGS: " + "clear " * 100_000}])
        (study,), counts, _ = opened(tmp_path)
        assert len(said(study)) > before == csv.field_size_limit()
        assert not counts

    @pytest.mark.parametrize("content", ["patient_id,study_id\np,s\n", "patient_id,report\np,x\n", "study_id\n", ""])
    def test_a_missing_column_is_named_with_what_was_looked_for(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "a.csv").write_text(content)
        for path in (tmp_path, tmp_path / "a.csv"):
            with pytest.raises(ChipError, match=r"a\.csv is no export .* has no column .*looked for a CSV or JSONL"):
                opened(path)

    def test_no_study_left_is_an_error_that_says_what_was_counted(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("patient_id,study_id,report\n,s,x\n")
        with pytest.raises(ChipError, match="1 ids that cannot be the name of a node"):
            opened(tmp_path)
        (tmp_path / "a.csv").write_text("patient_id,study_id,report\np,s,x\nq,s,x\n")
        with pytest.raises(ChipError, match="make the ids unique"):
            opened(tmp_path)


class TestNeither:
    def test_a_folder_that_is_no_export_says_what_was_looked_for(self, tmp_path: Path) -> None:
        (tmp_path / "p10" / "p10000032").mkdir(parents=True)
        with pytest.raises(ChipError, match=r"files/p10/p10000032/s50414267\.txt .* patient_id, study_id"):
            opened(tmp_path)

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ChipError, match="nowhere is not there"):
            opened(tmp_path / "nowhere")

    def test_several_tables_are_listed(self, tmp_path: Path) -> None:
        for name in ("a.csv", "b.jsonl"):
            write_plain(tmp_path, list(plain_rows()), name)
        with pytest.raises(ChipError, match=r"several tables \(a\.csv, b\.jsonl\)"):
            opened(tmp_path)


class TestReports:
    @pytest.mark.parametrize(("content", "kind"), [
        (b"", kinds.EMPTY_REPORT), (b" \r\n", kinds.EMPTY_REPORT), (b"\xef\xbb\xbf", kinds.EMPTY_REPORT),
        (b"FINDINGS: x\n" * 500_000, kinds.LONG_REPORT),
    ])  # fmt: skip
    def test_nothing_is_read_of_a_report_that_is_empty_or_too_long(
        self, tmp_path: Path, content: bytes, kind: str
    ) -> None:
        (tmp_path / "a.txt").write_bytes(content)
        problems = Problems()
        assert report_of(Study("p", "s", report=tmp_path / "a.txt"), problems) is None
        assert problems.as_json() == {kind: {"count": 1, "examples": ["s"]}}

    @pytest.mark.parametrize(("encode", "kind"), [
        (lambda text: text.encode(), ""), (lambda text: text.encode("utf-8-sig"), ""),
        (lambda text: text.encode("utf-16"), ""), (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), ""),
        (lambda text: text.encode("latin-1"), kinds.OTHER_ENCODING),
        (lambda text: text.encode("cp1252"), kinds.OTHER_ENCODING),
        (lambda text: text.replace("Ö", "\0Ö").encode(), kinds.NUL_BYTES),
    ])  # fmt: skip
    def test_a_report_is_read_in_whatever_encoding_it_was_written(
        self, tmp_path: Path, encode: Callable[[str], bytes], kind: str
    ) -> None:
        (tmp_path / "a.txt").write_bytes(encode("FINDINGS: Ödem.\nIMPRESSION: Ödem."))
        problems = Problems()
        report = report_of(Study("p", "s", report=tmp_path / "a.txt"), problems)
        assert report is not None
        assert report.text_of("FINDINGS") == "Ödem."
        assert list(problems.counts) == ([kind] if kind else [])

    @pytest.mark.parametrize(("text", "kind"), [
        ("", kinds.NO_REPORT), ("x" * (LONGEST_REPORT + 1), kinds.LONG_REPORT), ("All is well.", kinds.NO_SECTIONS),
        ("FINDINGS: One.\nFINDINGS: Two.", kinds.REPEATED_SECTION),
    ])  # fmt: skip
    def test_what_is_wrong_with_a_text_is_counted(self, text: str, kind: str) -> None:
        problems, file = Problems(), io.BytesIO(f"before{text}after".encode())
        report = report_of(Study("p", "s", report=Kept(file, 6, 6 + len(text))), problems)
        assert list(problems.counts) == [kind]
        assert (report is None) == (kind in (kinds.NO_REPORT, kinds.LONG_REPORT))

    def test_a_study_without_a_report_is_counted(self) -> None:
        problems = Problems()
        assert report_of(Study("p", "s"), problems) is None
        assert list(problems.counts) == [kinds.NO_REPORT]

    def test_a_report_that_is_gone_is_counted(self, tmp_path: Path) -> None:
        problems = Problems()
        assert report_of(Study("p", "s", report=tmp_path / "gone.txt"), problems) is None
        assert list(problems.counts) == [kinds.UNREADABLE_REPORT]

    def test_no_summary_and_no_error_quotes_a_report(self, tmp_path: Path) -> None:
        rows = [row for row in plain_rows() if row["view"] == "pa"]
        for number, row in enumerate(rows):
            row["report"] = SECRET if number % 2 else f"{SECRET} \xe4"
        (tmp_path / "a.csv").write_bytes(
            ("patient_id,study_id,report\n" + "".join(f"p,s{i},{row['report']}\n" for i, row in enumerate(rows))
             + f"p,{SECRET}\n").encode("latin-1")
        )  # fmt: skip
        problems = Problems()
        for study in open_export(tmp_path, problems).studies():
            report_of(study, problems)
        assert problems.counts
        assert SECRET not in json.dumps(problems.as_json())


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "a/b", "a\\b", "a\nb", "a\0b", "\udc80", "x" * 300, " a", "\u202ea"]
)
def test_what_cannot_be_the_name_of_a_node_is_none(name: str) -> None:
    assert not is_node_name(name)


def test_a_path_lies_inside_or_is_none(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    assert inside(root, "a/../b.txt") == root / "b.txt"
    assert inside(root, "../a") is None
    assert inside(root, "/etc") is None
    assert inside(root, "a\0") is None
