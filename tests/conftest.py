"""Fixtures that several test modules share: a real mosquitto on loopback, with and without TLS."""

import copy
import getpass
import os
import shutil
import signal
import socket
import subprocess
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

import sample_models
from edge_runtime import link, mqtt
from edge_runtime.config import BrokerConfig
from links import RunLink, running_links

READY_S = 10.0
SHIPPED = Path(__file__).parent.parent / "configs" / "edge" / "mosquitto.conf"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Throw-away certificates (PEM) for ``localhost`` and 127.0.0.1.

    Attributes:
        ca: The authority that has signed the broker's and the client's.
        other_ca: An authority that has signed nothing.
        server: The broker's certificate.
        server_key: Its key.
        elsewhere: The certificate of a broker with another name.
        elsewhere_key: Its key.
        client: A client's certificate.
        client_key: Its key.
    """

    ca: Path
    other_ca: Path
    server: Path
    server_key: Path
    elsewhere: Path
    elsewhere_key: Path
    client: Path
    client_key: Path


class Broker:
    """A mosquitto on a free port of 127.0.0.1, with a folder of its own.

    Starting again uses the same port and folder; what it remembers of before depends on the lines.

    Args:
        program: The mosquitto executable.
        folder: Configuration, log and database.
        lines: Further lines of the configuration.
        file: A whole configuration instead; only port and paths become those of this broker.
    """

    def __init__(
        self, program: str, folder: Path, lines: tuple[str, ...] = (), file: Path | None = None
    ) -> None:
        # Bound and never listening: while the broker is down nobody else gets its port,
        # neither another test's broker nor, by chance, the near end of a client's connection.
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        weakref.finalize(self, reserved.close)
        self.port: int = reserved.getsockname()[1]
        self.folder = folder
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "mosquitto.conf"
        if file is not None:
            self._config.write_text(self._adapted(file.read_text()))
            return
        anonymous = () if any(line.startswith("password_file") for line in lines) else ("true",)
        self._config.write_text(
            "\n".join(
                [
                    # As root it would become another user, who cannot write here.
                    f"user {getpass.getuser()}",
                    f"listener {self.port} 127.0.0.1",
                    *(f"allow_anonymous {yes}" for yes in anonymous),
                    f"persistence_location {folder}/",
                    "max_queued_messages 0",
                    f"log_dest file {folder / 'mosquitto.log'}",
                    *lines,
                ]
            )
            + "\n"
        )

    def _adapted(self, text: str) -> str:
        own = {
            "listener 1883 127.0.0.1": f"listener {self.port} 127.0.0.1",
            "persistence_location /var/lib/mosquitto/": f"persistence_location {self.folder}/",
            "log_dest file /var/log/mosquitto/mosquitto.log": (
                f"log_dest file {self.folder / 'mosquitto.log'}"
            ),
        }
        for theirs, ours in own.items():
            if text.count(f"\n{theirs}\n") != 1:
                raise ValueError(f"the configuration was expected to have one line {theirs!r}")
            text = text.replace(f"\n{theirs}\n", f"\n{ours}\n")
        # As root it would become another user, who cannot write here.
        return f"user {getpass.getuser()}\n{text}"

    @property
    def url(self) -> str:
        """Its address, without TLS."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [self._program, "-c", str(self._config)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(int(READY_S / 0.01)):
            try:
                socket.create_connection(("127.0.0.1", self.port), READY_S).close()
            except ConnectionRefusedError:
                pass
            else:
                return
            try:
                self._process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            break
        self.kill()
        log = (self.folder / "mosquitto.log").read_text()
        raise RuntimeError(f"mosquitto does not answer on port {self.port}:\n{log}")

    def kill(self) -> None:
        """Ends it as a power cut would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stops it in its tracks: from now on every connection is a half-open one."""
        os.kill(self._pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Lets it go on."""
        os.kill(self._pid, signal.SIGCONT)

    @property
    def _pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the broker was expected to run")
        return self._process.pid


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As `andon train` does: networks this small only wait for a second thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _the_exporter_reads_its_own_source_once() -> None:
    """PyTorch parses all its translations anew for each export, which takes a fifth of its time."""
    read: dict[Any, ONNXRegistry] = {}
    from_torchlib = ONNXRegistry.from_torchlib

    def from_memory(**options: Any) -> ONNXRegistry:
        key = tuple(options.items())
        if key not in read:
            read[key] = from_torchlib(**options)
        fresh = copy.copy(read[key])  # an export adds its own translations to it
        fresh.functions = {name: [*known] for name, known in read[key].functions.items()}
        return fresh

    ONNXRegistry.from_torchlib = staticmethod(from_memory)  # type: ignore[method-assign,assignment]


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell lets what it starts in the background ignore SIGINT, and all that this starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _models_are_made_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An export takes seconds; the processes of one test run share what they exported."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        sample_models.keep_in(tmp_path_factory.getbasetemp().parent / "models")


@pytest.fixture(scope="session")
def mosquitto() -> str:
    """Path of the broker; without it the test is skipped, or fails where CI is set."""
    folders = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
    program = shutil.which("mosquitto", path=folders)
    if program is None:
        message = "mosquitto is not installed (apt-get install mosquitto)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return program


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser; without it the test is skipped, or fails where CI is set."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        message = "chromium is not installed (apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return program


MakeBroker = Callable[..., Broker]


@pytest.fixture
def make_broker(
    mosquitto: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Broker]]:
    """Makes brokers that are not started yet: ``make_broker("password_file ...", ...)``."""
    with ExitStack() as ends:

        def make(*lines: str) -> Broker:
            made = Broker(mosquitto, tmp_path_factory.mktemp("broker"), lines)
            ends.callback(made.kill)
            return made

        yield make


@pytest.fixture(scope="module")
def module_broker(mosquitto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker for all tests of a module."""
    made = Broker(mosquitto, tmp_path_factory.mktemp("broker"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def broker(make_broker: MakeBroker) -> Broker:
    """A running broker that lets everybody in."""
    made = make_broker()
    made.start()
    return made


@pytest.fixture
def config(broker: Broker) -> BrokerConfig:
    """A gateway's connection to the running broker."""
    return BrokerConfig(url=broker.url, client_id="gateway")


@pytest.fixture
def run() -> Iterator[RunLink]:
    """Starts links, which are closed at the end of the test."""
    with running_links() as started:
        yield started


@pytest.fixture
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links look up often, and log in as nobody unless the test says who."""
    monkeypatch.setattr(mqtt, "_TICK_S", 0.01)
    monkeypatch.setattr(link, "_TICK_S", 0.01)
    for name in ("ANDON_MQTT_USER", "ANDON_MQTT_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def durable_broker(make_broker: MakeBroker) -> Broker:
    """A running broker whose sessions survive `Broker.kill`.

    All but its last moments: mosquitto 2.0.11 acknowledges a publication first and saves it then,
    and killed in between, it loses what it has acknowledged.
    """
    made = make_broker("persistence true", "autosave_interval 1", "autosave_on_changes true")
    made.start()
    return made


@pytest.fixture
def shipped_broker(mosquitto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker with the configuration that is shipped."""
    made = Broker(mosquitto, tmp_path_factory.mktemp("broker"), file=SHIPPED)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def tls_broker(make_broker: MakeBroker, certificates: Certificates) -> Broker:
    """A running broker that speaks TLS and wants a certificate of its clients."""
    made = make_broker(
        f"cafile {certificates.ca}",
        f"certfile {certificates.server}",
        f"keyfile {certificates.server_key}",
        "require_certificate true",
    )
    made.start()
    return made


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates made with the ``openssl`` command."""
    folder = tmp_path_factory.mktemp("certificates")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    _authority(folder, "ca")
    _authority(folder, "other_ca")
    _signed(folder, "server", names, "extendedKeyUsage=serverAuth")
    _signed(folder, "elsewhere", "subjectAltName=DNS:elsewhere", "extendedKeyUsage=serverAuth")
    _signed(folder, "client", "extendedKeyUsage=clientAuth")
    return Certificates(
        ca=folder / "ca.pem",
        other_ca=folder / "other_ca.pem",
        server=folder / "server.pem",
        server_key=folder / "server.key",
        elsewhere=folder / "elsewhere.pem",
        elsewhere_key=folder / "elsewhere.key",
        client=folder / "client.pem",
        client_key=folder / "client.key",
    )


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def _authority(folder: Path, name: str) -> None:
    _openssl(
        folder,
        *("req", "-x509", *_NEW_KEY, "-days", "2", "-subj", f"/CN=Andon test {name}"),
        *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        *("-addext", "keyUsage=critical,keyCertSign"),
    )


def _signed(folder: Path, name: str, *extensions: str) -> None:
    (folder / f"{name}.ext").write_text("\n".join(extensions) + "\n")
    _openssl(
        folder,
        *("req", "-new", *_NEW_KEY, "-subj", f"/CN={name}"),
        *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
    )
    _openssl(
        folder,
        *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-out", f"{name}.pem"),
        *("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.ext"),
    )
