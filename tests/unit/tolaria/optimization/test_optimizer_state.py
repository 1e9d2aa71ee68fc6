from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import load_named_state, named_state
from esper.tolaria.optimization.optimizer_state import Packer, Unpacker
from esper.utils.safetensors import load_tensors, save_tensors

Groups = list[dict[str, Any]]
Factory = Callable[[Groups], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Factory] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1e-2),
    "amsgrad": lambda groups: torch.optim.Adam(groups, lr=1e-2, amsgrad=True, betas=(0.8, 0.99)),
    "fused": lambda groups: torch.optim.AdamW(groups, lr=1e-2, fused=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-2, momentum=0.9, centered=True),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=1e-2),
    "rprop": lambda groups: torch.optim.Rprop(groups, lr=1e-2),
    "lbfgs": lambda groups: torch.optim.LBFGS([p for g in groups for p in g["params"]], max_iter=2),
}


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 9, 4), nn.Linear(4, 2))
    return model.to(memory_format=torch.channels_last)


def groups_of(model: nn.Module) -> Groups:
    params = list(model.parameters())
    return [
        {"params": params[:4], "name": "host", "base_lr": 0.3},
        {"params": params[4:], "name": "seed", "born_step": 5, "warmup": None, "on": True},
    ]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 5, 5, generator=generator)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = model(x).square().mean()
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(loss)


def through_files(tmp_path: Path, tensors: dict[str, Tensor], meta: Any) -> tuple[dict[str, Tensor], Any]:
    save_tensors(tmp_path / "optimizer.safetensors", tensors)
    return load_tensors(tmp_path / "optimizer.safetensors")[0], json.loads(json.dumps(meta))


def weights(model: nn.Module) -> list[list[float]]:
    return [p.detach().flatten().tolist() for p in model.parameters()]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.integers(0, 4), after=st.integers(1, 4), seed=st.integers(0, 99))
def test_training_goes_on_bit_for_bit(tmp_path: Path, kind: str, before: int, after: int, seed: int) -> None:
    """Through files, into a fresh optimiser whose options were others."""
    model = make_model(seed)
    optimizer = OPTIMIZERS[kind](groups_of(model))
    train(model, optimizer, before, seed)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 0.37
    twin = copy.deepcopy(model)
    tensors, meta = through_files(tmp_path, *named_state(optimizer, model.named_parameters()))

    fresh = OPTIMIZERS[kind](groups_of(twin))
    train(copy.deepcopy(twin), fresh, 1, seed + 1)
    load_named_state(fresh, twin.named_parameters(), tensors, meta)
    assert_equal_state(optimizer, model, fresh, twin)
    train(model, optimizer, after, seed + 2)
    train(twin, fresh, after, seed + 2)
    assert weights(model) == weights(twin)
    assert_equal_state(optimizer, model, fresh, twin)


def assert_equal_state(
    a: torch.optim.Optimizer, of_a: nn.Module, b: torch.optim.Optimizer, of_b: nn.Module
) -> None:
    for one, other in zip(a.param_groups, b.param_groups, strict=True):
        options = [{k: v for k, v in group.items() if k != "params"} for group in (one, other)]
        assert options[0] == options[1]
        assert {k: type(v) for k, v in options[0].items()} == {k: type(v) for k, v in options[1].items()}
    for p, q in zip(of_a.parameters(), of_b.parameters(), strict=True):
        entries, others = a.state.get(p, {}), b.state.get(q, {})
        assert entries.keys() == others.keys()
        for key, value in entries.items():
            if isinstance(value, Tensor):
                assert value.dtype == others[key].dtype
                assert value.stride() == others[key].stride(), key
                assert torch.equal(value, others[key])


@pytest.mark.parametrize("kind", ["adam", "momentum", "lbfgs"])
def test_copies_are_deep_both_ways(kind: str) -> None:
    """Saved state does not change with later steps, neither before nor after a restore."""
    model = make_model()
    optimizer = OPTIMIZERS[kind](groups_of(model))
    train(model, optimizer, 2, 0)
    tensors, meta = named_state(optimizer, model.named_parameters())
    frozen = copy.deepcopy((tensors, meta))
    train(model, optimizer, 3, 0)
    assert same((tensors, meta), frozen)
    load_named_state(optimizer, model.named_parameters(), tensors, meta)
    train(model, optimizer, 3, 0)
    assert same((tensors, meta), frozen)


