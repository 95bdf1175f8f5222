"""What an adapter adds to a weight, by hand: the sum that is documented, and a refusal of all that may be another."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from chip.edit import Edit
from chip.edit.merge import _HARMLESS, adapter_edit
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.stored import Array

UP, DOWN, HEAD = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "lm_head"
SHAPES = {f"{UP}.weight": (5, 3), f"{UP}.bias": (5,), f"{DOWN}.weight": (3, 5), f"{HEAD}.weight": (6, 3)}
DRAW = np.random.default_rng(0)
WEIGHTS: dict[str, Array] = {name: DRAW.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def factors(rank: int = 2, module: str = UP, outputs: int = 5, inputs: int = 3) -> dict[str, Array]:
    return {
        f"base_model.model.{module}.lora_A.weight": DRAW.normal(size=(rank, inputs)).astype(np.float32),
        f"base_model.model.{module}.lora_B.weight": DRAW.normal(size=(outputs, rank)).astype(np.float32),
    }


GIVEN = factors()
FIRST, SECOND = GIVEN.values()
FIRST_NAME, SECOND_NAME = GIVEN
BIAS_NAME = SECOND_NAME.replace("weight", "bias")
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}


def base_in(directory: Path, **config: Any) -> Checkpoint:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "nothing", **config}))
    save_file(WEIGHTS, directory / "model.safetensors")
    return Checkpoint(directory)


def adapter_in(directory: Path, tensors: Mapping[str, Array], config: Any) -> Path:
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps(config))
    save_file(dict(tensors), directory / "adapter_model.safetensors")
    return directory


def edit_of(path: Path, tensors: Mapping[str, Array] = GIVEN, config: Any = None, **values: Any) -> Edit:
    """The edit of an adapter whose config is the least there can be, and these values."""
    base = base_in(path / "base", **values.pop("of_base", {}))
    return adapter_edit(adapter_in(path / "adapter", tensors, config or {**CONFIG, **values}), base)


class TestSum:
    def test_the_weight_gains_the_product_of_the_factors_times_alpha_by_rank(self, tmp_path: Path) -> None:
        found = edit_of(tmp_path, {**GIVEN, **factors(2, DOWN, 3, 5)})
        assert (found.method, found.settings) == ("merge", {"adapted": 2, "r": 2, "lora_alpha": 6})
        assert found.tensors == (f"{DOWN}.weight", f"{UP}.weight")
        assert [one.parameter for one in found.changes] == list(found.tensors)
        checkpoint = Checkpoint(tmp_path / "base")
        assert found.base == {name: checkpoint.tensors[name].digest() for name in found.tensors}
        one = found.changes[1]
        assert one.right is not None
        assert one.left.dtype == one.right.dtype == np.float32
        assert one.rows is None
        np.testing.assert_allclose(one.delta(), 3 * SECOND.astype(float) @ FIRST, rtol=1e-6)

    @pytest.mark.parametrize(
        ("values", "scale"),
        [
            ({"use_rslora": True}, 6 / 2**0.5),
            ({"use_rslora": False}, 3),
            ({"lora_alpha": 0.5}, 0.25),
            ({"alpha_pattern": {"up_proj": 1}}, 0.5),
            ({"alpha_pattern": {"mlp.up_proj": 1, "up_proj": 2}}, 0.5),
            ({"alpha_pattern": {"^" + UP: 1}}, 0.5),
            ({"alpha_pattern": {"p_proj": 1, "up": 1, "^mlp.up_proj": 1, DOWN: 1}}, 3),
            ({"r": 7, "rank_pattern": {"up_proj": 2}}, 3),
            ({"rank_pattern": {"down_proj": 7}, "alpha_pattern": None}, 3),
        ],
        ids=str,
    )
    def test_scales_and_patterns(self, tmp_path: Path, values: dict[str, Any], scale: float) -> None:
        (change,) = edit_of(tmp_path, **values).changes
        np.testing.assert_allclose(change.delta(), scale * SECOND.astype(float) @ FIRST, rtol=1e-6)

    def test_the_bias_of_the_second_factor_is_scaled_too(self, tmp_path: Path) -> None:
        bias = np.arange(5, dtype=np.float32)
        weight, gained = edit_of(tmp_path, {**GIVEN, BIAS_NAME: bias}).changes
        assert (weight.tensor, gained.tensor, gained.parameter) == (f"{UP}.weight", f"{UP}.bias", f"{UP}.bias")
        assert gained.right is None
        np.testing.assert_array_equal(gained.left, 3 * bias[:, None])

    def test_it_is_rounded_once(self, tmp_path: Path) -> None:
        """Of factors in 16 bits, what they are times a third, to the 24 bits that are kept."""
        half = {name: one.astype(ml_dtypes.bfloat16) for name, one in GIVEN.items()}
        (change,) = edit_of(tmp_path, half, lora_alpha=2 / 3).changes
        assert change.right is not None
        np.testing.assert_array_equal(change.right, half[FIRST_NAME].astype(np.float32))
        np.testing.assert_array_equal(
            change.left, (half[SECOND_NAME].astype(np.float64) * (2 / 3 / 2)).astype(np.float32)
        )

    def test_names_may_begin_at_the_module(self, tmp_path: Path) -> None:
        plain = {name.removeprefix("base_model.model."): one for name, one in GIVEN.items()}
        (change,) = edit_of(tmp_path, plain).changes
        assert change.parameter == f"{UP}.weight"

    def test_the_bases_own_weight_may_be_kept_beside_the_factors(self, tmp_path: Path) -> None:
        kept = {f"base_model.model.{HEAD}.base_layer.weight": WEIGHTS[f"{HEAD}.weight"]}
        assert edit_of(tmp_path, {**GIVEN, **kept}).tensors == (f"{UP}.weight",)

    @pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": False}, {"text_config": {"tie": 1}}], ids=str)
    def test_a_head_of_its_own(self, tmp_path: Path, config: dict[str, Any]) -> None:
        assert edit_of(tmp_path, factors(2, HEAD, 6, 3), of_base=config).tensors == (f"{HEAD}.weight",)

    def test_what_does_no_harm(self, tmp_path: Path) -> None:
        values = dict.fromkeys(sorted(_HARMLESS), "something") | {"use_dora": False, "unknown": None, "new": "none"}
        assert edit_of(tmp_path, **values).tensors == (f"{UP}.weight",)

    @pytest.mark.parametrize("begun", [True, False, None, "gaussian", "orthogonal", "eva"])
    def test_beginnings_that_leave_the_base_alone(self, tmp_path: Path, begun: object) -> None:
        assert edit_of(tmp_path, init_lora_weights=begun).tensors == (f"{UP}.weight",)


class TestRefused:
    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"peft_type": "IA3"}, "is of the kind 'IA3'"),
            ({"use_dora": True}, "uses use_dora"),
            ({"something_new": [1]}, "uses something_new"),
            ({"init_lora_weights": "olora"}, "was begun by olora"),
            ({"rank_pattern": {"(a+)+b": 2}}, "holds a rank_pattern that is more than names"),
            ({"alpha_pattern": ["up_proj"]}, "holds a alpha_pattern that is more than names"),
            *(
                (values, "does not say what r and lora_alpha are")
                for wrong in (0, -1, True, "2", None, 2**63, float("nan"), [2])
                for values in (
                    {"r": wrong},
                    {"lora_alpha": wrong},
                    {"rank_pattern": {"down_proj": wrong}},
                    {"alpha_pattern": {"down_proj": wrong}},
                )
            ),
        ],
        ids=str,
    )
    def test_configs(self, tmp_path: Path, values: dict[str, Any], said: str) -> None:
        with pytest.raises(ChipError, match=said):
            edit_of(tmp_path, **values)

    def test_configs_without_a_word_of_rank_or_scale_or_kind(self, tmp_path: Path) -> None:
        for number, name in enumerate(CONFIG):
            (tmp_path / str(number)).mkdir()
            with pytest.raises(ChipError, match="does not say what r" if number else "is of the kind None"):
                edit_of(tmp_path / str(number), config={key: value for key, value in CONFIG.items() if key != name})
        with pytest.raises(ChipError, match="is of the kind None"):
            edit_of(tmp_path, config=["LORA"])

    @pytest.mark.parametrize(
        ("tensors", "said"),
        [
            ({FIRST_NAME: FIRST}, "holds no factors of rank 2 for"),
            ({SECOND_NAME: SECOND}, "holds no factors of rank 2 for"),
            (factors(3), "holds no factors of rank 2 for"),
            ({**GIVEN, FIRST_NAME: FIRST[:1]}, "holds no factors of rank 2 for"),
            ({**GIVEN, SECOND_NAME: SECOND[:, :1]}, "holds no factors of rank 2 for"),
            ({**GIVEN, SECOND_NAME: SECOND[:2, 0]}, "holds no factors of rank 2 for"),
            ({**GIVEN, FIRST_NAME: FIRST[:, 0], SECOND_NAME: SECOND[:2, 0]}, "holds no factors of rank 2 for"),
            ({**GIVEN, FIRST_NAME: FIRST[..., None]}, "holds no factors of rank 2 for"),
            (factors(2, UP, 6, 3), f"stores no tensor for {UP}.weight"),
            (factors(2, UP, 5, 4), f"stores no tensor for {UP}.weight"),
            ({**GIVEN, BIAS_NAME: SECOND[:4, 0]}, f"stores no tensor for {UP}.bias"),
            ({**GIVEN, FIRST_NAME: FIRST.astype(np.int64)}, "I64, which chip cannot merge"),
            ({**GIVEN, f"base_model.model.{UP}.lora_magnitude_vector": FIRST}, "F32, which chip cannot merge"),
            ({f"{HEAD}.base_layer.weight": WEIGHTS[f"{HEAD}.weight"]}, "holds no factors, so there is nothing"),
            ({**GIVEN, f"{HEAD}.base_layer.weight": 2 * WEIGHTS[f"{HEAD}.weight"]}, "brings another lm_head.weight"),
            ({**GIVEN, SECOND_NAME: SECOND * np.inf}, "are not finite once they are scaled"),
            ({**GIVEN, FIRST_NAME: FIRST * np.nan}, "are not finite once they are scaled"),
        ],
        ids=range(17),
    )
    def test_tensors(self, tmp_path: Path, tensors: dict[str, Array], said: str) -> None:
        with pytest.raises(ChipError, match=said):
            edit_of(tmp_path, tensors)

    @pytest.mark.filterwarnings("error")
    def test_what_is_too_large_once_it_is_scaled(self, tmp_path: Path) -> None:
        huge = {**GIVEN, SECOND_NAME: SECOND * np.float32(1e30)}
        with pytest.raises(ChipError, match="are not finite once they are scaled"):
            edit_of(tmp_path, huge, lora_alpha=1e18)

    @pytest.mark.parametrize("config", [{"tie_word_embeddings": True}, {"text_config": {"tie_word_embeddings": True}}])
    @pytest.mark.parametrize("head", [HEAD, f"language_model.{HEAD}"])
    def test_a_head_that_is_the_embeddings_too(self, tmp_path: Path, config: dict[str, Any], head: str) -> None:
        with pytest.raises(ChipError, match="which is the base's embeddings too"):
            edit_of(tmp_path, factors(2, head, 6, 3), of_base=config)

    def test_half_of_an_adapter(self, tmp_path: Path) -> None:
        edit_of(tmp_path)
        for name, said in (("model.safetensors", "save the adapter again"), ("config.json", "so it is no adapter")):
            (tmp_path / "adapter" / f"adapter_{name}").unlink()
            with pytest.raises(ChipError, match=said):
                adapter_edit(tmp_path / "adapter", Checkpoint(tmp_path / "base"))
