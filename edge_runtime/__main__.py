"""``python -m edge_runtime`` is `andon`."""

from edge_runtime.cli import main

main()
