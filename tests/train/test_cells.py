"""Cells beside what others made of the same papers, and how they begin.

Their equations are tested in `tests/checks.py`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from edge_runtime.errors import ConfigError, TrainingError
from train.cell import Cell
from train.cells import CELLS, GRU, IRNN, LSTM, SCRN, Clockwork, PeepholeLSTM
from train.config import ModelConfig
from train.layers import Stack, over_time
from train.torch_layers import load_torch, to_torch

INPUTS, HIDDEN, STREAMS, STEPS = 3, 8, 2, 13
LAYERS = {"elman": nn.RNN, "irnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def randomised(module: nn.Module) -> nn.Module:
    """Random biases too, so that a wrong order of gates shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.copy_(noise * 0.4)
    return module


def stack_of(name: str, layers: int = 2, **options: Any) -> Stack:
    stack = randomised(Stack((name,) * layers, INPUTS, HIDDEN, options).double())
    assert isinstance(stack, Stack)
    return stack


def random_input() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(STEPS, STREAMS, INPUTS, generator=generator, dtype=torch.float64)


def weights_of(cell: Cell) -> Mapping[str, Tensor]:
    return dict(cell.named_parameters())


# --- PyTorch's layers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_weights_go_to_pytorch_and_agree_in_value_and_gradient(name: str) -> None:
    stack, x = stack_of(name), random_input()
    layer = to_torch(stack)
    assert isinstance(layer, LAYERS[name])
    y, state = stack(x, stack.initial_state(STREAMS))
    theirs, last = layer(x)
    torch.testing.assert_close(y, theirs)
    top = last[0] if isinstance(last, tuple) else last  # [layer, stream, hidden]
    torch.testing.assert_close(state["h_2"], top[1])
    if isinstance(last, tuple):
        torch.testing.assert_close(state["c_1"], last[1][0])
    y.square().sum().backward()
    theirs.square().sum().backward()
    for at, cell in enumerate(stack.cells):
        assert isinstance(cell, Cell)
        ours = weights_of(cell)
        torch.testing.assert_close(ours["U"].grad, getattr(layer, f"weight_hh_l{at}").grad)
        torch.testing.assert_close(ours["W"].grad, getattr(layer, f"weight_ih_l{at}").grad)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("biased", [True, False])
