"""``python -m edge_runtime`` is `andon`."""

from edge_runtime.cli import main

# Processes that are spawned import this module under another name.
if __name__ == "__main__":
    main()
