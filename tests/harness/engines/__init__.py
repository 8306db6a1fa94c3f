"""The engines that the harness runs in place of, or as, vLLM: `sim` and `vllm_cpu`.

`engine_images` builds them, `tiny_models` makes what the real one serves, `gpu_lock` reads whether
two were ever alive at once. Nothing of the product imports this, and nothing here imports the
product.
"""
