"""Payloads that nobody should send: odd forms that hypothesis thinks of, and mutated real messages.

Hypothesis finds some hundreds of forms, near to samples and far from them; chance then cuts, joins,
flips, nests and repeats these and real messages, as many as are wanted. Half of what is surely no
sample goes to machines that send good ones as well.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import PayloadError
from edge_runtime.payload import Decoder
from sample_models import FEATURES
from torture.story import PLANT, Story
from torture.tape import Message

MAX_BYTES = 1 << 20
STRANGERS = 500
_ODD = (b"[", b"{", b'"', b",", b"1e999", b"\0", b"\xff", b"-", b"null", b"\\ud800")
_FORMS = 1000


class Hostile(NamedTuple):
    """A message, and whether the decoder takes it for samples after all."""

    message: Message
    is_sample: bool


def hostile(seed: int, count: int, machines: int) -> Iterator[Hostile]:
    """Yields so many messages, the same for the same seed.

    Args:
        seed: Of all chance in it.
        count: How many.
        machines: How many good machines there are, on the topics `PLANT`.
    """
    chance = random.Random(seed)
    decoder = Decoder(FEATURES, MAX_BYTES)
    pool = [
        *forms(),
        *(payload for _, payload in Story(seed=seed, streams=50, rounds=4).messages()),
    ]
    good = [PLANT.format(machine).encode() for machine in range(machines)]
    for _ in range(count):
        payload = mutated(pool, chance)
        try:
            decoder.decode(payload)
        except PayloadError:
            is_sample = False
        else:
            is_sample = True
        own = not is_sample and chance.random() < 0.5
        topic = chance.choice(good) if own else _strange(chance)
        yield Hostile((topic, payload), is_sample)


@cache
def forms() -> Sequence[bytes]:
    """What hypothesis thinks of; always the same."""
    found: list[bytes] = []

    @settings(
        max_examples=_FORMS,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(_json(), _near_samples(), st.binary(max_size=200)))
    def collect(value: Any) -> None:
        found.append(value if isinstance(value, bytes) else json.dumps(value).encode())

    collect()
    return found


def mutated(pool: Sequence[bytes], chance: random.Random) -> bytes:
    """One of them: cut, flipped, joined, ended oddly, nested, repeated, or as it is."""
    body = chance.choice(pool)
    at = chance.randrange(len(body) + 1)
    ways: Sequence[Callable[[], bytes]] = (
        lambda: body,
        lambda: body[:at],
        lambda: body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :],
        lambda: body[:at] + chance.choice(pool)[at:],
        lambda: body[:at] + chance.choice(_ODD) + body[at:],
        lambda: b"[" * chance.randrange(1, 2000) + body,
        lambda: body[:at] + body[at : at + 9] * chance.randrange(1, 40) + body[at:],
    )
    return chance.choice(ways)()


def _strange(chance: random.Random) -> bytes:
    """A topic of a machine that nobody knows, or of none at all."""
    name = f"x{chance.randrange(STRANGERS)}"
    form = chance.choice(
        (PLANT, PLANT, PLANT, "hall/{}\N{SNOWMAN}/telemetry", "plant/{}/a/telemetry")
    )
    return form.format(name).encode()


def _json() -> "st.SearchStrategy[Any]":
    numbers = st.one_of(
        st.integers(-(10**40), 10**40),
        st.floats(),
        st.sampled_from([0, -1, 2**63, 1e308, 5e-324, 1.7e12, 1_767_225_600_000]),
    )
    keys = st.one_of(
        st.sampled_from(["ts", "values", "seq", "period_ms", *FEATURES]), st.text(max_size=8)
    )
    leaves = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=6), st.dictionaries(keys, inner, max_size=6)
        ),
        max_leaves=25,
    )


def _near_samples() -> "st.SearchStrategy[Any]":
    """Almost a sample: one thing in it may be anything."""
    number, count = st.floats(-1e6, 1e6), len(FEATURES)
    values = st.one_of(
        st.lists(number, min_size=count, max_size=count),
        st.fixed_dictionaries(dict.fromkeys(FEATURES, st.one_of(number, st.floats()))),
        st.lists(st.lists(number, min_size=count, max_size=count), max_size=4),
        _json(),
    )
    ts = st.one_of(st.integers(0, 2**41), st.just("2026-01-01T00:00:00Z"), _json())
    sample = st.fixed_dictionaries(
        {"ts": ts, "values": values}, optional={"seq": _json(), "period_ms": _json()}
    )
    return st.one_of(sample, st.lists(sample, max_size=4))
