"""Reading and dividing synthetic reports: seconds and memory, at ten thousand and at a hundred thousand.

    python benchmarks/reports.py measure [--reports 10000 --reports 100000]

Reports are drawn by seed in the shapes of real ones (tests/mimic_reports.py) and written in MIMIC-CXR's layout, five to
a patient, with the tables of labels and of studies. Then a process of its own, with one thread, opens the export, holds
the tables against the files, and reads and divides every report. Memory is its largest resident set.
Writes `benchmarks/results/reports.json` and `.md`.
"""

import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
STUDIES = 5
"""Of a patient."""
sys.path.append(str(HERE.parent / "tests"))

app = typer.Typer()


@app.command()
def measure(reports: Annotated[list[int] | None, typer.Option(help="How many; may be repeated.")] = None) -> None:
    """Write exports, read them, and write the results."""
    found = []
    for count in sorted(reports or [10_000, 100_000]):
        with tempfile.TemporaryDirectory() as place:
            size = write_export(Path(place) / "export", count)
            found.append({"reports": count, "bytes": size, **_timed(Path(place))})
        print(found[-1], flush=True)  # noqa: T201
    machine = f"{platform.machine()}, {os.cpu_count()} processors, 1 thread, other work beside it"
    kept = {"machine": machine, "rows": found}
    (RESULTS / "reports.json").write_text(json.dumps(kept, indent=1) + "\n")
    (RESULTS / "reports.md").write_text(_table(kept))


@app.command()
def read(export: Path) -> None:
    """Read and divide every report of an export; print what it took, as JSON. `measure` calls it."""
    from chip.medforget.export import Problems
    from chip.medforget.reading import open_export
    from chip.medforget.reports import report_of

    began, problems = time.perf_counter(), Problems()
    opened = open_export(export, problems)
    indexed = time.perf_counter()
    sections = sum(len(report.sections) for study in opened.studies() if (report := report_of(study, problems)))
    took = {"wall": time.perf_counter() - began, "indexing": indexed - began}
    print(json.dumps({**took, "sections": sections, "problems": problems.counts}))  # noqa: T201


def write_export(folder: Path, count: int) -> int:
    """Write so many reports with their tables; the bytes that the reports take."""
    from mimic import label_cells, write_table
    from mimic_reports import LABELS, draw_report

    rng, size, rows, files = random.Random("reports"), 0, [], []
    for number in range(count):
        digits = 10_000_000 + 97 * (number // STUDIES)
        patient, study = str(digits), str(50_000_000 + 7 * number)
        drawn = draw_report(rng)
        path = folder / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        size += path.write_bytes(drawn.text.encode())
        rows.append([patient, study, *label_cells(drawn.labels)])
        files.append([patient, study, path.relative_to(folder)])
    for labeller in ("chexpert", "negbio"):
        write_table(folder / f"mimic-cxr-2.0.0-{labeller}.csv.gz", ("subject_id", "study_id", *LABELS), rows)
    write_table(folder / "cxr-study-list.csv.gz", ("subject_id", "study_id", "path"), files)
    return size


def _timed(place: Path) -> dict[str, Any]:
    from chip.medforget.attempts import run

    ran = run([sys.executable, str(Path(__file__).resolve()), "read", str(place / "export")], place / "work")
    return {**ran.said, "seconds": ran.seconds, "memory": ran.memory}


def _table(kept: dict[str, Any]) -> str:
    lines = [
        "# Reading and dividing reports",
        "",
        "`python benchmarks/reports.py measure`; see there what is what. Seconds of the clock from opening the export",
        "to the last report, of which indexing, and of the processor, all of the process; memory is its largest",
        "resident set.",
        "",
        "| reports | MB of text | sections found | seconds | of which indexing | processor's seconds | memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in kept["rows"]:
        lines.append(
            f"| {row['reports']:,} | {row['bytes'] / 1e6:.0f} | {row['sections']:,} | {row['wall']:.1f} | "
            f"{row['indexing']:.1f} | {row['seconds']:.1f} | {row['memory']:.0f} MiB |"
        )
    problems = "; ".join(f"{count:,} {kind}" for kind, count in kept["rows"][-1]["problems"].items())
    return "\n".join([*lines, "", f"Counted in the last: {problems}.", "", f"On {kept['machine']}.", ""])


if __name__ == "__main__":
    app()
