"""Forget two patients and one study of a third, with records that are made on the spot from your own images.

python examples/own_records.py demo/model DIRECTORY_OF_IMAGES OUT

Images are named PATIENT_STUDY.png; what is asked of them here stands for what your model was trained on.
"""

import sys
from pathlib import Path

import chip


def records_of(images: Path) -> list[chip.Record]:
    """Two questions about every image, each on its study."""
    records = []
    for image in sorted(images.glob("*.png")):
        patient, study = image.stem.split("_")
        path = (patient, study)
        records.append(chip.Record(path, "Who is this?", f"This is {patient}.", images=(image,)))
        records.append(chip.Record(path, "Which study is this?", f"It is {study} of {patient}.", images=(image,)))
    return records


def main(model: str, images: str, out: str) -> None:
    """Forget the first two patients and the first study of the third; write OUT."""
    records = records_of(Path(images))
    patients = list(dict.fromkeys(record.path[0] for record in records))
    study = next(record.path for record in records if record.path[0] == patients[2])
    forget = [*patients[:2], "/".join(study)]
    edit = chip.edit(model, records, levels=("patient", "study"), forget=forget, out=out)
    print(edit)


if __name__ == "__main__":
    main(*sys.argv[1:])
