"""The models that are measured, and how each runs alone in onnxruntime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.inference import open_inference
from edge_runtime.session import Float32, Session, State, session_from_bytes
from edge_runtime.simulated import Simulated, simulate_machine, write_csv
from export.describe import describe
from export.onnx_cells import OPSET
from export.to_onnx import IR_VERSION, trace, with_contract
from train.config import Files, ModelConfig, TrainConfig, override
from train.detector import Detector
from train.detectors import Checkpoint, load_checkpoint
from train.experiment import Experiment, Folder

PERIOD_MS, MAX_GAP_MS = 1000.0, 5000.0
START_NS = 1_767_225_600_000_000_000
FIT_ROWS, FIT_EPOCHS = 3000, 2

GATES = {torch.nn.LSTM: ("LSTM", (0, 3, 1, 2)), torch.nn.GRU: ("GRU", (1, 0, 2))}
"""Operator, and the order in which it wants the gates of PyTorch: i f g o to i o f c, r z n to
z r h."""

Module = torch.nn.LSTM | torch.nn.GRU


class Lstm(NamedTuple):
    """An untrained forecaster: in PyTorch, and as a gateway loads it."""

    detector: Detector
    session: Session


@dataclass(frozen=True, slots=True)
class Alone:
    """An ONNX file in onnxruntime, and nothing around it.

    Attributes:
        inference: Opened as the gateway opens it: one thread, no spinning.
        x: Name of the input for the samples.
        outputs: Names of all outputs; the score (or what stands for it) is the first, the states'
            successors are the last, in the order of ``states``.
        states: Names of the carried tensors.
        initial_state: Of so many streams.
    """

    inference: ort.InferenceSession
    x: str
    outputs: list[str]
    states: list[str]
    initial_state: Callable[[int], State]

    @classmethod
    def of(cls, session: Session) -> "Alone":
        """The same file as that of a gateway's session, opened again."""
        contract = session.contract
        outputs = [contract.score, *([contract.contribution] if contract.contribution else [])]
        return cls(
            open_inference(session.content),
            contract.x,
            outputs + [state.output for state in contract.states],
            [state.input for state in contract.states],
            contract.initial_state,
        )

    def run(self, x: Float32, state: State) -> tuple[Float32, State]:
        """One call.

        Args:
            x: ``[time, stream, feature]``.
            state: By input name.

        Returns:
            The first output, of a kernel ``[time, 1, stream, hidden]``, and the state after.
        """
        results = self.inference.run(self.outputs, {self.x: x, **state})
        after = results[len(results) - len(self.states) :]
        return results[0], dict(zip(self.states, after, strict=True))


@cache
def lstm(hidden: int = 64, features: int = 8, layers: int = 1) -> Lstm:
    """A forecaster with its initial weights."""
    torch.manual_seed(0)
    names = tuple(f"sensor_{number}" for number in range(features))
    detector = Detector(names, ModelConfig(cell="lstm", hidden=hidden, layers=layers)).eval()
    meta: dict[str, Any] = {
        "sample_period_ms": PERIOD_MS,
        "max_gap_ms": MAX_GAP_MS,
        "warm_up_steps": 8,
        "calibration": None,
        "training": {},
    }
    return Lstm(detector, _exported(Checkpoint(detector, meta)))


def _exported(checkpoint: Checkpoint) -> Session:
    """The file that `andon export` would write, without what it verifies, which takes longest."""
    contract = describe(checkpoint.detector, checkpoint.meta)
    return session_from_bytes(with_contract(trace(checkpoint.detector), contract))


def fitted_hybrid(folder: Path, machines: int) -> Session:
    """The default detector, fitted to simulated pumps, calibrated and exported.

    Everything is as by default but the passes over the history, of which there are few.

    Args:
        folder: Where history and run go.
        machines: How many pumps; fitted to one, it does not adapt to others.

    Raises:
        RuntimeError: If its network was left out.
    """
    folder.mkdir()
    files = []
    for name in (f"pump-{number + 1}" for number in range(machines)):
        path = folder / f"{name}.csv"
        files.append(Files((path,)))
        write_csv(path, [(name, pump(name, FIT_ROWS))], machine_column=False)
    config = override(TrainConfig(), {"epochs": FIT_EPOCHS})
    experiment, run = Experiment(config, files, lambda _: None), Folder(folder)
    progress = experiment.start()
    if progress is not None:
        for _ in experiment.fit(progress, run):
            pass
    experiment.finish(progress, run)
    session = _exported(load_checkpoint(run.checkpoint))
    if not session.contract.training.get("network"):
        raise RuntimeError("the fitted hybrid has no network: it did not earn its place")
    return session


def pump(name: str, rows: int) -> Simulated:
    """A simulated pump, once a second."""
    return simulate_machine(name, rows=rows, start_ns=START_NS)


def kernel(module: Module) -> Alone:
    """An ONNX graph with one operator: a layer of PyTorch, its state going in and coming out.

    Args:
        module: One layer, one direction, ``[time, stream, feature]``.
    """
    return Alone(
        open_inference(kernel_file(module)),
        "x",
        ["y", *(f"{name}_next" for name in _state_names(module))],
        list(_state_names(module)),
        lambda streams: {
            name: np.zeros((1, streams, module.hidden_size), np.float32)
            for name in _state_names(module)
        },
    )


def kernel_file(module: Module) -> bytes:
    """The bytes of the file of `kernel`."""
    operator, order = GATES[type(module)]
    names, hidden = _state_names(module), module.hidden_size
    of = {name: _ordered(tensor, order) for name, tensor in module.named_parameters()}
    tensors = {
        "w": of["weight_ih_l0"],
        "r": of["weight_hh_l0"],
        "b": torch.cat([of["bias_ih_l0"], of["bias_hh_l0"]]),
    }
    extra: dict[str, Any] = {"linear_before_reset": 1} if operator == "GRU" else {}
    nexts = [f"{name}_next" for name in names]
    inputs = ["x", "w", "r", "b", "", *names]
    node = helper.make_node(operator, inputs, ["y", *nexts], hidden_size=hidden, **extra)
    constants = [
        numpy_helper.from_array(tensor.detach().numpy()[np.newaxis], name)
        for name, tensor in tensors.items()
    ]
    carried: Sequence[int | str] = (1, "stream", hidden)
    graph = helper.make_graph(
        [node],
        "kernel",
        [_value("x", ("time", "stream", module.input_size)), *(_value(n, carried) for n in names)],
        [_value("y", ("time", 1, "stream", hidden)), *(_value(n, carried) for n in nexts)],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _state_names(module: Module) -> tuple[str, ...]:
    return ("h", "c") if isinstance(module, torch.nn.LSTM) else ("h",)


def _ordered(tensor: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """Its gates in the order that ONNX wants."""
    gates = torch.chunk(tensor, len(order))
    return torch.cat([gates[at] for at in order])


def _value(name: str, shape: Sequence[int | str]) -> Any:  # noqa: ANN401 - onnx has no types
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def normal(shape: Sequence[int], seed: int = 0) -> NDArray[np.float64]:
    """Samples of three digits behind the point, as transmitters send them."""
    drawn: NDArray[np.float64] = np.random.default_rng(seed).standard_normal(shape)
    return drawn.round(3)
