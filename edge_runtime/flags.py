"""What is said when a lamp changes."""

import hashlib

import numpy as np

from edge_runtime.payload import Flag, ScoreLine, Share
from edge_runtime.session import Float32, Session

TOP_FEATURES = 3


def flag_of(session: Session, line: ScoreLine, shares: Float32 | None) -> Flag:
    """The flag for a sample that decided.

    Args:
        session: The model.
        line: What is said of the sample; ``alarm`` is what the lamp is from now on.
        shares: ``[feature]``, each sensor's share in the score; None if the model has none.
    """
    event = "raised" if line.alarm else "cleared"
    return Flag(
        id=flag_id(session.digest, line.stream, line.ts, event, line.seq),
        stream=line.stream,
        ts=line.ts,
        seq=line.seq,
        event=event,
        score=line.score,
        status=line.status,
        top=() if shares is None else _top(session.contract.feature_names, shares),
        model=session.digest[:16],
    )


def flag_id(digest: str, stream: str, ts_ns: int, event: str, seq: int | None = None) -> str:
    """The id of a flag: the same wherever and whenever the same thing is decided.

    Args:
        digest: SHA-256 of the model file.
        stream: Name of the stream.
        ts_ns: Nanoseconds since 1970 UTC.
        event: ``raised`` or ``cleared``.
        seq: The device's own count of the sample, if it gave one.

    Returns:
        32 hexadecimal digits.
    """
    count = () if seq is None else (str(seq),)
    key = "\0".join((digest, stream, str(ts_ns), event, *count))
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _top(names: tuple[str, ...], shares: Float32) -> tuple[Share, ...]:
    order = np.argsort(-shares, kind="stable")[:TOP_FEATURES]
    return tuple(Share(names[i], round(float(shares[i]), 4)) for i in order)
