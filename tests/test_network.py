"""No verb uses the network: all of them run where it is cut off, and none so much as tries."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import network
import pytest
import typer
from chip.hospital import HospitalPlan
from mimic import write_mimic
from network import NetworkIsForbiddenError
from peft import LoraConfig, get_peft_model
from tiny_records import write_hospital
from transformers import AutoModelForCausalLM

from chip.cli.app import app

ONE_AFTER_THE_OTHER = """
import json, sys
from chip.cli import main
ended = {}
for command in json.load(sys.stdin):
    sys.argv = ["chip", *command]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    ended[" ".join(command)] = code
json.dump(ended, open("ended.json", "w"))
"""
"""Every command in one process, since importing torch for each would take most of the time."""

APART = ["unshare", "--map-root-user", "--net"]
"""A network of its own without any way out, for what no hook in Python sees; where the system lets us have one."""


def verbs(group: Any = None, before: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every verb of the command line, taken from the application itself."""
    group = typer.main.get_command(app) if group is None else group
    found: set[tuple[str, ...]] = set()
    for name, command in group.commands.items():
        found |= verbs(command, (*before, name)) if hasattr(command, "commands") else {(*before, name)}
    return found


@pytest.fixture(scope="module")
def place(llama_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the verbs need to begin with."""
    place = tmp_path_factory.mktemp("unplugged")
    shutil.copytree(llama_directory, place / "model")
    write_hospital(place / "data", images=False)
    (place / "requests.jsonl").write_text('{"forget": "patient_0", "settings": {"method": "chip"}}\n')
    factors = LoraConfig(r=2, target_modules=["down_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(place / "model"), factors).save_pretrained(place / "adapter")
    # A hospital that lacks its records alone: two minutes of training are no part of this.
    (place / "demo").mkdir()
    (place / "demo" / "hospital.json").write_text(json.dumps({"plan": asdict(HospitalPlan())}))
    shutil.copytree(llama_directory, place / "demo" / "model")
    write_mimic(place / "export", patients=4, studies=2, dicom=0)
    return place


def commands(data: str = "data") -> list[list[str]]:
    """One run of every verb, each on what those before it left."""
    given = f"--data {data} --device cpu --json"
    first = "--forget patient_1 --method oblique --no-tune --no-verify --edit-out one.edit.safetensors"
    few = "--sizes 1 --min-siblings 0"
    little = "--methods chip_--no-tune --attacks none --verify-records 8 --trials 1"
    lines = (
        f"inspect model --data {data}",
        f"concepts {data} --forget patient_1",
        f"collect model --out kept.statistics.safetensors --workers 0 {given}",
        f"edit model --out edited {first} {given}",
        f"batch model requests.jsonl --out-dir batch {given}",
        "apply model one.edit.safetensors --out applied",
        "verify applied --against model --edit one.edit.safetensors",
        "revert applied one.edit.safetensors --base model --out reverted",
        "recover applied",
        "export one.edit.safetensors --peft exported",
        "merge adapter --base model --out merged",
        f"audit model edited --forget patient_1 --attacks prefill --out report {given}",
        "demo demo",
        f"medforget build export --out built --institutions 2 {few} --image-size 56 --parquet",
        "medforget check built",
        "medforget unpack built --out unpacked",
        f"medforget split {data} --level patient {few}",
        f"medforget finetune model {data} --out tuned --epochs 1 --device cpu",
        f"medforget run model {data} --out results --device cpu {little}",
    )
    return [[part.replace("_--", " --") for part in line.split()] for line in lines]


def surroundings(place: Path) -> dict[str, str]:
    """A process that watches itself and its children, and that nothing but chip tells to stay off the network."""
    shutil.copy(network.__file__, place / "sitecustomize.py")
    told = {"PYTHONPATH": str(place), network.LOG: str(place / "attempts"), "OMP_NUM_THREADS": "1"}
    quiet = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    return {name: value for name, value in os.environ.items() if name not in quiet} | told


def test_every_verb_is_run_here() -> None:
    run = {tuple(command[:2]) if command[0] == "medforget" else (command[0],) for command in commands()}
    assert run == verbs(), "a new verb needs a command in this file"


def test_no_verb_uses_the_network_or_tries_to(place: Path) -> None:
    allowed = subprocess.run([*APART, "true"], capture_output=True, check=False).returncode == 0
    ran = subprocess.run(
        [*(APART if allowed else []), sys.executable, "-c", ONE_AFTER_THE_OTHER],
        input=json.dumps(commands()),
        cwd=place,
        env=surroundings(place),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (place / "ended.json").is_file(), ran.stderr
    ended = json.loads((place / "ended.json").read_text())
    assert set(ended.values()) == {0}, f"{ended}\n{ran.stdout}\n{ran.stderr}"
    assert not (place / "attempts").exists(), (place / "attempts").read_text()


def test_a_process_that_tries_is_found_out(place: Path) -> None:
    script = "import socket\ntry: socket.create_connection(('example.org', 80), timeout=1)\nexcept BaseException: pass"
    subprocess.run([sys.executable, "-c", script], env=surroundings(place), check=True)
    assert (place / "attempts").read_text() == "socket.getaddrinfo example.org\n"
    (place / "attempts").unlink()


@pytest.mark.parametrize("host", ["127.example.com", "127.0.0.1.example.com", "192.0.2.1", "2001:db8::1"])
def test_what_is_only_called_like_this_machine_is_beyond_it(host: str) -> None:
    assert network._reached("socket.getaddrinfo", (host, 80)) == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", b"localhost", None])
def test_this_machine_is_not_beyond_it(host: object) -> None:
    assert network._reached("socket.getaddrinfo", (host, 80)) is None


def test_the_tests_themselves_may_not_use_it() -> None:
    with pytest.raises(NetworkIsForbiddenError), socket.socket() as one:
        one.connect(("192.0.2.1", 80))
