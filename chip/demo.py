"""The demo: the example hospital with a `chip.toml`, ready for `chip edit model --forget patient_123`."""

from pathlib import Path

from chip.hospital import HospitalPlan, build_hospital

PATIENT = "patient_123"
_CONFIG = """# Defaults for chip's flags in this directory.
data = "records"
"""


def build_demo(directory: Path, seed: int = 0) -> None:
    """Leave `model/`, `records/` and `chip.toml` in a directory; what is there already is kept."""
    build_hospital(directory, HospitalPlan(seed=seed))
    config = directory / "chip.toml"
    if not config.exists():
        config.write_text(_CONFIG, encoding="utf-8")
