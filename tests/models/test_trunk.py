from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from tiny import KINDS, shake, tiny_model, tiny_tokenizer, tiny_trunk
from trunks import LAYERS, close, drawn_tokens, every_trunk, plain, plain_hidden, with_adapter

from manners.batches import TokenBatch
from manners.errors import MannersError
from manners.models.packing import pack_rows
from manners.models.trunk import TrainLayers, Trunk


@every_trunk
def test_states_and_hidden_equal_the_plain_model(kind: str, train_layers: TrainLayers) -> None:
    trunk, tokens = tiny_trunk(kind, train_layers), drawn_tokens()
    states = trunk.states(tokens)
    hidden = trunk.hidden(states)
    close(hidden, plain_hidden(kind, tokens))
    close(hidden @ trunk.head_weight.T, plain(kind)(tokens).logits.detach(), atol=1e-4)
    assert hidden.shape == states.shape == (3, 9, trunk.width)


@pytest.mark.parametrize("kind", KINDS)
def test_the_branch_stands_where_train_layers_says(kind: str) -> None:
    # a change of the layer below the branch moves the states; a change of the layer above it does not
    tokens = drawn_tokens()
    for train_layers in LAYERS:
        trunk = tiny_trunk(kind, train_layers)
        before = trunk.states(tokens)
        assert trunk.branch == {"all": 0, 1: 2, 2: 1}[train_layers]
        for number, layer in enumerate(trunk.layers):
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.add_(0.1)
            moved = not torch.equal(trunk.states(tokens), before)
            assert moved is (trunk.branch > 0), (train_layers, number)
            if number >= trunk.branch - 1:
                break
        below = trunk.states(tokens)
        with torch.no_grad():
            for layer in trunk.layers[trunk.branch :]:
                for parameter in layer.parameters():
                    parameter.add_(0.1)
        assert torch.equal(trunk.states(tokens), below)


@every_trunk
def test_adapters_exist_from_the_branch_up_and_change_what_is_above_it(kind: str, train_layers: TrainLayers) -> None:
    trunk, tokens = with_adapter(kind, train_layers), drawn_tokens()
    numbers = {
        int(name.split(".h." if kind == "gpt2" else ".layers.")[1].split(".")[0]) for name in trunk.adapters.layers
    }
    assert numbers == set(range(trunk.branch, 3))
    # every linear layer of the plain model there: seven in a gated block, four in GPT-2 and NeoX
    assert len(trunk.adapters.layers) == (3 - trunk.branch) * (4 if kind in ("gpt2", "gpt_neox") else 7)
    states = trunk.states(tokens)
    with trunk.adapters.using("policy"):
        assert torch.equal(trunk.states(tokens), states)
        assert (trunk.hidden(states) - plain_hidden(kind, tokens)).abs().max() > 0.05
    close(trunk.hidden(states), plain_hidden(kind, tokens))


@every_trunk
def test_only_the_adapter_gets_a_gradient(kind: str, train_layers: TrainLayers) -> None:
    trunk = with_adapter(kind, train_layers)
    trunk.adapters.add("other", rank=2, alpha=4, seed=1)
    with trunk.adapters.using("policy"):
        trunk.hidden(trunk.states(drawn_tokens())).square().sum().backward()
    own = {id(p) for p in trunk.adapters.parameters("policy")}
    touched = {id(p) for p in trunk.parameters() if p.grad is not None and bool(p.grad.any())}
    assert touched == own
    assert len(own) == 2 * len(trunk.adapters.layers)
    assert all(p.grad is None for p in trunk.parameters() if id(p) not in own)


@every_trunk
def test_padding_behind_a_row_changes_nothing(kind: str, train_layers: TrainLayers) -> None:
    trunk, tokens = with_adapter(kind, train_layers), drawn_tokens()
    lengths = [9, 4, 6]
    mask = torch.arange(9)[None] < torch.tensor(lengths)[:, None]
    other = torch.where(mask, tokens, drawn_tokens(seed=1))
    with trunk.adapters.using("policy"), torch.no_grad():
        got = trunk.hidden(trunk.states(tokens))
        assert torch.equal(got[mask], trunk.hidden(trunk.states(other))[mask])
        for row, length in enumerate(lengths):
            close(trunk.hidden(trunk.states(tokens[row : row + 1, :length]))[0], got[row, :length])


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_off_though_the_model_came_in_training_mode(kind: str) -> None:
    model = tiny_model(kind).train()
    trunk = Trunk(model, tiny_tokenizer(), 2)
    tokens = drawn_tokens()
    assert torch.equal(trunk.hidden(trunk.states(tokens)), trunk.hidden(trunk.states(tokens)))
    close(trunk.hidden(trunk.states(tokens)), plain_hidden(kind, tokens))


