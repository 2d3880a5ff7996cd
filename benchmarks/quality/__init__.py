"""How well the detectors find what is wrong, and how well they keep to the false alarms asked for.

One module for each data set, each with ``measure`` (one detector, one seed) and ``tables``.
"""