def same(a: tuple[dict[str, Tensor], Any], b: tuple[dict[str, Tensor], Any]) -> bool:
    return a[1] == b[1] and all(torch.equal(a[0][name], b[0][name]) for name in a[0] | b[0])


def test_names_of_tensors_and_groups() -> None:
    model = make_model()
    optimizer = OPTIMIZERS["adam"](groups_of(model))
    train(model, optimizer, 1, 0)
    tensors, meta = named_state(optimizer, model.named_parameters())
    assert {name.rpartition("/")[0] for name in tensors} == {name for name, _ in model.named_parameters()}
    assert {name.rpartition("/")[2] for name in tensors} == {"step", "exp_avg", "exp_avg_sq"}
    host, seed = meta["groups"]
    assert (host["name"], host["base_lr"], host["lr"]) == ("host", 0.3, 0.01)
    assert (seed["name"], seed["born_step"], seed["warmup"], seed["on"]) == ("seed", 5, None, True)
    assert seed["params"] == ["3.weight", "3.bias"]


def test_an_optimiser_of_a_part_of_the_model() -> None:
    """Seeds in isolation have separate optimisers; all parameters of the model are named for each."""
    model = make_model()
    part = torch.optim.Adam(model[3].parameters())
    train(model, part, 2, 0)
    tensors, meta = named_state(part, model.named_parameters())
    assert set(meta["shapes"]) == {"3.weight", "3.bias"}
    other = torch.optim.Adam(model[3].parameters())
    load_named_state(other, model.named_parameters(), tensors, meta)
    assert torch.equal(other.state[model[3].weight]["exp_avg"], part.state[model[3].weight]["exp_avg"])


def test_order_of_groups_and_parameters_is_restored() -> None:
    model = make_model()
    optimizer = OPTIMIZERS["adam"](groups_of(model))
    train(model, optimizer, 1, 0)
    tensors, meta = named_state(optimizer, model.named_parameters())
    shuffled = [{"params": g["params"][::-1]} for g in reversed(groups_of(model))]
    other = OPTIMIZERS["adam"](shuffled)
    groups = other.param_groups
    load_named_state(other, model.named_parameters(), tensors, meta)
    assert other.param_groups is groups
    assert [g["name"] for g in other.param_groups] == ["host", "seed"]
    for group, expected in zip(other.param_groups, optimizer.param_groups, strict=True):
        assert list(map(id, group["params"])) == list(map(id, expected["params"]))


def test_state_keeps_its_own_dtype() -> None:
    """torch's load_state_dict would cast it to the parameter's."""
    model = make_model().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for p in model.parameters():
        optimizer.state[p] = {
            "momentum_buffer": torch.full(p.shape, 1 / 3),
            "kept": [True, (1, 2.5), {"a": None}],
        }
    tensors, meta = named_state(optimizer, model.named_parameters())
    other = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    load_named_state(other, model.named_parameters(), tensors, json.loads(json.dumps(meta)))
    entry = other.state[model[0].weight]
    assert entry["momentum_buffer"].dtype == torch.float32
    assert entry["kept"] == [True, (1, 2.5), {"a": None}]


@pytest.fixture
def saved() -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    model = make_model()
    optimizer = OPTIMIZERS["adam"](groups_of(model))
    train(model, optimizer, 1, 0)
    tensors, meta = named_state(optimizer, model.named_parameters())
    return model, tensors, json.loads(json.dumps(meta))


def refused(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Any, meta: Any, sentence: str | None
) -> None:
    """It raises, and the optimiser is as it was."""
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(CheckpointError, match=sentence):
        load_named_state(optimizer, model.named_parameters(), tensors, meta)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys()


Saved = tuple[nn.Module, dict[str, Tensor], dict[str, Any]]


def test_another_class_is_refused(saved: Saved) -> None:
    """Never a silent fresh start."""
    model, tensors, meta = saved
    refused(
        OPTIMIZERS["adamw"](groups_of(model)),
        model,
        tensors,
        meta,
        r"one of torch\.optim\.adam\.Adam;.*AdamW",
    )


