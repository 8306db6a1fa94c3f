"""Four models of a few hundred kilobytes that the real vLLM loads and that answer sense.

Their weights are written down, not trained and not random: `text`, `vision` and `embedding` say
how. What an engine is, and how one is started, lives in the packages beside this one.
"""

from tests.harness.engines.tiny_models.generate import ensure_models

__all__ = ["ensure_models"]
