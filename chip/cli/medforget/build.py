"""`chip medforget build`: records, pictures and forget sets from a hospital's own export."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.medforget.options import Disjoint, MinSiblings, Sizes, Strict
from chip.cli.options import Json, Lexicon, Seed


def build(
    export: Annotated[
        Path,
        typer.Argument(
            help="Folder of MIMIC-CXR (JPG or DICOM), or a CSV or JSONL file with its images beside it.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Data directory to write.", show_default=False)],
    institutions: Annotated[
        int, typer.Option(help="Institutions that patients are dealt to where the export names none.")
    ] = 8,
    patients: Annotated[int, typer.Option(help="Patients at most, drawn by seed; 0 for all.")] = 64,
    min_studies: Annotated[int, typer.Option(help="Studies that a patient must have.")] = 2,
    max_studies: Annotated[int, typer.Option(help="Studies of a patient that are asked about.")] = 4,
    max_pictures: Annotated[int, typer.Option(help="Images of a study, frontal ones first.")] = 2,
    image_size: Annotated[int, typer.Option(help="Pixels that an image's longer side has at most.")] = 512,
    options: Annotated[int, typer.Option(help="Options that a classification offers.")] = 4,
    sizes: Sizes = "0.1",
    disjoint: Disjoint = False,
    min_siblings: MinSiblings = 2,
    lexicon: Lexicon = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write the published parquet layout.")] = False,
    strict: Strict = False,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a benchmark that is there.")] = False,
    json: Json = False,
) -> None:
    """Build the benchmark from an export: questions at four levels, in wordings that never meet, and forget sets.

    What is wrong with the export is counted, named and left out. Keep what it writes as you keep the export.
    """
    from chip.cli.console import Printer
    from chip.cli.medforget.view import show_built
    from chip.medforget.charting import BuildSettings
    from chip.medforget.splits import read_sizes
    from chip.workflow.medforget.build import BuildRequest, carry_out_build

    printer = Printer(json)
    settings = BuildSettings(
        institutions=institutions,
        patients=patients,
        fewest=min_studies,
        most=max_studies,
        pictures=max_pictures,
        side=image_size,
        options=options,
        seed=seed,
    )
    request = BuildRequest(
        export=export,
        out=out,
        settings=settings,
        sizes=read_sizes(sizes, disjoint=disjoint, siblings=min_siblings),
        lexicon=lexicon,
        parquet=parquet,
        strict=strict,
        force=force,
    )
    done = carry_out_build(request, track=printer.track)
    show_built(printer, done)
    printer.result({"out": done.out, "manifest": done.built.manifest, "problems": done.problems})
