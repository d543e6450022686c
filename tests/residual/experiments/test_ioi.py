"""IOI prompts: each word one token at its place, the three versions differ where they should, SmolLM2 solves them."""

from __future__ import annotations

import pytest
import torch

from residual.experiments.ioi import LAYOUT, NAMES, ioi_prompts


def test_every_word_is_at_its_place(model):
    prompts = ioi_prompts(model.vocabulary, 40, seed=3)
    assert prompts.clean.shape == (40, len(LAYOUT)) and (prompts.clean[:, 0] == 0).all()
    for i, row in enumerate(prompts.clean):
        words = model.vocabulary.words(row)
        assert "".join(words[1:]) == prompts.texts[i]
        assert words[3] == " and" and words[7] == " the" and words[9] == "," and words[12] == " a"
        place = {role: int(at[i]) for role, at in prompts.positions.items()}
        assert row[place["io"]] == prompts.io[i] and words[place["io"]].strip() in NAMES
        assert row[place["s1"]] == row[place["s2"]] == prompts.s[i] != prompts.io[i]
        assert place["end"] == prompts.end == len(row) - 1 and words[-1] == " to"
        assert (place["io"] < place["s1"]) == bool(prompts.io_first[i]) == (i % 2 == 0)


def test_the_corrupted_prompts_differ_in_names_alone(model):
    prompts = ioi_prompts(model.vocabulary, 30)
    differs = (prompts.clean != prompts.swapped).nonzero()
    assert differs[:, 1].tolist() == [10] * 30
    assert torch.equal(prompts.swapped[:, 10], prompts.io)
    assert (prompts.clean != prompts.abc).nonzero()[:, 1].reshape(30, 3).tolist() == [[2, 4, 10]] * 30
    names = torch.cat([prompts.abc[:, [2, 4, 10]], prompts.io[:, None], prompts.s[:, None]], dim=1)
    assert all(len(set(row.tolist())) == 5 for row in names)


def test_the_same_seed_the_same_prompts_and_one_order(model):
    one, two = (ioi_prompts(model.vocabulary, 5, order="s first", seed=1) for _ in range(2))
    assert torch.equal(one.abc, two.abc) and not one.io_first.any()
    assert not torch.equal(one.clean, ioi_prompts(model.vocabulary, 5, order="s first", seed=2).clean)


@torch.no_grad()
def test_smollm2_solves_them_and_follows_the_swap(model):
    prompts = ioi_prompts(model.vocabulary, 12)
    clean, swapped = (model(tokens)[:, -1] for tokens in (prompts.clean, prompts.swapped))
    assert (prompts.each(clean) > 0).float().mean() > 0.9
    assert prompts.logit_diff(clean) > 3 and prompts.logit_diff(swapped) < -3
    assert prompts.logit_diff(clean) == prompts.each(clean).mean()


def test_bad_input_is_a_sentence(model):
    with pytest.raises(ValueError, match="this model has no vocabulary"):
        ioi_prompts(None, 3)
    with pytest.raises(ValueError, match="n is 0; ask for at least one"):
        ioi_prompts(model.vocabulary, 0)
    with pytest.raises(ValueError, match="five names or more"):
        ioi_prompts(model.vocabulary, 3, names=["Mary", "John"])
    with pytest.raises(ValueError, match="not 15: one of its words"):
        ioi_prompts(model.vocabulary, 3, names=["Maximiliana", "Theodorakis", "Brandonis", "Wilhelmina", "Zbigniew"])
    with pytest.raises(ValueError, match="order is 'abba'"):
        ioi_prompts(model.vocabulary, 3, order="abba")
