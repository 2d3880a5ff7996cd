"""TLS: who is trusted, which files cannot be used, and that nothing is left unread."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Broker, Certificates, MakeBroker
from edge_runtime.config import BrokerConfig
from edge_runtime.errors import BrokerError
from edge_runtime.link import Publisher
from links import RunLink, numbers, send, subscribed, texts, unusable

pytestmark = pytest.mark.usefixtures("short_ticks")


def test_mutual_tls(tls_broker: Broker, certificates: Certificates, run: RunLink) -> None:
    config = _tls_config(tls_broker, certificates)
    running = subscribed(run(config), config)
    send(config, ["a"])
    assert texts(running.acknowledged(1)) == ["a"]
    assert running.link.close()


@pytest.mark.parametrize(
    ("ca", "cert", "complaint"),
    [
        ("other_ca", "client", "certificate not accepted: .*ca: .*other_ca.pem"),
        (None, "client", "certificate not accepted: .*ca: that of this system"),
        ("ca", None, "hang-up.*see cert and key"),
    ],
    ids=["wrong ca", "system ca", "no client certificate"],
)
def test_tls_refused(
    tls_broker: Broker,
    certificates: Certificates,
    run: RunLink,
    caplog: pytest.LogCaptureFixture,
    ca: str | None,
    cert: str | None,
    complaint: str,
) -> None:
    config = replace(
        _tls_config(tls_broker, certificates),
        ca=getattr(certificates, ca) if ca else None,
        cert=certificates.client if cert else None,
        key=certificates.client_key if cert else None,
    )
    with pytest.raises(BrokerError, match=complaint), Publisher(config):
        pass
    run(config).run(until=lambda: caplog.text.count("next attempt") > 1)
    assert caplog.messages[0].startswith(f"{config.url}: ")


def test_the_name_of_the_broker_is_verified(
    make_broker: MakeBroker, certificates: Certificates
) -> None:
    broker = make_broker(
        f"certfile {certificates.elsewhere}", f"keyfile {certificates.elsewhere_key}"
    )
    broker.start()
    with (
        pytest.raises(BrokerError, match=r"certificate not accepted: .*(?i:mismatch)"),
        Publisher(_tls_config(broker, certificates)),
    ):
        pass


def _tls_config(broker: Broker, certificates: Certificates) -> BrokerConfig:
    return BrokerConfig(
        url=f"mqtts://localhost:{broker.port}",
        client_id="gateway",
        ca=certificates.ca,
        cert=certificates.client,
        key=certificates.client_key,
    )


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_unusable_certificates_are_named(
    certificates: Certificates, tmp_path: Path, content: bytes | None
) -> None:
    path = unusable(tmp_path, "file.pem", content)
    config = BrokerConfig(url="mqtts://127.0.0.1", client_id="gateway")
    with pytest.raises(BrokerError, match=f"^ca {path}: cannot be used: "):
        Publisher(replace(config, ca=path))
    with pytest.raises(BrokerError, match=f"^cert {path}, key {certificates.client_key}: cannot"):
        Publisher(replace(config, cert=path, key=certificates.client_key))


def test_a_key_of_another_certificate_is_named(certificates: Certificates) -> None:
    config = BrokerConfig(
        url="mqtts://127.0.0.1",
        client_id="gateway",
        cert=certificates.client,
        key=certificates.server_key,
    )
    with pytest.raises(BrokerError, match=f"key {certificates.server_key}: .*(?i:mismatch)"):
        Publisher(config)


def test_a_locked_key_does_not_ask_at_the_terminal(
    certificates: Certificates, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    given, wanted = str(certificates.client_key), str(locked)
    command = ["openssl", "pkey", "-in", given, "-aes128", "-passout", "pass:x", "-out", wanted]
    subprocess.run(command, check=True, capture_output=True)
    config = BrokerConfig(
        url="mqtts://127.0.0.1", client_id="gateway", cert=certificates.client, key=locked
    )
    with pytest.raises(BrokerError, match=f"^key {locked}: wanted a key without a password"):
        Publisher(config)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_what_a_broker_has_sent_before_it_died_is_read_to_the_end(
    request: pytest.FixtureRequest, run: RunLink, secure: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker: Broker = request.getfixturevalue("tls_broker" if secure else "broker")
    config = BrokerConfig(url=broker.url, client_id="gateway")
    if secure:
        config = _tls_config(broker, request.getfixturevalue("certificates"))
    running = subscribed(run(config), config)
    send(config, numbers(1))
    first = running.take(1)
    send(config, numbers(50, start=1))
    broker.kill()
    # The first answer meets nobody, the second an error.
    running.link.publish("out/a", b"")
    running.link.acknowledge(first)
    running.link.publish("out/a", b"")
    assert texts(running.take(50)) == numbers(50, start=1)
    running.run(until=lambda: "connection lost" in caplog.text)
