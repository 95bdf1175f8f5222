"""The complete processors of the families whose processors need torchvision, around the tiny tokenizer."""

from collections.abc import Callable
from typing import Any

import tiny_models
from tiny_families import PINPOINTS, SQUARE
from tiny_models import CHAT_TEMPLATE
from transformers import (
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

_WRAPPED = CHAT_TEMPLATE.replace("<image>", "<vision><image></vision>")


def _llava_onevision() -> Any:
    pictures = LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=PINPOINTS)
    tokens = {"image_token": "<image>", "video_token": "<video>"}
    return LlavaOnevisionProcessor(
        pictures,
        tiny_models.tiny_tokenizer(named=tokens),
        LlavaOnevisionVideoProcessor(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def _qwen(processor: Any, films: Any) -> Any:
    size = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    pictures = Qwen2VLImageProcessor(patch_size=14, merge_size=2, temporal_patch_size=2, size=size)
    tokens = {
        "image_token": "<image>",
        "video_token": "<video>",
        "vision_start_token": "<vision>",
        "vision_end_token": "</vision>",
    }
    return processor(pictures, tiny_models.tiny_tokenizer(named=tokens), films(), chat_template=_WRAPPED)


def _internvl() -> Any:
    tokens = {
        "start_image_token": "<vision>",
        "end_image_token": "</vision>",
        "context_image_token": "<image>",
        "video_token": "<video>",
    }
    pictures = GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=3)
    return InternVLProcessor(
        pictures,
        tiny_models.tiny_tokenizer(named=tokens),
        InternVLVideoProcessor(),
        image_seq_length=1,
        chat_template=CHAT_TEMPLATE,
    )


def _smolvlm() -> Any:
    pictures = SmolVLMImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return SmolVLMProcessor(
        pictures,
        tiny_models.tiny_tokenizer(named={"image_token": "<image>"}),
        SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=CHAT_TEMPLATE,
    )


def _pixtral(merge: int) -> Any:
    pictures = PixtralImageProcessor(size={"longest_edge": 84}, patch_size={"height": 14, "width": 14})
    return PixtralProcessor(
        pictures,
        tiny_models.tiny_tokenizer(),
        patch_size=14,
        spatial_merge_size=merge,
        image_token="<image>",
        image_break_token="<vision>",
        image_end_token="</vision>",
        chat_template=CHAT_TEMPLATE,
    )


FULL: dict[str, Callable[[], Any]] = {
    "llava_onevision": _llava_onevision,
    "qwen2_vl": lambda: _qwen(Qwen2VLProcessor, Qwen2VLVideoProcessor),
    "qwen2_5_vl": lambda: _qwen(Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
    "qwen3_vl": lambda: _qwen(Qwen3VLProcessor, Qwen3VLVideoProcessor),
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "pixtral": lambda: _pixtral(1),
    "mistral3": lambda: _pixtral(2),
}
