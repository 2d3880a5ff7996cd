"""From a machine's healthy history to a calibrated detector, in PyTorch."""