def test_missing_and_unknown_parameters_are_named(saved: Saved) -> None:
    model, tensors, meta = saved
    fewer = OPTIMIZERS["adam"](groups_of(model)[:1])
    refused(fewer, model, tensors, meta, "does not hold: 3.bias, 3.weight")
    tensors, meta = named_state(fewer, model.named_parameters())
    refused(
        OPTIMIZERS["adam"](groups_of(model)),
        model,
        tensors,
        meta,
        "that the optimiser holds: 3.bias, 3.weight",
    )


def test_another_shape_is_named(saved: Saved) -> None:
    _, tensors, meta = saved
    other = make_model()
    other[3] = nn.Linear(4, 5)
    refused(
        OPTIMIZERS["adam"](groups_of(other)), other, tensors, meta, r"3.weight has shape \[5, 4\].*\[2, 4\]"
    )


def test_other_groups_are_named(saved: Saved) -> None:
    model, tensors, meta = saved
    merged = OPTIMIZERS["adam"]([{"params": list(model.parameters())}])
    refused(merged, model, tensors, meta, "no group of exactly the parameters of saved group 'host'")
    split = OPTIMIZERS["adam"]([*groups_of(model), {"params": []}])
    refused(split, model, tensors, meta, "1 groups that were not saved")


def test_tensors_must_fit_exactly(saved: Saved) -> None:
    model, tensors, meta = saved
    fresh = OPTIMIZERS["adam"](groups_of(model))
    name = "0.weight/exp_avg"
    refused(fresh, model, {**tensors, name: torch.zeros(2)}, meta, rf"{name} has shape \[2\]")
    refused(fresh, model, {k: v for k, v in tensors.items() if k != name}, meta, f"tensor {name} is missing")
    refused(fresh, model, {**tensors, "ghost/exp_avg": torch.zeros(2)}, meta, "ghost/exp_avg")


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta.pop("class"),
        lambda meta: meta.pop("groups"),
        lambda meta: meta.update(groups=3),
        lambda meta: meta.update(shapes=[]),
        lambda meta: meta.update(state=[]),
        lambda meta: meta["state"].update(ghost={}),
        lambda meta: meta["groups"][0].pop("params"),
        lambda meta: meta["groups"][0].update(params=["0.weight"] * 4),
        lambda meta: meta["groups"][1].update(params=["3.weight", "3.bias", "3.bias"]),
        lambda meta: meta["groups"][0].update(betas={"tuple": 3}),
        lambda meta: meta["groups"][0].update(betas={}),
        lambda meta: meta["groups"][0].update(betas={"object": "os.system"}),
        lambda meta: meta["state"]["0.weight"]["exp_avg"]["tensor"].update(on="nowhere"),
    ],
)
def test_what_is_not_whole_is_refused(saved: Saved, change: Callable[[dict[str, Any]], object]) -> None:
    model, tensors, meta = saved
    change(meta)
    refused(OPTIMIZERS["adam"](groups_of(model)), model, tensors, meta, None)


def test_what_cannot_be_saved_is_named() -> None:
    model = make_model()
    names = list(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(CheckpointError, match=r"holds a parameter of shape \(2,\) without a name"):
        named_state(optimizer, names[:-1])
    optimizer.state[model[0].weight]["hook"] = print
    with pytest.raises(CheckpointError, match=r"0\.weight/hook is a builtin_function_or_method"):
        named_state(optimizer, names)
    optimizer.state.clear()
    optimizer.state["global_step"] = {"n": 1}  # type: ignore[index]
    with pytest.raises(CheckpointError, match="belong to none of its parameters"):
        named_state(optimizer, names)


class Extended(torch.optim.SGD):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "slow_weights": []}


def test_state_outside_torchs_two_tables_is_refused() -> None:
    """An optimiser with additional state is rejected instead of being saved in part."""
    model = make_model()
    with pytest.raises(CheckpointError, match="Extended cannot be saved by name: it also has slow_weights"):
        named_state(Extended(model.parameters(), lr=0.1), model.named_parameters())


def capturable(groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=torch.tensor(0.01), capturable=True, amsgrad=True, foreach=False)