@pytest.mark.parametrize("train_layers", [0, 4, -1])
def test_train_layers_out_of_range_is_an_error_of_one_line(train_layers: int) -> None:
    with pytest.raises(MannersError, match="between 1 and 3") as error:
        tiny_trunk("llama", train_layers)
    assert "\n" not in str(error.value)


def test_all_layers_by_number_equal_all() -> None:
    tokens = drawn_tokens()
    trunk = tiny_trunk("gpt2", 3)
    close(trunk.hidden(trunk.states(tokens)), plain_hidden("gpt2", tokens))


def fresh_fingerprint(trunk: Trunk) -> str:
    trunk.__dict__.pop("fingerprint", None)
    return trunk.fingerprint


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_fingerprint_changes_with_any_weight(kind: str) -> None:
    trunk = tiny_trunk(kind, 2)
    seen = {fresh_fingerprint(trunk)}
    for name, parameter in trunk.model.named_parameters():
        with torch.no_grad():
            parameter[(0,) * parameter.dim()] += 1e-3
        seen.add(fresh_fingerprint(trunk))
        assert len(seen) > 1, name
    assert len(seen) == 1 + len(list(trunk.model.parameters()))


def test_fingerprint_changes_when_weights_change_places() -> None:
    trunk = tiny_trunk("llama", 2)
    before = fresh_fingerprint(trunk)
    weight = trunk.head_weight
    with torch.no_grad():
        weight[0], weight[1] = weight[1].clone(), weight[0].clone()
    assert fresh_fingerprint(trunk) != before


def test_fingerprint_is_the_same_on_a_machine_with_more_cores() -> None:
    # a sum of many floats depends on how it was split among threads
    model = tiny_model("llama", vocabulary=60_000)
    threads = torch.get_num_threads()
    seen = set()
    for count in (1, 2, 3, 4, 8):
        torch.set_num_threads(count)
        seen.add(Trunk(copy.deepcopy(model), tiny_tokenizer(), 1).fingerprint)
    torch.set_num_threads(threads)
    assert len(seen) == 1


def test_fingerprint_is_that_of_the_base_whatever_is_on_it() -> None:
    trunk = tiny_trunk("llama", 2)
    before = trunk.fingerprint
    trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(trunk, "policy")
    assert fresh_fingerprint(trunk) == before
    with trunk.adapters.using("policy"):
        assert fresh_fingerprint(trunk) == before
    with trunk.adapters.merged("policy"):
        pass
    assert fresh_fingerprint(trunk) == before
    assert tiny_trunk("llama", "all").fingerprint == before
    assert tiny_trunk("llama", 1).fingerprint == before
    assert tiny_trunk("llama", 2, seed=1).fingerprint != before


def test_a_base_in_half_precision_has_adapters_in_single_and_a_fingerprint_of_its_own() -> None:
    trunk = Trunk(tiny_model("llama").bfloat16(), tiny_tokenizer(), 2)
    trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(trunk, "policy", std=0.1)
    with trunk.adapters.using("policy"):
        hidden = trunk.hidden(trunk.states(drawn_tokens()))
        hidden.float().square().sum().backward()
    assert hidden.dtype == torch.bfloat16
    for parameter in trunk.adapters.parameters("policy"):
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.any()
    close(trunk.hidden(trunk.states(drawn_tokens())).float(), plain_hidden("llama", drawn_tokens()), atol=0.3)
    assert trunk.fingerprint != tiny_trunk("llama", 2).fingerprint


def test_width_and_context() -> None:
    for kind in KINDS:
        trunk = tiny_trunk(kind)
        assert (trunk.width, trunk.context, len(trunk.layers)) == (16, 256, 3)
        assert trunk.head_weight.shape == (101, 16)


