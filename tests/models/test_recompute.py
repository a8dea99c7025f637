from __future__ import annotations

import pytest
import torch
from tiny import KINDS, shake, tiny_model, tiny_tokenizer
from torch import Tensor

from manners.models.packing import Packed, pack_rows
from manners.models.trunk import TrainLayers, Trunk

torch.set_num_threads(1)

LAYERS: tuple[TrainLayers, ...] = ("all", 2)
every_trunk = pytest.mark.parametrize(("kind", "train_layers"), [(kind, layers) for kind in KINDS for layers in LAYERS])
TOKENS = torch.randint(5, 101, (3, 9), generator=torch.Generator().manual_seed(0))
PACKED = pack_rows([([7, 8, 9], [[11, 12], [14]]), ([30, 31], [[40, 41], [42, 43, 44]])])


def trunk_of(kind: str, train_layers: TrainLayers, again: bool, layers: int = 3) -> Trunk:
    trunk = Trunk(tiny_model(kind, layers), tiny_tokenizer(), train_layers, gradient_checkpointing=again, lean=False)
    for number, name in enumerate(("policy", "critic")):
        trunk.adapters.add(name, rank=2, alpha=4, seed=number)
        shake(trunk, name, seed=number)
    return trunk


def answer(trunk: Trunk, packed: Packed | None, adapter: str | None = "policy") -> Tensor:
    """Hidden states under `adapter`, which is off again when they are given."""
    states = trunk.states(TOKENS if packed is None else packed)
    with trunk.adapters.using(adapter):
        return trunk.hidden(states, packed)


def gradients(trunk: Trunk, name: str = "policy") -> list[Tensor]:
    found = [parameter.grad for parameter in trunk.adapters.parameters(name)]
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


def kept_by(trunk: Trunk) -> int:
    """Bytes that autograd holds for the backward pass from the final states; the model's own weights are there anyway."""
    states = trunk.states(TOKENS)
    own = {parameter.data_ptr() for parameter in trunk.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), trunk.adapters.using("policy"):
        trunk.hidden(states)
    return sum(held.values())


@every_trunk
@pytest.mark.parametrize("packed", [None, PACKED], ids=["rows", "packed"])
def test_gradients_are_those_of_a_layer_that_keeps_everything(
    kind: str, train_layers: TrainLayers, packed: Packed | None
) -> None:
    plain, again = (trunk_of(kind, train_layers, flag) for flag in (False, True))
    given = [answer(trunk, packed) for trunk in (plain, again)]
    torch.testing.assert_close(*given, rtol=1e-5, atol=1e-5)
    for hidden in given:
        hidden.square().sum().backward()  # the adapter is off here
    for wanted, got in zip(gradients(plain), gradients(again), strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_the_second_time_the_adapters_are_those_of_the_first_time_whatever_is_on_by_then() -> None:
    plain, again = (trunk_of("llama", "all", flag) for flag in (False, True))
    for trunk in (plain, again):
        total = answer(trunk, None, "policy").square().sum() + answer(trunk, None, "critic").pow(3).sum()
        with trunk.adapters.using("critic"):
            total.backward()
            assert {layer.active for layer in trunk.adapters.layers.values()} == {"critic"}
        assert {layer.active for layer in trunk.adapters.layers.values()} == {None}
    for name in ("policy", "critic"):
        for wanted, got in zip(gradients(plain, name), gradients(again, name), strict=True):
            assert wanted.abs().max() > 0
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_more_keeps_no_more_than_its_input(kind: str) -> None:
    # without: everything between the products of every layer; with: the states [3, 9, 16] float32 that enter the layer
    kept = {
        (again, layers): kept_by(trunk_of(kind, "all", again, layers)) for again in (False, True) for layers in (2, 5)
    }
    state = 3 * 9 * 16 * 4
    assert kept[True, 5] - kept[True, 2] == 3 * state
    assert kept[False, 5] - kept[False, 2] > 3 * 8 * state


def test_without_a_gradient_nothing_is_computed_twice() -> None:
    trunk = trunk_of("llama", 2, True)
    seen: list[int] = []
    for layer in trunk.adapters.layers.values():
        layer.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        answer(trunk, None)
    once = len(seen)
    assert once == len(trunk.adapters.layers)
    answer(trunk, None).sum().backward()
    # the last product of a layer feeds nothing that is kept, so it may be left out the second time
    assert once < len(seen) - once <= 2 * once
