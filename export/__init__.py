"""From a trained detector to one verified ONNX file that carries its own contract."""
