"""Everything that can go wrong, on purpose: kills, bad networks, bad disks, bad input, long runs.

The machines, the listener, the daemon and the broker are real processes and threads of their own.
Whatever is done to them, what the gateway publishes must be what an offline replay of the machines'
messages gives, compared with ``==``, and so must what it remembers (`torture.reference`).
"""