@pytest.mark.parametrize("train_layers", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_watch_sees_the_states_of_the_branch(kind: str, train_layers: TrainLayers) -> None:
    trunk, tokens = tiny_trunk(kind, train_layers), drawn_tokens()
    with trunk.watch_branch() as watch, torch.no_grad():
        trunk.model(tokens)
    close(watch.states, trunk.states(tokens))
    seen = watch.states
    trunk.model(drawn_tokens(seed=1))
    assert watch.states is seen  # it has stopped watching


@pytest.mark.parametrize("kind", KINDS)
def test_unwrapping_gives_back_the_plain_model(kind: str) -> None:
    model = with_adapter(kind, 2).unwrap()
    assert model.state_dict().keys() == plain(kind).state_dict().keys()
    assert torch.equal(model(drawn_tokens()).logits, plain(kind)(drawn_tokens()).logits)


@every_trunk
def test_predictions_are_those_of_the_plain_model_for_response_tokens_alone(
    kind: str, train_layers: TrainLayers
) -> None:
    trunk = tiny_trunk(kind, train_layers)
    batch = TokenBatch(drawn_tokens(), torch.tensor([2, 1, 3]), torch.tensor([4, 9, 3]))
    got = trunk.predict(batch, trunk.states(batch.tokens), temperature=0.7)
    assert list(zip(got.rows.tolist(), got.columns.tolist(), strict=True)) == [
        *((0, t) for t in (2, 3)),
        *((1, t) for t in range(1, 9)),
    ]
    assert not got.entropies.requires_grad
    logits = plain(kind)(batch.tokens).logits.detach()
    for n, (row, t) in enumerate(zip(got.rows.tolist(), got.columns.tolist(), strict=True)):
        wanted = torch.distributions.Categorical(logits=logits[row, t - 1] / 0.7)
        assert got.logps[n].item() == pytest.approx(wanted.log_prob(batch.tokens[row, t]).item(), abs=1e-4)
        assert got.entropies[n].item() == pytest.approx(wanted.entropy().item(), abs=1e-4)
        close(got.hidden[n], plain_hidden(kind, batch.tokens)[row, t - 1])
    spread = got.spread(got.logps, batch.tokens)
    assert spread.shape == batch.tokens.shape
    assert torch.equal(spread[batch.response_mask], got.logps)
    assert not spread[~batch.response_mask].any()


def test_predictions_carry_the_gradient_of_the_adapter_through_spread() -> None:
    trunk, batch = with_adapter("llama", 2), TokenBatch(drawn_tokens(1), torch.tensor([2]), torch.tensor([6]))
    states = trunk.states(batch.tokens)
    parameters = trunk.adapters.parameters("policy")
    weights = torch.randn(2, 1, 9, generator=torch.Generator().manual_seed(0))
    with trunk.adapters.using("policy"):
        got = trunk.predict(batch, states, temperature=0.7, entropy_gradient=True)
        ours = sum((w * got.spread(x, batch.tokens)).sum() for w, x in zip(weights, got[-2:], strict=True))
        logits = trunk.hidden(states)[0, 1:5] @ trunk.head_weight.T / 0.7
    distribution = torch.distributions.Categorical(logits=logits)
    theirs = (weights[0, 0, 2:6] * distribution.log_prob(batch.tokens[0, 2:6])).sum()
    theirs = theirs + (weights[1, 0, 2:6] * distribution.entropy()).sum()
    for one, other in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


COMMON = {"vocab_size": 101, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
          "num_key_value_heads": 1, "head_dim": 8, "initializer_range": 0.3, "max_position_embeddings": 64,
          "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}  # fmt: skip
MIXED = {"sliding_window": 5, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral with a window": ("Mistral", {"sliding_window": 5}),
    "qwen2": ("Qwen2", {}),
    "qwen2 with a window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}),
    "olmo2": ("Olmo2", {}),
    "gemma2": ("Gemma2", {"query_pre_attn_scalar": 8, "final_logit_softcapping": 1.0}),
    "gemma3": ("Gemma3", {"query_pre_attn_scalar": 8, "num_hidden_layers": 6, **MIXED}),
    "granite": ("Granite", {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5}),
    "cohere": ("Cohere", {"logit_scale": 0.25}),
    "phi": ("Phi", {}),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 1, 0, 1]}),
    "opt": ("OPT", {"ffn_dim": 32, "word_embed_proj_dim": 16}),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("train_layers", ["all", 1])
def test_another_family_is_computed_right_within_its_context_or_refused(name: str, train_layers: TrainLayers) -> None:
    family, settings = OTHERS[name]
    config = f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, config)(**{**COMMON, **settings}))
    tokens = drawn_tokens(1, 12)
    try:
        trunk = Trunk(copy.deepcopy(built), tiny_tokenizer(), train_layers)
    except MannersError:
        return
    tokens = tokens[:, : trunk.context]
    rows = pack_rows([(tokens[0, :2].tolist(), [tokens[0, 2:4].tolist(), tokens[0, 4:].tolist()])])
    other = torch.cat([tokens[:, :2], tokens[:, 4:]], 1)
    with torch.no_grad():
        close(trunk.hidden(trunk.states(tokens)) @ trunk.head_weight.T, built.eval()(tokens).logits, atol=1e-4)
        second = trunk.hidden(trunk.states(rows), rows)[:, rows.segments[0] == 2]
        close(second @ trunk.head_weight.T, built(other).logits[:, 2:], atol=1e-4)
