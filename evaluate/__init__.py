"""How well detectors find what is wrong, measured so that a clock could not win."""
