"""Let vLLM look at the classes of the models once, in the build, and keep what it found.

It starts a process of its own for each class that it does not know yet: 10 s at every start.
"""

from vllm.model_executor.models.registry import ModelRegistry  # type: ignore[import-not-found]

ARCHITECTURES = (
    "MistralForCausalLM",
    "LlamaForCausalLM",
    "LlavaForConditionalGeneration",
)

if __name__ == "__main__":
    for architecture in ARCHITECTURES:
        if ModelRegistry.models[architecture].inspect_model_cls() is None:
            raise SystemExit(f"vLLM could not inspect {architecture}")