def test_a_capturable_optimiser_keeps_its_tensors() -> None:
    """Its rate and its step counts are tensors; it cannot step on a CPU, so its state is made by hand."""
    model = make_model()
    optimizer = capturable(groups_of(model))
    for i, p in enumerate(model.parameters()):
        moments = {key: torch.randn_like(p) for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}
        optimizer.state[p] = {"step": torch.tensor(float(i)), **moments}
    optimizer.param_groups[1]["lr"] = torch.tensor(0.1).sqrt()
    tensors, meta = named_state(optimizer, model.named_parameters())
    fresh = capturable(groups_of(model))
    load_named_state(fresh, model.named_parameters(), tensors, json.loads(json.dumps(meta)))
    assert_equal_state(optimizer, model, fresh, model)
    optimizer.param_groups[1]["lr"].zero_()
    assert fresh.param_groups[1]["lr"] > 0.3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "factory", [*map(OPTIMIZERS.get, ("adam", "fused", "momentum", "nadam")), capturable]
)
def test_state_is_where_torch_wants_it_on_cuda(factory: Factory) -> None:
    """From a CPU and from CUDA itself: the next step runs, and the latter repeats exactly."""
    model = make_model().cuda()
    optimizer = factory(groups_of(model))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for p in model.parameters():
            p.grad = torch.full_like(p, 0.3)
        optimizer.step()

    step(model, optimizer)
    tensors, meta = named_state(optimizer, model.named_parameters())
    for at in ("cuda", "cpu"):
        twin = copy.deepcopy(model)
        fresh = factory(groups_of(twin))
        load_named_state(fresh, twin.named_parameters(), {k: v.to(at) for k, v in tensors.items()}, meta)
        first = copy.deepcopy(model)
        again = factory(groups_of(first))
        load_named_state(again, first.named_parameters(), tensors, meta)
        step(first, again)
        step(twin, fresh)
        assert weights(first) == weights(twin)


CPU = torch.device("cpu")

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def there(tensor: Tensor, on: str) -> Tensor:
    return tensor.clone()


@given(values)
def test_values_come_back_as_they_were(value: Any) -> None:
    """Tuples stay tuples, integers integers, floats exact, through JSON."""
    packed = json.loads(json.dumps(Packer(copy=True).pack("a", value, CPU)))
    result = Unpacker({}).unpack("a", packed, there)
    assert result == value
    assert repr(result) == repr(value)


def test_tensors_are_kept_under_their_paths() -> None:
    packer = Packer(copy=True)
    packed = packer.pack("w", {"d": [torch.ones(2), (torch.tensor(3),)], "on": 1}, CPU)
    assert {path: tensor.tolist() for path, tensor in packer.tensors.items()} == {
        "w/d/0": [1, 1],
        "w/d/1/0": 3,
    }
    unpacker = Unpacker(packer.tensors)
    result = unpacker.unpack("w", json.loads(json.dumps(packed)), there)
    unpacker.check_all_used()
    assert result["d"][0].tolist() == [1, 1]
    assert isinstance(result["d"][1], tuple)
    assert result["on"] == 1


def test_where_a_tensor_was_is_known() -> None:
    seen = []
    packer = Packer(copy=True)
    packed = packer.pack("a", [torch.ones(1)], CPU), packer.pack("b", [torch.ones(1)], torch.device("meta"))
    unpacker = Unpacker(packer.tensors)
    for path, item in zip("ab", packed, strict=True):
        unpacker.unpack(path, item, lambda tensor, on: (seen.append(on), tensor)[1])
    assert seen == ["param", "cpu"]


def test_two_tensors_of_one_path_are_refused() -> None:
    packer = Packer(copy=True)
    packer.pack("a", torch.ones(1), CPU)
    with pytest.raises(CheckpointError, match="two tensors of the optimiser would be saved as a"):
        packer.pack("a", torch.ones(1), CPU)


@pytest.mark.parametrize("value", [object(), {1: 2}, {1, 2}, b"bytes", 1j, torch.float32])
def test_other_kinds_are_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"a/0 is a .*, which cannot be saved"):
        Packer(copy=True).pack("a", [value], CPU)