def test_weights_come_from_pytorch_and_agree(name: str, biased: bool) -> None:
    relu = {"nonlinearity": "relu"} if name == "irnn" else {}
    layer = LAYERS[name](INPUTS, HIDDEN, 2, bias=biased, **relu).double()
    randomised(layer)
    stack, x = stack_of(name), random_input()
    load_torch(stack, layer)
    torch.testing.assert_close(stack(x, stack.initial_state(STREAMS))[0], layer(x)[0])
    back = to_torch(stack)
    torch.testing.assert_close(back(x)[0], layer(x)[0])


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.GRU(INPUTS, HIDDEN, 2), "layer 1: wanted LSTM, got GRU"),
        (nn.LSTM(INPUTS, HIDDEN, 1), "wanted 2 layers, got 1"),
        (nn.LSTM(INPUTS, 9, 2), r"layer 1: weight_ih wants \[32, 3\], got \[36, 3\]"),
        (nn.LSTM(4, HIDDEN, 2), r"layer 1: weight_ih wants \[32, 3\], got \[32, 4\]"),
        (nn.LSTM(INPUTS, HIDDEN, 2, bidirectional=True), "one direction .* got bidirectional"),
        (nn.LSTM(INPUTS, HIDDEN, 2, proj_size=2), "no projection, got a projection"),
    ],
)
def test_a_layer_that_is_another_network_is_refused_whole(layer: nn.RNNBase, reason: str) -> None:
    stack = stack_of("lstm")
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    with pytest.raises(TrainingError, match=reason):
        load_torch(stack, layer)
    assert all(torch.equal(value, before[name]) for name, value in stack.state_dict().items())


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        (Stack(("scrn",), 2, 4), "PyTorch has no layer of SCRN"),
        (Stack(("gru", "lstm"), 2, 4), "all of one kind, got GRU, LSTM"),
        (Stack(("gru",), 2, 4, {"reset": "before"}), "resets after the product, this one before"),
        (Stack(("lstm",), 2, 4, {"squash": "identity"}), "squashes by tanh, this one by identity"),
    ],
)
def test_what_pytorch_has_no_layer_for_is_said(stack: Stack, reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        to_torch(stack)


# --- ONNX's reference evaluator ------------------------------------------------------------------


def by_the_reference(kind: str, inputs: dict[str, Tensor], **attributes: Any) -> np.ndarray:
    """What the definition of the operator, as ONNX's authors run it, makes of the weights."""
    names = list(inputs)
    arrays = {name: value.detach().double().numpy() for name, value in inputs.items()}
    node = helper.make_node(kind, names, ["y"], hidden_size=HIDDEN, **attributes)
    declared = [
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, array.shape)
        for name, array in arrays.items()
        if name
    ]
    output = helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None] * 4)
    graph = helper.make_graph([node], "reference", declared, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    given = {name: array for name, array in arrays.items() if name}
    (y,) = ReferenceEvaluator(model).run(None, given)
    return np.asarray(y)[:, 0]  # [time, stream, hidden]


def reordered(stacked: Tensor, order: tuple[int, ...]) -> Tensor:
    blocks = stacked.chunk(len(order))
    return torch.cat([blocks[at] for at in order]).unsqueeze(0)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_both_resets_of_gru_agree_with_the_reference_evaluator(reset: str) -> None:
    cell, x = GRU(INPUTS, HIDDEN, reset).double(), random_input()  # type: ignore[arg-type]
    randomised(cell)
    zeros = torch.zeros(3 * HIDDEN).double()
    inside = zeros.clone()
    if reset == "after":
        inside[2 * HIDDEN :] = cell.b_U
    inputs = {
        "x": x,
        "W": reordered(cell.W, (1, 0, 2)),
        "R": reordered(cell.U, (1, 0, 2)),
        "B": torch.cat([reordered(cell.b, (1, 0, 2)), inside.unsqueeze(0)], dim=1),
    }
    wanted = by_the_reference("GRU", inputs, linear_before_reset=int(reset == "after"))
    y, _ = over_time(cell, x, cell.initial_state(STREAMS))
    np.testing.assert_allclose(y.detach().numpy(), wanted, atol=1e-12)


def test_peepholes_agree_with_the_reference_evaluator() -> None:
    cell, x = PeepholeLSTM(INPUTS, HIDDEN).double(), random_input()
    randomised(cell)
    order = (0, 3, 1, 2)
    biases = torch.cat([reordered(cell.b, order), torch.zeros(1, 4 * HIDDEN).double()], dim=1)
    state = torch.zeros(1, STREAMS, HIDDEN).double()
    inputs = {
        "x": x,
        "W": reordered(cell.W, order),
        "R": reordered(cell.U, order),
        "B": biases,
        "": torch.zeros(0),
        "h": state,
        "c": state,
        "P": reordered(cell.P, (0, 2, 1)),
    }
    wanted = by_the_reference("LSTM", inputs)
    y, _ = over_time(cell, x, cell.initial_state(STREAMS))
    np.testing.assert_allclose(y.detach().numpy(), wanted, atol=1e-12)


# --- How a cell begins ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LSTM, PeepholeLSTM])
def test_a_fresh_lstm_remembers(kind: type[LSTM | PeepholeLSTM]) -> None:
    cell = kind(INPUTS, HIDDEN)
    forget = slice(HIDDEN, 2 * HIDDEN)
    assert torch.equal(cell.b[forget], torch.ones(HIDDEN))
    assert not cell.b[:HIDDEN].any()
    assert not cell.b[2 * HIDDEN :].any()


@pytest.mark.parametrize("name", ["elman", "jordan", "lstm", "lstm_peephole", "gru", "scrn"])
def test_recurrent_weights_start_orthogonal_in_every_gate(name: str) -> None:
    cell = CELLS[name](INPUTS, HIDDEN)
    for key in {"U", "V", "R"} & set(weights_of(cell)):
        for gate in weights_of(cell)[key].split(HIDDEN):  # type: ignore[no-untyped-call]
            torch.testing.assert_close(gate @ gate.T, torch.eye(HIDDEN), atol=1e-5, rtol=0)


def test_a_fresh_irnn_adds_up_what_it_is_given() -> None:
    cell = IRNN(1, HIDDEN)
    assert torch.equal(cell.U, torch.eye(HIDDEN))
    assert not cell.b.any()
    assert 0 < cell.W.std() < 0.005  # 0.001 in the paper; eight numbers scatter
    x = torch.rand(50, 1, 1)
    y, _ = over_time(cell, x, cell.initial_state(1))
    wanted = torch.relu(x.sum() * cell.W.T)
    torch.testing.assert_close(y[-1], wanted)


def test_every_cell_that_remembers_starts_at_zero_and_says_what_it_carries() -> None:
    for name, kind in CELLS.items():
        cell = kind(INPUTS, HIDDEN)
        state = cell.initial_state(STREAMS)
        assert len(state) == len(cell.carried), name
        assert not any(value.any() for value in state), name
        y, after = cell.step(torch.ones(STREAMS, INPUTS), state)
        assert y.shape == (STREAMS, cell.outputs), name
        assert [(v.shape, v.dtype) for v in after] == [(v.shape, v.dtype) for v in state], name


# --- What is particular to one -------------------------------------------------------------------


def test_a_clockwork_module_rests_between_its_ticks_and_hears_no_faster_one() -> None:
    cell = Clockwork(INPUTS, 6, periods=(1, 2, 6))
    x = torch.randn(13, 1, INPUTS, generator=torch.Generator().manual_seed(1))
    y, (_, clock) = over_time(cell, x, cell.initial_state(1))
    moved = (y[1:] != y[:-1]).squeeze(1).reshape(12, 3, 2).any(dim=2)  # [step 1 to 12, module]
    for step in range(1, 13):
        assert moved[step - 1].tolist() == [True, step % 2 == 0, step % 6 == 0]
    assert int(clock) == 13 % 6
    h = torch.zeros(1, 6, requires_grad=True)
    for row in range(6):
        cell.step(x[0], (h, torch.zeros(1, dtype=torch.int64)))[0][0, row].backward()  # type: ignore[no-untyped-call]
        heard = h.grad is not None and (h.grad[0] != 0)
        assert isinstance(heard, Tensor)
        assert heard.tolist() == [unit // 2 >= row // 2 for unit in range(6)]
        h.grad = None


def test_the_context_of_scrn_fades_at_the_rate_that_alpha_says() -> None:
    cell = SCRN(1, HIDDEN, context=3, alpha=0.95)
    x = torch.zeros(20, 1, 1)
    y, (h, s) = over_time(cell, x, (torch.zeros(1, HIDDEN), torch.ones(1, 3)))
    torch.testing.assert_close(s, torch.full((1, 3), 0.95**20))
    assert torch.equal(y[-1], torch.cat([h, s], dim=1))
    assert SCRN(1, 40).context == 10


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"cell": "lsmt"}, 'cell: wanted a cell, one of dense, elman, .*, scrn; got "lsmt"'),
        ({"layers": ("gru", "lsmt")}, 'layers 2: wanted a cell, one of dense, .*; got "lsmt"'),
        ({"layers": ()}, "layers: wanted at least one cell, got none"),
        ({"layers": 0}, "layers: wanted 1 or more, got 0"),
        ({"cell": "gru", "layers": ("lstm",)}, "cell: layers names the cells already"),
        ({"reset": "before", "cell": "lstm"}, "reset: belongs to gru, the layers are lstm"),
        ({"layers": ("gru", "scrn"), "periods": (1, 2)}, "periods: belongs to clockwork, the lay"),
        (
            {"cell": "clockwork", "hidden": 30},
            r"clockwork: 4 periods \[1, 2, 4, 8\] .* wanted a multiple of 4, got hidden = 30",
        ),
        (
            {"cell": "clockwork", "periods": (2, 1)},
            r"periods: .* ascending periods .* got \[2, 1\]",
        ),
        ({"cell": "clockwork", "periods": (0, 1)}, r"ascending periods .* got \[0, 1\]"),
        ({"cell": "clockwork", "periods": ()}, r"ascending periods .* got \[\]"),
        (
            {"cell": "clockwork", "periods": (65536, 65537)},
            r"begin anew within 2\^31 samples, got \[65536, 65537\]",
        ),
        ({"look_ahead": -1}, "look_ahead: wanted 0 to 256, got -1"),
        ({"alpha": 1.5, "cell": "scrn"}, "alpha: wanted less than 1, got 1.5"),
    ],
)
def test_impossible_networks_are_refused_with_the_reason(
    settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        ModelConfig(**settings)


def test_a_cell_refuses_what_its_configuration_would_have() -> None:
    with pytest.raises(ValueError, match="wanted a multiple of 4, got hidden = 30"):
        Clockwork(1, 30)


def test_the_abstract_cell_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="step"):
        Cell(1, 1)  # type: ignore[abstract]
