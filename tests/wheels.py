"""Builds chip as a release would, looks into it, installs it where nothing else is, and edits a model with it.

    python tests/wheels.py build/dist

No test of pytest's: it needs the package index, a minute or two, and an environment of its own.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "chip": "chip",
    "kernels": "chip/kernels",
    "examples/hospital": "chip/hospital",
    "examples/medmcqa": "chip/medmcqa",
}
"""Folders of the repository, and where a wheel installs what is in them: code, schemas, templates and all."""
USES = (
    ("chip", "--version"),
    ("chip", "--help"),
    ("chip", "demo", "--help"),
    ("python", "-c", "import chip, chip.kernels; assert 'site-packages' in chip.kernels.__file__"),
)
TINY = """
from pathlib import Path
import tiny_models, tiny_records
tiny_models.llava(Path("model"))
tiny_records.write_hospital(Path("data"))
"""
EDIT = ("edit", "model", "--data", "data", "--forget", "patient_1", "--no-tune", "--device", "cpu")


class WrongReleaseError(Exception):
    """A release that must not leave the house."""


def build(out: Path) -> tuple[Path, Path]:
    """The source archive, and the wheel that is made of it and of nothing else."""
    shutil.rmtree(out, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    (archive,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return archive, wheel


def check_contents(archive: Path, wheel: Path) -> None:
    """All of chip and nothing else is in the wheel; whoever has the archive can test what they build."""
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        (notes,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(opened.read(notes), validate=True)
    tops = {name.split("/")[0] for name in names}
    demand(tops == {"chip", notes.split("/")[0]}, f"the wheel has more at its top than chip: {sorted(tops)}")
    sources = {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in SOURCES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md")
    }
    demand(not (missing := sorted(sources - names)), f"the wheel lacks {missing}")
    demand(
        not (tests := sorted(name for name in names if Path(name).name.startswith(("test_", "conftest")))),
        f"tests in the wheel: {tests}",
    )
    demand(metadata.description_content_type == "text/markdown", "the description is no Markdown")
    demand(bool(metadata.license_expression and metadata.summary), "no licence or no summary")
    with tarfile.open(archive) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    needed = {"README.md", "LICENSE", "pyproject.toml", "kernels/sums.py", "examples/hospital/building.py"}
    demand(not (missing := sorted(needed - inside)), f"the source archive lacks {missing}")


def use(wheel: Path, place: Path) -> None:
    """Install the wheel alone, with the versions of constraints.txt, and do with it what its user does."""
    venv.create(place / "env", with_pip=True)
    tools = place / "env" / "bin"
    run(tools / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    for program, *arguments in USES:
        run(tools / program, *arguments, cwd=place)
    run(tools / "python", "-c", TINY, cwd=place, PYTHONPATH=str(ROOT / "tests"))
    run(tools / "chip", *EDIT, cwd=place)
    demand((place / "model-forgotten" / "config.json").is_file(), "the edit wrote no checkpoint")


def run(*command: Any, cwd: Path = ROOT, **environment: str) -> None:
    """Run a command to its end; says what it said where it fails."""
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        list(map(str, command)), cwd=cwd, env=alone | environment, capture_output=True, text=True, check=False
    )
    demand(ran.returncode == 0, f"{' '.join(map(str, command))} failed\n{ran.stdout}{ran.stderr}")


def demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise WrongReleaseError(otherwise)


def main(say: Callable[[str], Any] = sys.stdout.write) -> None:
    archive, wheel = build(Path(sys.argv[1]).resolve())
    check_contents(archive, wheel)
    with TemporaryDirectory(prefix="wheels") as place:
        use(wheel, Path(place))
    say(f"{archive.name} and {wheel.name} are whole, and work where they are installed alone\n")


if __name__ == "__main__":
    main()
