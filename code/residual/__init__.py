"""Small transformers to take apart: every activation can be read and changed, and every method of the notes is here.

Which module answers which question:

========================================================  ======================================
How does the model compute?                               ``model`` (begin here), ``config``, ``heads``,
                                                          ``positions``, ``cache``
Which activations are there?                              ``config.activations``
Read or change an activation while it runs                ``taps``; which heads and positions: ``where``
Rules for a tap of your own                               ``scope``
Write text                                                ``sampling``
Draw a pattern, a matrix, curves, a table                 ``plot``, ``table``
Work with ``W_Q W_Kᵀ`` without forming it                 ``factored``
Load a committed model; SmolLM2; a Hugging Face folder    ``files.checkpoints``, ``files.pretrained``
Text to tokens and back                                   ``vocabulary``, ``files.tokens``
Read a stored measurement                                 ``files.results``
What is in the weights? Do heads copy, do they compose?   ``methods.circuits``
Where do heads look on text that repeats?                 ``methods.induction``
Where do they look on any text, and what do they move?    ``methods.roles``, ``methods.role_tables``
The model as a sum over paths                             ``methods.paths``
What wrote this logit? What do the layers predict?        ``methods.attribution``, ``tuned_lens``
What makes up for a head that is taken away?              ``methods.self_repair``
Change each head, layer and position in turn              ``methods.sweeps``
What is each head worth, over all subsets of heads?       ``methods.shapley``
Estimate all of those changes from one gradient           ``methods.attribution_patching``
Change what one part reads from another; score all edges  ``methods.edges``
Look for a circuit; cut the model down to it              ``methods.acdc``, ``methods.faithfulness``
Is a story of a circuit true?                             ``methods.scrubbing``
Every circuit of a small graph, and the best ones         ``methods.exhaustive``
Put a dictionary into the model                           ``methods.splice``
Freeze everything that is not linear                      ``methods.linearise``
Remove LayerNorm from the formulas                        ``methods.fold``
Bigram counts; Kronecker products                         ``methods.bigrams``, ``methods.kron``
The corpora; the training loop                            ``training.corpus``, ``training.train``
How a committed model was trained; train it again         ``experiments.language``, ``experiments.run``
A measurement too long for a notebook                     ``experiments.measure``
Weights set by hand, not trained                          ``experiments.hand_set``
Prompts of indirect object identification                 ``experiments.ioi``
========================================================  ======================================

A module imports only from its own room and those before it: the modules of this folder, ``files``, ``methods``,
``training``, ``experiments``, ``cli``. The everyday names are also in ``residual`` itself::

    from residual import load, record

    model = load("induction").model
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from residual.factored import FactoredMatrix
from residual.model import Config, Transformer
from residual.taps import ablate, at, compose, freeze, patch, record, steer

if TYPE_CHECKING:
    from residual.files.checkpoints import load
    from residual.files.pretrained import smollm2
    from residual.files.tokens import words
    from residual.methods.loss import losses
    from residual.training.corpus import corpus
    from residual.training.train import windows

__all__ = [
    "Config",
    "FactoredMatrix",
    "Transformer",
    "ablate",
    "at",
    "compose",
    "corpus",
    "freeze",
    "load",
    "losses",
    "patch",
    "record",
    "smollm2",
    "steer",
    "windows",
    "words",
]

# Imported on first use, so that a notebook that does not use them need not run again when one of these files changes,
# and `import residual` costs little more than torch.
_LATER = {
    "corpus": "training.corpus",
    "load": "files.checkpoints",
    "losses": "methods.loss",
    "smollm2": "files.pretrained",
    "windows": "training.train",
    "words": "files.tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"residual has no {name!r}; it has {', '.join(__all__)}, and the modules in its docstring")
    return getattr(import_module(f"residual.{_LATER[name]}"), name)
