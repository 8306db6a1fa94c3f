"""The eye of the tiny LLaVA: a CLIP tower and a projector that tell the text model the colours.

The tower averages red, green and blue over each patch and does nothing else (its layers add
zero); the projector writes the three as features of a picture token. Pure: data only.
"""

from typing import Any

from tests.harness.engines.tiny_models import text
from tests.harness.engines.tiny_models.safetensors import Tensor, ones
from tests.harness.engines.tiny_models.tokenizer import IMAGE, Vocabulary

HIDDEN = 32
HEADS = 2
LAYERS = 2  # LLaVA takes the output of the last but one
INTERMEDIATE = 32
IMAGE_SIZE = 28  # pixels
PATCH = 14  # pixels
PATCHES = (IMAGE_SIZE // PATCH) ** 2

RED, GREEN, BLUE, SIGHT = range(4)  # the features; SIGHT: there is a picture at all
PURE = 3.2  # what the tower's first norm makes of a channel that is full while the others are zero


def weights(answer: text.Answer) -> dict[str, Tensor]:
    """The checkpoint of the whole LLaVA, in the names that vLLM's loader takes."""
    tensors = text.weights(answer, prefix="language_model.", head="language_model.lm_head.weight")
    tensors.update(_tower())
    tensors.update(_projector())
    return tensors


def _tower() -> dict[str, Tensor]:
    prefix = "vision_tower.vision_model"
    patch = Tensor((HIDDEN, 3, PATCH, PATCH))
    for channel in range(3):
        for row in range(PATCH):
            for column in range(PATCH):
                patch[channel, channel, row, column] = 1 / PATCH**2
    position = Tensor((PATCHES + 1, HIDDEN))
    for i in range(PATCHES + 1):
        # A fixed contrast, so that the norm that follows does not blow up a dark picture's noise.
        position[i, 3], position[i, 4] = 1.0, -1.0
    tensors = {
        f"{prefix}.embeddings.class_embedding": Tensor((HIDDEN,)),
        f"{prefix}.embeddings.patch_embedding.weight": patch,
        f"{prefix}.embeddings.position_embedding.weight": position,
        **_norm(f"{prefix}.pre_layrnorm"),  # spelt so in CLIP's checkpoints
        **_norm(f"{prefix}.post_layernorm"),
    }
    for i in range(LAYERS):
        layer = f"{prefix}.encoder.layers.{i}"
        tensors.update(_norm(f"{layer}.layer_norm1"))
        tensors.update(_norm(f"{layer}.layer_norm2"))
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors.update(_linear(f"{layer}.self_attn.{name}", HIDDEN, HIDDEN))
        tensors.update(_linear(f"{layer}.mlp.fc1", INTERMEDIATE, HIDDEN))
        tensors.update(_linear(f"{layer}.mlp.fc2", HIDDEN, INTERMEDIATE))
    return tensors


def _projector() -> dict[str, Tensor]:
    first = _linear("multi_modal_projector.linear_1", text.HIDDEN, HIDDEN)
    second = _linear("multi_modal_projector.linear_2", text.HIDDEN, text.HIDDEN)
    for channel in (RED, GREEN, BLUE):
        first["multi_modal_projector.linear_1.weight"][channel, channel] = 1 / PURE
        second["multi_modal_projector.linear_2.weight"][text.FEATURES + channel, channel] = 1.0
    bias = second["multi_modal_projector.linear_2.bias"]
    for dimension in (text.ANY, text.PICTURE, text.START, text.FEATURES + SIGHT):
        bias[dimension,] = 1.0
    return {**first, **second}


def _linear(name: str, rows: int, columns: int) -> dict[str, Tensor]:
    return {f"{name}.weight": Tensor((rows, columns)), f"{name}.bias": Tensor((rows,))}


def _norm(name: str) -> dict[str, Tensor]:
    return {f"{name}.weight": ones(HIDDEN), f"{name}.bias": Tensor((HIDDEN,))}


def config(answer: text.Answer) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": Vocabulary.special(IMAGE),
        "image_seq_length": PATCHES,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "text_config": text.config("LlamaForCausalLM", "llama", answer),
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH,
            "projection_dim": HIDDEN,
            "num_channels": 3,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
    }


def image_processor() -> dict[str, Any]:
    """The content of preprocessor_config.json: pixels become 0 … 1, nothing is subtracted."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": side,
        "resample": 2,
        "do_center_crop": False,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
    }


def processor() -> dict[str, Any]:
    """The content of processor_config.json."""
    return {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "patch_size": PATCH,
        "num_additional_image_tokens": 1,  # the class token, which "default" leaves out again
        "vision_feature_select_strategy": "default",
    }
