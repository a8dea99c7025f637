from __future__ import annotations

import pytest
import torch
from tiny import KINDS, shake, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from manners.models.quantised import Bits, Codes, QuantisedConv1D, QuantisedLinear, SeparateLoRA, quantise
from manners.models.trunk import Trunk

torch.set_num_threads(1)

BITS: tuple[Bits, ...] = (8, 4)
every_width = pytest.mark.parametrize("bits", BITS)
TOKENS = torch.randint(5, 101, (3, 9), generator=torch.Generator().manual_seed(0))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trunk_of(kind: str, bits: Bits, train_layers: int = 2) -> Trunk:
    trunk = Trunk(tiny_model(kind), tiny_tokenizer(), train_layers, base_bits=bits)
    trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(trunk, "policy")
    return trunk


def test_eight_bits_by_hand() -> None:
    # scales 2/127 and 0.254/127 = 0.002; −0.254 is −127 of them, 0.0013 rounds to 1 of them
    codes = Codes(torch.tensor([[2.0, -1.0, 0.0], [-0.254, 0.1, 0.0013]]), 8)
    assert codes.codes.flatten(1).tolist() == [[127, -64, 0], [-127, 50, 1]]  # −63.5 rounds to the even −64
    torch.testing.assert_close(codes.matrix, torch.tensor([[2.0, -128 / 127, 0.0], [-0.254, 0.1, 0.002]]))


def test_four_bits_by_hand() -> None:
    # 64 inputs with scale 7/7, then one of another group with scale 0.7/7
    matrix = torch.zeros(1, 65)
    matrix[0, :3] = torch.tensor([7.0, -6.6, 0.4])
    matrix[0, 32], matrix[0, 63], matrix[0, 64] = -3.0, 2.6, -0.7
    codes = Codes(matrix, 4)
    assert codes.codes.shape == (1, 2, 32)
    # a byte holds input i in its low half and input i + 32 in its high half, each plus 8
    assert codes.codes[0, 0, :3].tolist() == [(8 + 7) + 16 * (8 - 3), (8 - 7) + 16 * 8, 8 + 16 * 8]
    wanted = torch.zeros(1, 65)
    wanted[0, [0, 1, 32, 63, 64]] = torch.tensor([7.0, -7.0, -3.0, 3.0, -0.7])
    torch.testing.assert_close(codes.matrix, wanted)


@every_width
@pytest.mark.parametrize("inputs", [5, 64, 200])
def test_no_weight_is_off_by_more_than_half_a_scale(bits: Bits, inputs: int) -> None:
    matrix = drawn(7, inputs) * torch.logspace(-3, 1, 7)[:, None]
    off = (Codes(matrix, bits).matrix - matrix).abs()
    for row in range(7):
        for start in range(0, inputs, inputs if bits == 8 else 64):
            part = slice(start, start + (inputs if bits == 8 else 64))
            half = float(matrix[row, part].abs().max()) / (127 if bits == 8 else 7) / 2
            assert float(off[row, part].max()) <= half * (1 + 1e-5)
    assert float(off.max()) > 0


@every_width
def test_rows_of_zeros_and_extremes_stay_what_they_are(bits: Bits) -> None:
    matrix = torch.zeros(3, 64)
    matrix[1], matrix[2, 0] = 1000.0, -1e-30
    torch.testing.assert_close(Codes(matrix, bits).matrix, matrix)


