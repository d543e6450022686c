"""Roles of heads and value-weighted patterns, against loops over recorded patterns, and on hand-set heads."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from residual import Config, Transformer, record
from residual.experiments import hand_set
from residual.files.tokens import words
from residual.methods import induction, role_tables, roles

theorem = settings(deadline=None, max_examples=25)
N_POS, N_HEADS, D_VOCAB = 6, 4, 5


@st.composite
def models(draw):
    config = Config(
        n_layers=draw(st.integers(1, 2)),
        d_model=6,
        n_heads=N_HEADS,
        d_head=draw(st.sampled_from([2, 8])),  # also above d_model, where W_O does not have full rank
        n_ctx=N_POS,
        d_vocab=D_VOCAB,
        init_std=1.0,
        norm=draw(st.sampled_from(["none", "rms"])),
        positions=draw(st.sampled_from(["learned", "rotary", "shortformer"])),
        n_kv_heads=draw(st.sampled_from([None, 2, 1])),
        bias=draw(st.booleans()),
        causal=draw(st.booleans()),
    )
    model = Transformer(config, seed=draw(st.integers(0, 2**31))).double().requires_grad_(False)
    for name, weight in model.named_parameters():
        if ".b_" in name:
            weight.add_(torch.linspace(-1, 1, weight.numel(), dtype=weight.dtype).reshape(weight.shape))
    return model


def text(seed, batch=3):
    return torch.randint(D_VOCAB, (batch, N_POS), generator=torch.Generator().manual_seed(seed))


def same(got, expected):
    assert_close(got, expected, atol=1e-10, rtol=1e-10)


def weighted_by_hand(model, tokens, layer):
    """Return the value-weighted pattern, with every vector that a head would write multiplied out."""
    model(tokens, tap=(seen := record("*")))
    pattern, v = seen[f"blocks.{layer}.attn.pattern"], seen[f"blocks.{layer}.attn.v"]
    W_O, shared = model.blocks[layer].attn.W_O, N_HEADS // model.config.kv_heads
    weighted = torch.zeros_like(pattern)
    for b in range(len(tokens)):
        for head in range(N_HEADS):
            for key in range(N_POS):
                length = (v[b, key, head // shared] @ W_O[head]).square().sum().sqrt()
                weighted[b, head, :, key] = pattern[b, head, :, key] * length
    return pattern, weighted


def moved_by_hand(model, tokens, layer):
    """Return the length of the vector that a head would move from each key: ``[batch][head][key]``."""
    model(tokens, tap=(seen := record("*.v")))
    v, W_O = seen[f"blocks.{layer}.attn.v"], model.blocks[layer].attn.W_O
    shared = N_HEADS // model.config.kv_heads
    heads = [(v[:, :, head // shared] @ W_O[head]).square().sum(-1).sqrt() for head in range(N_HEADS)]
    return torch.stack(heads, dim=1).tolist()


@theorem
@given(models(), st.integers(0, 99))
def test_value_weighted_patterns_are_the_lengths_multiplied_out(model, seed):
    tokens = text(seed)
    for layer in range(model.config.n_layers):
        _, weighted = weighted_by_hand(model, tokens, layer)
        same(roles.value_weighted_pattern(model, tokens, layer), weighted)
        shares = roles.value_weighted_pattern(model, tokens, layer, normalize=True)
        same(shares, weighted / weighted.sum(dim=-1, keepdim=True))


def test_a_row_that_moves_nothing_stays_zero():
    model = Transformer(Config(1, 6, 2, 3, N_POS, D_VOCAB)).requires_grad_(False)
    model.blocks[0].attn.W_V.zero_()
    assert not roles.value_weighted_pattern(model, text(0), 0, normalize=True).any()


def looked_at(tokens, b, i):
    """Return the keys of each role for a query at position i."""
    row = tokens[b].tolist()
    keys = {
        "previous_token": [i - 1] if i else [],
        "current_token": [i] if i else [],
        "first_position": [0] if i else [],
        "duplicate_token": [j for j in range(i) if row[j] == row[i]],
        "induction": [j + 1 for j in range(i - 1) if row[j] == row[i]],
    }
    return keys


def means(part, whole):
    """Return a ratio of two sums over examples, and its standard error by the textbook formula."""
    share = sum(part) / sum(whole)
    n = len(part)
    variance = sum((p - share * w) ** 2 for p, w in zip(part, whole, strict=True)) / (n - 1)
    return share, math.sqrt(variance / n) / (sum(whole) / n)


@theorem
@given(models(), st.integers(0, 99), st.booleans(), st.booleans())
def test_roles_and_tokens_are_the_loop_over_patterns(model, seed, value_weighted, some):
    tokens = text(seed)
    counted = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.7 if some else None
    marks = torch.ones_like(tokens, dtype=torch.bool) if counted is None else counted
    got = roles.head_roles(model, tokens, counted=counted, value_weighted=value_weighted)
    by_token = roles.attention_by_token(model, tokens, counted=counted, value_weighted=value_weighted)
    uniform = {}
    for layer in range(model.config.n_layers):
        pattern = weighted_by_hand(model, tokens, layer)[int(value_weighted)].tolist()
        moved = moved_by_hand(model, tokens, layer) if value_weighted else [[[1.0] * N_POS] * N_HEADS] * 3
        for head in range(N_HEADS):
            for role in roles.ROLES:
                part, whole, alike, of_all = [0.0] * 3, [0.0] * 3, 0.0, 0.0
                for b in range(3):
                    for i in range(N_POS):
                        if marks[b, i] and (keys := looked_at(tokens, b, i)[role]):
                            part[b] += sum(pattern[b][head][i][j] for j in keys)
                            whole[b] += sum(pattern[b][head][i])
                            visible = range(i + 1 if model.config.causal else N_POS)
                            alike += sum(moved[b][head][j] for j in keys) / len(visible)
                            of_all += sum(moved[b][head][j] for j in visible) / len(visible)
                if not of_all:
                    assert getattr(got, role)[layer, head].isnan()
                    continue
                mean, error = means(part, whole)
                assert getattr(got, role)[layer, head].item() == pytest.approx(mean, abs=1e-10)
                assert got.errors[role][layer, head].item() == pytest.approx(error, abs=1e-7)
                uniform.setdefault(role, []).append(alike / of_all)
            shares = []
            for token in sorted(set(tokens.flatten().tolist())):
                part, whole = [0.0] * 3, [0.0] * 3
                for b in range(3):
                    for i in range(N_POS):
                        if marks[b, i]:
                            whole[b] += sum(pattern[b][head][i])
                            part[b] += sum(pattern[b][head][i][j] for j in range(N_POS) if tokens[b, j] == token)
                shares.append(means(part, whole))
            same(by_token.share[layer, head], torch.tensor([share for share, _ in shares], dtype=torch.float64))
            errors = torch.tensor([error for _, error in shares], dtype=torch.float64)
            assert_close(by_token.error[layer, head], errors, atol=1e-7, rtol=0)
            assert got.top_share[layer, head].item() == pytest.approx(max(share for share, _ in shares))
            assert got.top_token[layer, head] == by_token.tokens[by_token.share[layer, head].argmax()]
    for role, of_heads in uniform.items():
        assert got.uniform[role] == pytest.approx(sum(of_heads) / len(of_heads), abs=1e-6)


@theorem
@given(models(), st.integers(0, 99), st.booleans(), st.sampled_from([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]))
def test_padding_is_as_if_it_were_not_there(model, seed, value_weighted, real):
    mask = torch.tensor([real]).bool()
    padded = text(seed, batch=1)
    alone = padded[mask][None]
    got = roles.head_roles(model, padded, mask=mask, value_weighted=value_weighted)
    expected = roles.head_roles(model, alone, value_weighted=value_weighted)
    for role in roles.ROLES:
        assert_close(getattr(got, role), getattr(expected, role), equal_nan=True, atol=1e-10, rtol=0)
        assert got.uniform[role] == pytest.approx(expected.uniform[role], nan_ok=True)
    assert_close(got.top_share, expected.top_share, atol=1e-10, rtol=0)
    by_token = roles.attention_by_token(model, padded, mask=mask, value_weighted=value_weighted)
    assert by_token.tokens.tolist() == alone.unique().tolist()  # padding is not a token of the text
    same(by_token.share, roles.attention_by_token(model, alone, value_weighted=value_weighted).share)
    weighted = roles.value_weighted_pattern(model, padded, 0, mask=mask)[:, :, mask[0]][..., mask[0]]
    same(weighted, roles.value_weighted_pattern(model, alone, 0))


def test_texts_can_be_passed_directly():
    model = Transformer(Config(1, 6, N_HEADS, 2, N_POS, D_VOCAB, init_std=1.0)).double()
    with pytest.raises(TypeError, match="the model has no vocabulary, so it cannot read text"):
        roles.head_roles(model, "abc")

    class Letters:
        def tokens(self, texts):
            rows = [
                [ord(letter) - ord("a") for letter in text] for text in ([texts] if isinstance(texts, str) else texts)
            ]
            longest = max(map(len, rows))
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]).bool()
            return torch.tensor([[0] * (longest - len(row)) + row for row in rows]), mask

    model.vocabulary = Letters()
    got = roles.head_roles(model, ["abab", "cab"])
    tokens, mask = torch.tensor([[0, 1, 0, 1], [4, 2, 0, 1]]), torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]).bool()
    same(got.induction, roles.head_roles(model, tokens, mask=mask).induction)


def test_hand_set_induction_heads_get_their_roles():
    """Head 0.0 looks one back. Head 1.0 looks for what followed, and attends uniformly if it finds nothing."""
    model = hand_set.induction(d_vocab=8, n_ctx=13)
    stretch = torch.tensor([1, 2, 3, 4, 5, 6])
    tokens = torch.cat([torch.tensor([0]), stretch, stretch])[None]
    scores = roles.head_roles(model, tokens)
    unit = torch.ones((), dtype=torch.float64)
    assert_close(scores.previous_token[0, 0], unit, atol=1e-12, rtol=0)
    assert_close(scores.induction[1, 0], unit, atol=1e-12, rtol=0)
    assert scores.duplicate_token[1, 0] < 1e-12
    assert scores.errors["induction"].isnan().all()  # a single example has no standard error
    # first half, head 1.0: nothing matches, so 0 gets 1/(i + 1) from position i; second half: nothing
    expected = sum(1 / (i + 1) for i in range(1, 7)) / 12
    assert scores.first_position[1, 0].item() == pytest.approx(expected, abs=1e-12)
    assert scores.uniform["first_position"] == pytest.approx(sum(1 / (i + 1) for i in range(1, 13)) / 12)
    # all that is counted is the second half: every query finds its match
    half = (torch.arange(13) > 6)[None]
    by_token = roles.attention_by_token(model, tokens, counted=half)
    matches = {2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 1: 1}  # of the tokens that follow 1, 2, 3, 4, 5, 6
    expected = torch.tensor([matches.get(token, 0) / 6 for token in range(7)], dtype=torch.float64)
    assert_close(by_token.share[1, 0], expected, atol=1e-12, rtol=0)


def test_previous_token_score_is_the_previous_token_role():
    model = Transformer(Config(2, 6, N_HEADS, 2, N_POS, D_VOCAB, init_std=1.0)).double()
    same(roles.head_roles(model, text(3)).previous_token, induction.previous_token_score(model, text(3)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_nearly_the_same(dtype):
    model = Transformer(Config(2, 6, N_HEADS, 2, N_POS, D_VOCAB, init_std=0.5))
    for look in (roles.head_roles, roles.attention_by_token):
        expected, got = look(model, text(3), value_weighted=True), look(model.to(dtype), text(3), value_weighted=True)
        assert_close(got[0], expected[0], atol=0.03, rtol=0, check_dtype=False)
        model = model.float()


@pytest.mark.parametrize("kind", [lambda marks: marks.tolist(), lambda marks: marks.numpy()])
def test_counted_may_be_a_list_or_an_array(kind):
    model, counted = Transformer(Config(1, 6, N_HEADS, 2, N_POS, D_VOCAB)), text(1) > 1
    expected = roles.head_roles(model, text(0), counted=counted).induction
    assert_close(roles.head_roles(model, text(0), counted=kind(counted)).induction, expected, equal_nan=True)


def test_a_model_without_layers_has_no_roles():
    model = Transformer(Config(0, 6, N_HEADS, 2, N_POS, D_VOCAB))
    assert roles.head_roles(model, text(0)).induction.shape == (0, N_HEADS)
    assert roles.attention_by_token(model, text(0), value_weighted=True).share.shape[:2] == (0, N_HEADS)


def test_the_tables_show_the_scores():
    model = hand_set.induction(d_vocab=8, n_ctx=13)
    tokens = torch.tensor([[0, 1, 2, 3, 1, 2, 3], [0, 4, 5, 4, 5, 4, 5]])
    scores = roles.head_roles(model, tokens)
    rows, header = role_tables.role_table(scores, words=lambda ids: [f" w{i}" for i in ids], repeated=scores)
    assert header[:3] == ["head", "previous token", "current token"]
    assert header[-3:] == ["induction on repeats", "rests on", "share"]
    assert [row[0] for row in rows] == ["0.0", "1.0", "uniform"]
    assert rows[0][1] == 1 and rows[1][5] == rows[1][6] == 1
    assert rows[0][-2].startswith("·w")
    assert all(len(row) == len(header) for row in rows)
    assert role_tables.strongest(scores.induction, 1) == ["1.0"]

    by_token = roles.attention_by_token(model, tokens)
    rows, header = role_tables.token_table(by_token, ["0.0"], words=lambda ids: words(ids), k=2)
    assert header == ["head", "1", "2"]
    # 7 queries each; position 0 looks at itself: token 0 gets 2 of 7, twice (±0); tokens 4 and 5 then have most
    assert rows == [["0.0", "<|endoftext|> 29 ± 0 %", rows[0][2]]]


def test_mistakes_give_readable_errors():
    model = Transformer(Config(1, 6, N_HEADS, 2, N_POS, D_VOCAB))
    with pytest.raises(ValueError, match="there is no layer 1; the model's are 0 to 0"):
        roles.value_weighted_pattern(model, text(0), 1)
    with pytest.raises(ValueError, match=r"counted is torch.int64 of shape \[3\]; it must mark the queries"):
        roles.head_roles(model, text(0), counted=torch.arange(3))
    with pytest.raises(ValueError, match="counted marks no query"):
        roles.attention_by_token(model, text(0), counted=torch.zeros(3, N_POS, dtype=torch.bool))
    scores = roles.head_roles(model, text(0))
    with pytest.raises(ValueError, match=r"there is no head 0\.7; choose from 0\.0, 0\.1"):
        role_tables.role_table(scores, ["0.7"])
    with pytest.raises(ValueError, match="cannot take 5 heads of 4"):
        role_tables.strongest(scores.induction)
    with pytest.raises(ValueError, match="cannot show 99 tokens of a text that has"):
        role_tables.token_table(roles.attention_by_token(model, text(0)), k=99)
