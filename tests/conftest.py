"""What the tests share: a private salt, tiny checkpoints and a tiny hospital that are built once."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"

import network
import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when it is imported, which nothing has done yet: without a GPU its kernels are interpreted. Only
    # CHIP_KERNELS=triton runs them, so that all other tests run what they would without it.
    os.environ["TRITON_INTERPRET"] = "1"

import tiny_models
from attacking import taught_in_part
from hypothesis import Phase, settings
from skips import Skips
from taught import Ward, build_ward
from tiny_records import write_hospital
from transformers.utils import logging

from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model

network.forbid()
torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()
settings.register_profile("chip", deadline=None, derandomize=True, max_examples=40, database=None)
settings.register_profile("mutation", settings.get_profile("chip"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("CHIP_EXAMPLES", "chip"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "hospital: trains the example hospital once, which takes about two minutes")
    if not hasattr(config, "workerinput"):  # one process hears of all tests, wherever they run
        config.pluginmanager.register(Skips())


@pytest.fixture(autouse=True)
def private_surroundings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own salt, settings or configuration."""
    for name in [name for name in os.environ if name.startswith("CHIP_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("CHIP_SALT_FILE", str(home / "salt"))


@pytest.fixture(scope="session")
def hospital_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with two institutions of two patients of two studies; not to be written to."""
    return write_hospital(tmp_path_factory.mktemp("hospital") / "records")


@pytest.fixture(scope="session")
def text_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same hospital without images."""
    return write_hospital(tmp_path_factory.mktemp("hospital-text") / "records", images=False)


@pytest.fixture(scope="session")
def llava_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA in float32; not to be written to."""
    return tiny_models.llava(tmp_path_factory.mktemp("llava") / "model")


@pytest.fixture(scope="session")
def llava(llava_directory: Path) -> LoadedModel:
    """The tiny LLaVA, loaded; tests leave its weights as they are."""
    return load_model(Checkpoint(llava_directory), "cpu")


@pytest.fixture(scope="session")
def llama_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text-only Llama; not to be written to."""
    return tiny_models.text_model(tmp_path_factory.mktemp("llama") / "model", "llama")


@pytest.fixture(scope="session")
def llama(llama_directory: Path) -> LoadedModel:
    """The tiny Llama, loaded."""
    return load_model(Checkpoint(llama_directory), "cpu")


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA whose second moments are worth sketching; not to be written to."""
    return tiny_models.llava(tmp_path_factory.mktemp("wide") / "model", hidden_size=160, intermediate_size=320)


@pytest.fixture(scope="session")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    """Records that tiny models know by heart, all of them, all but the target, or half of the target."""
    return build_ward(tmp_path_factory.mktemp("ward"))


@pytest.fixture(scope="session")
def taught(llava_directory: Path, hospital_data: Path) -> dict[str, LoadedModel]:
    """Tiny LLaVAs that know all of patient_0, half of it, and none; tests leave their weights as they are."""
    return taught_in_part(llava_directory, hospital_data)