@every_width
def test_bytes_of_a_matrix(bits: Bits) -> None:
    codes = Codes(drawn(96, 640), bits)
    held = sum(buffer.nbytes for buffer in codes.buffers())
    # 8 bits: a byte each and a float32 per output; 4 bits: half a byte each and a float32 per 64
    assert held == (96 * 640 + 96 * 4 if bits == 8 else 96 * 640 // 2 + 96 * 10 * 4)
    assert list(codes.parameters()) == []


@every_width
@pytest.mark.parametrize("kind", ["linear", "linear without bias", "conv"])
def test_the_product_and_its_gradient_are_those_of_the_rounded_matrix(bits: Bits, kind: str) -> None:
    plain: nn.Linear | Conv1D = Conv1D(6, 80) if kind == "conv" else nn.Linear(80, 6, bias=kind == "linear")
    plain.requires_grad_(False)
    plain.weight.copy_(drawn(*plain.weight.shape))
    layer = QuantisedConv1D(plain, bits) if isinstance(plain, Conv1D) else QuantisedLinear(plain, bits)
    assert layer.weight.shape == plain.weight.shape
    rounded = layer.weight.T if kind == "conv" else layer.weight
    given, other = (drawn(4, 3, 80, seed=1).requires_grad_() for _ in range(2))
    y, wanted = layer(given), other @ rounded.T + (0 if layer.bias is None else layer.bias)
    torch.testing.assert_close(y, wanted)
    assert 0 < (y - plain(given)).abs().max() < (0.5 if bits == 8 else 8)
    (y * drawn(4, 3, 6, seed=2)).sum().backward()
    (wanted * drawn(4, 3, 6, seed=2)).sum().backward()
    torch.testing.assert_close(given.grad, other.grad)
    assert torch.autograd.gradcheck(layer.double(), drawn(2, 80).double().requires_grad_())


@every_width
def test_nothing_is_kept_for_the_backward_pass(bits: Bits) -> None:
    layer = QuantisedLinear(nn.Linear(64, 8).requires_grad_(False), bits)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(drawn(5, 64).requires_grad_())
    assert kept == []


@every_width
@pytest.mark.parametrize("kind", KINDS)
def test_a_trunk_says_what_a_plain_model_with_the_rounded_weights_says(kind: str, bits: Bits) -> None:
    trunk, plain = trunk_of(kind, bits), tiny_model(kind)
    held = dict(trunk.model.named_modules())
    rounded = 0
    for name, module in plain.named_modules():
        if type(module) in (nn.Linear, Conv1D) and module is not plain.get_output_embeddings():
            base = held[name].base if name in trunk.adapters.layers else held[name]
            with torch.no_grad():
                module.weight.copy_(base.weight)
            rounded += 1
    assert rounded == 3 * (4 if kind in ("gpt2", "gpt_neox") else 7)
    assert torch.equal(trunk.head_weight, plain.get_output_embeddings().weight)
    hidden = plain(TOKENS, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(trunk.hidden(trunk.states(TOKENS)), hidden, rtol=0, atol=5e-5)


@every_width
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_where_a_plain_base_is_merged_the_adapter_is_on(kind: str, bits: Bits) -> None:
    trunk = trunk_of(kind, bits)
    states = trunk.states(TOKENS)
    with trunk.adapters.using("policy"):
        on = trunk.hidden(states)
    with trunk.adapters.merged("policy"):
        merged = trunk.hidden(states)
    assert torch.equal(merged, on)
    with trunk.adapters.merged(None):
        bare = trunk.hidden(states)
    assert torch.equal(bare, trunk.hidden(states))
    assert (on - bare).abs().max() > 0.05


def test_the_fingerprint_is_that_of_the_rounded_weights() -> None:
    prints = {
        Trunk(tiny_model(), tiny_tokenizer(), 2).fingerprint,
        *(trunk_of("llama", bits).fingerprint for bits in BITS),
    }
    assert len(prints) == 3
    assert trunk_of("llama", 8, 1).fingerprint == trunk_of("llama", 8, 2).fingerprint  # wherever the branch is
    other = tiny_model()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1.0
    assert Trunk(other, tiny_tokenizer(), base_bits=8).fingerprint not in prints


@every_width
def test_bytes_of_a_model_fall(bits: Bits) -> None:
    model = tiny_model(vocabulary=101)
    before = sum(p.nbytes for layer in model.model.layers for p in layer.parameters())
    quantise(model, bits)
    after = sum(t.nbytes for layer in model.model.layers for t in (*layer.parameters(), *layer.buffers()))
    norms = 3 * 2 * 16 * 4
    matrices = 3 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 32)
    assert before == norms + 4 * matrices
    outputs = 3 * (16 + 16 + 8 + 8 + 32 + 32 + 16)
    # at 4 bits the inputs of this model, 16 or 32, fill a group of 64 each
    assert after == norms + (matrices + 4 * outputs if bits == 8 else outputs * (32 + 4))


@every_width
def test_no_weight_is_kept_for_the_backward_pass_of_an_adapted_layer(bits: Bits) -> None:
    # 600 inputs and 500 outputs: the weight in float32 would be 1.2 MB, the states of two tokens are 5 kB
    lora = SeparateLoRA(QuantisedLinear(nn.Linear(600, 500).requires_grad_(False), bits))
    lora.add("policy", 2, 4, torch.Generator().manual_seed(0))
    lora.active = "policy"
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        lora(drawn(2, 600).requires_grad_())
    own = {parameter.data_ptr() for parameter in lora.parameters()}
    assert sum(tensor.nbytes for tensor in kept if tensor.untyped_storage().data_ptr() not in own) < 20_000


class Foreign(nn.Linear):
    """A layer of another library: its weight is packed into one column, and only it can multiply by it."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None)
        self.bias = plain.bias
        self.weight = nn.Parameter(plain.weight.detach().reshape(-1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.view(self.out_features, self.in_features), self.bias)


def test_a_base_that_another_library_packed_learns_as_a_plain_one_does() -> None:
    model = tiny_model()
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and ".layers." in name:
            model.set_submodule(name, Foreign(module))
    packed, plain = (Trunk(given, tiny_tokenizer(), 2, lean=False) for given in (model, tiny_model()))
    found = []
    for trunk in (packed, plain):
        trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
        shake(trunk, "policy")
        with trunk.adapters.merged("policy"):
            hidden = trunk.hidden(trunk.states(TOKENS)).detach()
        with trunk.adapters.using("policy"):
            trunk.hidden(trunk.states(TOKENS)).square().sum().backward()
        found.append((hidden, [parameter.grad for parameter in trunk.adapters.parameters("policy")]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
