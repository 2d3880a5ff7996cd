"""What has arrived and was not taken yet."""

from edge_runtime.inbox import Inbox
from edge_runtime.mqtt import Message


def message(mid: int, connection: int, *, dup: bool = False) -> Message:
    return Message("in/a", b"%d" % mid, mid, 1, dup, retain=False, connection=connection)


def test_what_is_sent_again_is_acknowledged_in_the_order_in_which_it_came() -> None:
    """One message was taken and could not be acknowledged; two more waited."""
    inbox = Inbox()
    inbox.add([message(mid, 1) for mid in (1, 2, 3)])
    inbox.take(1)
    inbox.add([*(message(mid, 2, dup=True) for mid in (1, 2, 3)), message(4, 2)])
    assert len(inbox) == 4
    taken = inbox.take(10)
    assert [one.mid for one in taken if one.connection == 2] == [1, 2, 3, 4]
    assert [one.dup for one in taken] == [True, False, False, False]


def test_a_copy_whose_first_is_another_message_replaces_nothing() -> None:
    """A broker without our session begins its message ids anew."""
    inbox = Inbox()
    inbox.add([message(1, 1), message(2, 1)])
    other = Message("in/a", b"other", 1, 1, dup=True, retain=False, connection=2)
    inbox.add([other])
    assert [(one.payload, one.connection) for one in inbox.take(10)] == [
        (b"1", 1),
        (b"2", 1),
        (b"other", 2),
    ]
