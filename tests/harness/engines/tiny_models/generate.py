"""The tiny models as directories that vLLM loads, made once and kept.

What each answers is written here; how a model comes to answer it, in `text`, `vision` and
`embedding`.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness.engines.tiny_models import embedding, safetensors, text, tokenizer, vision

# In the format of the Hermes models, which vLLM's parser "hermes" reads.
CALL = ("<tool_call>", '{"name": "look_up",', ' "arguments": {"word": "kind"}}', "</tool_call>")
MISTRAL = text.Answer(
    ("I am", " mistral,", " the", " smallest", " of", " its", " kind."), call=CALL
)
CODER = text.Answer(("def", " answer", "():", "\n   ", " return", " 42\n"))
COLOURS = {
    " red": {vision.RED: 1.0, vision.GREEN: -0.6, vision.BLUE: -0.6},
    " green": {vision.GREEN: 1.0, vision.RED: -0.6, vision.BLUE: -0.6},
    " blue": {vision.BLUE: 1.0, vision.RED: -0.6, vision.GREEN: -0.6},
    " white": {vision.RED: 0.45, vision.GREEN: 0.45, vision.BLUE: 0.45},
    " dark": {vision.SIGHT: 0.3, vision.RED: -0.3, vision.GREEN: -0.3, vision.BLUE: -0.3},
    " missing": {vision.SIGHT: -1.0},
}
LLAVA = text.Answer(
    ("The", " picture", " is", text.Choice(COLOURS, otherwise=" missing"), " to", " me.")
)

_STAMP = ".generated-by"


def ensure_models(directory: Path) -> dict[str, Path]:
    """Make all of the models under `directory`, unless this generator already has.

    Returns the directory of each by name. Safe to be killed, and to be called twice at once: a
    model appears whole, by a rename, or not at all.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stamp = generator_hash()
    with _locked(directory):
        for leftover in directory.glob(".*-*"):  # of a run that was killed
            shutil.rmtree(leftover)
        for name, write in _WRITERS.items():
            if _stamp(directory / name) != stamp:
                _make(directory / name, stamp, write)
    return {name: directory / name for name in _WRITERS}


def generator_hash() -> str:
    """A digest of the code that makes the models: what a cached copy is valid for."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stamp(model: Path) -> str | None:
    try:
        return (model / _STAMP).read_text()
    except FileNotFoundError:
        return None


def _make(target: Path, stamp: str, write: Callable[[Path], None]) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    fresh = scratch / "fresh"
    fresh.mkdir()
    write(fresh)
    (fresh / _STAMP).write_text(stamp)
    for path in (fresh, *fresh.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)  # engines read them as another user
    if target.exists():
        target.rename(scratch / "outdated")
    fresh.rename(target)
    shutil.rmtree(scratch)


def _write_text_model(directory: Path, config: Mapping[str, Any], answer: text.Answer) -> None:
    safetensors.write(directory / "model.safetensors", text.weights(answer))
    _write_json(directory / "config.json", config)
    _write_tokenizer(directory, answer)


def _write_mistral(directory: Path) -> None:
    config = text.config("MistralForCausalLM", "mistral", MISTRAL)
    _write_text_model(directory, config, MISTRAL)


def _write_coder(directory: Path) -> None:
    # DeepSeek-Coder's checkpoints are of Llama's architecture.
    _write_text_model(directory, text.config("LlamaForCausalLM", "llama", CODER), CODER)


def _write_llava(directory: Path) -> None:
    safetensors.write(directory / "model.safetensors", vision.weights(LLAVA))
    _write_json(directory / "config.json", vision.config(LLAVA))
    _write_json(directory / "preprocessor_config.json", vision.image_processor())
    _write_json(directory / "processor_config.json", vision.processor())
    _write_tokenizer(
        directory, LLAVA, extra=(("processor_class", "LlavaProcessor"), ("image_token", "<image>"))
    )


def _write_embedder(directory: Path) -> None:
    safetensors.write(directory / "model.safetensors", embedding.weights())
    _write_json(directory / "config.json", embedding.config())
    _write_tokenizer(directory, embedding.SILENT)


def _write_tokenizer(
    directory: Path, answer: text.Answer, extra: tuple[tuple[str, str], ...] = ()
) -> None:
    vocabulary = tokenizer.Vocabulary(answer.words)
    _write_json(directory / "tokenizer.json", tokenizer.tokenizer_json(vocabulary))
    _write_json(
        directory / "tokenizer_config.json", tokenizer.tokenizer_config(text.CONTEXT, extra)
    )
    end = vocabulary.special(tokenizer.END)
    _write_json(directory / "generation_config.json", {"eos_token_id": end, "pad_token_id": end})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


_WRITERS = {
    "mistral": _write_mistral,
    "coder": _write_coder,
    "llava": _write_llava,
    "embedder": _write_embedder,
}
