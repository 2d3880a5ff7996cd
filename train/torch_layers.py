"""Weights from and to PyTorch's own recurrent layers.

The gates stand in the same order there. PyTorch adds a second bias to every gate; it counts in the
candidate of a ``GRU`` only, where the reset gate multiplies it, and is else added to the first.
"""

import torch
from torch import Tensor, nn

from edge_runtime.errors import TrainingError
from train.cell import Cell
from train.cells import GRU, IRNN, LSTM, Elman
from train.layers import Stack


def load_torch(stack: Stack, module: nn.RNNBase) -> None:
    """Takes over the weights of a PyTorch layer, in place.

    Args:
        stack: Of ``lstm``, ``gru``, ``elman`` or ``irnn``, as wide and deep as ``module``.
        module: An ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``.

    Raises:
        TrainingError: If the two are not the same network; nothing was taken over.
    """
    cells = [cell for cell in stack.cells if isinstance(cell, Cell)]
    if module.bidirectional or module.proj_size:
        what = "bidirectional" if module.bidirectional else "a projection"
        raise TrainingError(f"wanted one direction and no projection, got {what}")
    if module.num_layers != len(cells):
        raise TrainingError(f"wanted {len(cells)} layers, got {module.num_layers}")
    found = []
    for layer, cell in enumerate(cells):
        kind = _pytorch_name(cell)
        if kind != _mode(module):
            raise TrainingError(f"layer {layer + 1}: wanted {kind}, got {_mode(module)}")
        theirs = {
            name: getattr(module, f"{name}_l{layer}").detach()
            for name in ("weight_ih", "weight_hh")
        }
        ours = {"weight_ih": cell.W, "weight_hh": cell.U}
        for name, tensor in theirs.items():
            wanted = ours[name]
            if not isinstance(wanted, Tensor) or wanted.shape != tensor.shape:
                raise TrainingError(
                    f"layer {layer + 1}: {name} wants {_shape(wanted)}, got {_shape(tensor)}"
                )
        found.append((cell, theirs, _biases(module, layer, theirs["weight_ih"])))
    with torch.no_grad():
        for cell, theirs, (b, b_inside) in found:
            parameters = dict(cell.named_parameters())
            parameters["W"].copy_(theirs["weight_ih"])
            parameters["U"].copy_(theirs["weight_hh"])
            if isinstance(cell, GRU):
                parameters["b_U"].copy_(b_inside[2 * cell.hidden :])
                b_inside = b_inside.clone()
                b_inside[2 * cell.hidden :] = 0
            parameters["b"].copy_(b + b_inside)


def to_torch(stack: Stack) -> nn.RNNBase:
    """A PyTorch layer with a copy of the weights.

    Args:
        stack: Of one kind of cell: ``lstm``, ``gru``, ``elman`` or ``irnn``.

    Returns:
        An ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``, time first.

    Raises:
        TrainingError: If PyTorch has no such layer.
    """
    cells = [cell for cell in stack.cells if isinstance(cell, Cell)]
    names = {_pytorch_name(cell) for cell in cells}
    if len(names) > 1:
        raise TrainingError(f"PyTorch's layers are all of one kind, got {', '.join(sorted(names))}")
    (name,) = names
    first = cells[0]
    module = _MODULES[name](first.inputs, first.hidden, len(cells), **_ARGUMENTS.get(name, {}))
    module.to(first.W.dtype if isinstance(first.W, Tensor) else None)
    with torch.no_grad():
        for layer, cell in enumerate(cells):
            parameters = dict(cell.named_parameters())
            inside = torch.zeros_like(parameters["b"])
            if isinstance(cell, GRU):
                inside[2 * cell.hidden :] = parameters["b_U"]
            for theirs, ours in (
                ("weight_ih", parameters["W"]),
                ("weight_hh", parameters["U"]),
                ("bias_ih", parameters["b"]),
                ("bias_hh", inside),
            ):
                getattr(module, f"{theirs}_l{layer}").copy_(ours)
    return module


_MODULES: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN_TANH": nn.RNN,
    "RNN_RELU": nn.RNN,
}
_ARGUMENTS = {"RNN_RELU": {"nonlinearity": "relu"}}
_NAMES: dict[type[Cell], str] = {LSTM: "LSTM", GRU: "GRU", Elman: "RNN_TANH", IRNN: "RNN_RELU"}


def _mode(module: nn.RNNBase) -> str:
    return module.mode


def _pytorch_name(cell: Cell) -> str:
    name = _NAMES.get(type(cell))
    if name is None:
        raise TrainingError(f"PyTorch has no layer of {type(cell).__name__}")
    if isinstance(cell, GRU) and cell.reset == "before":
        raise TrainingError("PyTorch's GRU resets after the product, this one before it")
    if isinstance(cell, LSTM) and cell.squash != "tanh":
        raise TrainingError(f"PyTorch's LSTM squashes by tanh, this one by {cell.squash}")
    return name


def _biases(module: nn.RNNBase, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
    if not module.bias:
        return like.new_zeros(len(like)), like.new_zeros(len(like))
    outside, inside = (getattr(module, f"bias_{side}_l{layer}").detach() for side in ("ih", "hh"))
    return outside, inside


def _shape(tensor: object) -> list[int]:
    return list(tensor.shape) if isinstance(tensor, Tensor) else []
