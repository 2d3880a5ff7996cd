"""When an acknowledgement counts for good."""

import random

from edge_runtime.outgoing import Outgoing, Parcel


class Broker:
    """A broker that acknowledges when it is told to."""

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []

    def publish(self, parcel: Parcel) -> int:
        self.parcels.append(parcel)
        return len(self.parcels)

    @property
    def texts(self) -> list[str]:
        return [parcel.payload.decode() for parcel in self.parcels]


def put(outgoing: Outgoing, *texts: str, retain: bool = False) -> None:
    for text in texts:
        outgoing.put(Parcel("out", text.encode(), retain, ord(text[0])))


def tokens(outgoing: Outgoing) -> str:
    return "".join(map(chr, outgoing.delivered()))


def test_one_that_was_in_flight_already_does_not_confirm() -> None:
    outgoing, broker = Outgoing(), Broker()
    put(outgoing, "a", "b")
    outgoing.send(broker.publish, 10)
    outgoing.acknowledge(1)
    outgoing.acknowledge(2)  # perhaps in the same turn of the broker, which has saved neither
    assert len(outgoing) == 0
    assert tokens(outgoing) == ""
    put(outgoing, "c")
    outgoing.send(broker.publish, 10)
    outgoing.acknowledge(3)
    assert tokens(outgoing) == "ab"


def test_a_new_connection_begins_with_what_is_not_certain_in_order() -> None:
    outgoing, broker = Outgoing(), Broker()
    put(outgoing, "a", "b", "c", "d", "e")
    outgoing.send(broker.publish, 4)
    outgoing.acknowledge(3)
    outgoing.acknowledge(1)
    outgoing.again()
    assert len(outgoing) == 5
    after = Broker()
    outgoing.send(after.publish, 10)
    assert after.texts == ["a", "b", "c", "d", "e"]
    for mid in range(1, 6):
        outgoing.acknowledge(mid)
    assert tokens(outgoing) == ""
    put(outgoing, "f")
    outgoing.send(after.publish, 10)
    outgoing.acknowledge(6)
    assert tokens(outgoing) == "abcde"


def test_what_is_for_good_is_not_sent_again() -> None:
    outgoing, broker = Outgoing(), Broker()
    for mid, text in enumerate("abc", start=1):
        put(outgoing, text)
        outgoing.send(broker.publish, 10)
        outgoing.acknowledge(mid)
    outgoing.again()
    after = Broker()
    outgoing.send(after.publish, 10)
    assert after.texts == ["c"]


def test_a_retained_one_counts_at_once() -> None:
    outgoing, broker = Outgoing(), Broker()
    put(outgoing, "a")
    outgoing.send(broker.publish, 10)
    outgoing.acknowledge(1)
    put(outgoing, "s", retain=True)
    outgoing.send(broker.publish, 10)
    outgoing.acknowledge(2)
    assert tokens(outgoing) == "sa"
    outgoing.again()
    assert len(outgoing) == 0


def test_a_refused_one_is_not_sent_again() -> None:
    outgoing, broker = Outgoing(), Broker()
    put(outgoing, "a")
    outgoing.send(broker.publish, 10)
    parcel = outgoing.acknowledge(1, refused=True)
    assert parcel is not None
    assert parcel.payload == b"a"
    assert tokens(outgoing) == "a"
    outgoing.again()
    assert len(outgoing) == 0


def test_an_acknowledgement_of_nothing() -> None:
    outgoing = Outgoing()
    assert outgoing.acknowledge(7) is None


def test_no_room_for_the_identifier() -> None:
    outgoing, broker = Outgoing(), Broker()
    put(outgoing, "a")
    outgoing.send(lambda _: None, 10)
    assert len(outgoing) == 1
    outgoing.send(broker.publish, 10)
    assert broker.texts == ["a"]


def test_whatever_a_broker_forgets_in_its_last_turn_comes_in_order() -> None:
    """One that reads some packets at a time, answers them, and saves what it has read then."""
    chance = random.Random(5)
    texts = [chr(number) for number in range(0x4E00, 0x4E00 + 3000)]
    outgoing, rest, saved = Outgoing(), list(texts), []
    while rest or len(outgoing):
        broker, read = Broker(), 0
        outgoing.again()
        for _ in range(chance.randrange(1, 30)):
            some = chance.randrange(0, 12)
            put(outgoing, *rest[:some])
            del rest[:some]
            outgoing.send(broker.publish, 20)
            turn = broker.parcels[read : read + chance.randrange(0, 5)]
            for number in range(read + 1, read + len(turn) + 1):
                outgoing.acknowledge(number)
            read += len(turn)
            if chance.random() < 0.1:
                break  # killed between answering and saving
            saved += [parcel.payload.decode() for parcel in turn]
    assert set(texts[:-1]) <= set(saved)  # the very last one waits for another
    first = list(dict.fromkeys(saved))
    assert first == texts[: len(first)]
