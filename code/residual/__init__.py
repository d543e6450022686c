"""Small transformers to take apart: one model file, taps, factored weights, a corpus, a training loop."""

from residual.factored import FactoredMatrix
from residual.model import Config, Transformer

__all__ = ["Config", "FactoredMatrix", "Transformer"]
