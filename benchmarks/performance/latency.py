"""From publishing a sample to having its score, beside a program that sends back what comes.

The broker and the client that asks send at once (TCP_NODELAY). As mosquitto comes, it waits for
acknowledgements of the kernel, up to 40 ms, in which the difference between both sides drowns.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple
from unittest.mock import patch

import msgspec
import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.performance.chain import VARIETY, payloads
from benchmarks.performance.measure import Case, Figures, Measure, Plan, alternate
from benchmarks.performance.models import normal
from benchmarks.performance.processes import DAEMON, ECHO, QUIET_S, Program, place_for
from benchmarks.throughput import FEATURES, START_MS
from edge_runtime import broker

RATE = 100  # messages a second
STREAMS = 100
BAR = 1.5

Arrivals = SimpleQueue[tuple[float, bytes]]


class Latency(NamedTuple):
    """Milliseconds of one turn."""

    p50: float
    p99: float


def measure(plan: Plan) -> Iterator[Figures]:
    """Row 6: a turn gives the median and the 99th percentile of its messages."""
    count = plan.size(800, 300)
    programs = {"ours": DAEMON.having('emit = "scores"'), "beside": ECHO}
    turns = alternate(
        {name: partial(_turn, plan, program, count) for name, program in programs.items()},
        plan.live_rounds,
        warm=False,
    )
    for field in Latency._fields:
        ours, beside = ([getattr(t, field) for t in turns[name]] for name in programs)
        yield Figures(ours, beside)


def _turn(plan: Plan, program: Program, count: int) -> Latency:
    with (
        patch.object(broker, "MOSQUITTO", f"{broker.MOSQUITTO}set_tcp_nodelay true\n"),
        place_for(program, plan.folder) as place,
        place.ready(),
        _client(place.broker.port) as (client, arrivals),
    ):
        sent = _send(client, count)
        arrived = dict(_arrived(arrivals, count))
    first = STREAMS  # a stream's first sample makes room for it
    ms = [(arrived[ts] - sent[ts]) * 1000 for ts in list(sent)[first:]]
    p50, p99 = np.percentile(ms, [50, 99]).tolist()
    return Latency(p50, p99)


def _send(client: mqtt.Client, count: int) -> dict[int, float]:
    """Publishes when it is time to; gives when that was, by the message's own time."""
    bodies = payloads(normal((VARIETY, len(FEATURES))))
    sent, begin = {}, time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
        ts = START_MS + number * 1000 // RATE
        payload = f'{{"ts": {ts}, "values": {bodies[number % VARIETY]}}}'
        sent[ts] = time.perf_counter()
        client.publish(f"plant/m{number % STREAMS}/telemetry", payload, qos=1)
    return sent


def _arrived(arrivals: Arrivals, count: int) -> Iterator[tuple[int, float]]:
    for number in range(count):
        try:
            at, payload = arrivals.get(timeout=QUIET_S)
        except Empty:
            raise TimeoutError(f"wanted {count} answers, got {number}") from None
        yield msgspec.json.decode(payload)["ts"], at


@contextmanager
def _client(port: int) -> Iterator[tuple[mqtt.Client, Arrivals]]:
    """A client that hears the scores, in a thread of its own."""
    arrivals: Arrivals = SimpleQueue()
    granted: SimpleQueue[None] = SimpleQueue()

    def on_message(_client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        arrivals.put((time.perf_counter(), bytes(message.payload)))

    client = mqtt.Client(CallbackAPIVersion.VERSION2, "asker", protocol=mqtt.MQTTv5)
    client.on_message = on_message
    client.on_socket_open = _at_once
    client.on_subscribe = lambda *_: granted.put(None)
    client.connect(broker.HOST, port)
    client.subscribe("andon/+/anomaly", qos=1)
    client.loop_start()
    try:
        granted.get(timeout=QUIET_S)
        yield client, arrivals
    finally:
        client.disconnect()
        client.loop_stop()


def _at_once(_client: mqtt.Client, _: object, connection: object) -> None:
    """No message waits for the acknowledgement of the one before it."""
    if isinstance(connection, socket.socket):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


MEASURE = Measure(
    6,
    f"latency at {RATE} messages a second, published to score received",
    "a paho process that sends back what it gets",
    [Case(field, BAR, "ms") for field in Latency._fields],
    measure,
)
