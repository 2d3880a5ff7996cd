"""What a start costs: until the daemon has subscribed, beside importing what it is made of."""

import compileall
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import edge_runtime
from benchmarks.performance.measure import Case, Figures, Measure, Plan, alternate, cpu_s
from benchmarks.performance.processes import DAEMON, place_for

BAR = 1.8
IMPORTS = "import numpy, onnxruntime, paho.mqtt.client; print('ready', flush=True); input()"


def measure(plan: Plan) -> Iterator[Figures]:
    """Row 9, compiled to bytecode as an installer leaves it and as the libraries are."""
    compileall.compile_dir(str(Path(edge_runtime.__file__).parent), quiet=1)
    figures = alternate({"ours": lambda: _daemon_ms(plan), "beside": _imports_ms}, plan.size(7, 2))
    yield Figures(figures["ours"], figures["beside"])


def _daemon_ms(plan: Plan) -> float:
    with place_for(DAEMON, plan.folder) as place, place.ready() as pid:
        return cpu_s(pid) * 1000


def _imports_ms() -> float:
    command = [sys.executable, "-c", IMPORTS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            said = process.stdout.readline() if process.stdout else b""
            if said != b"ready\n":
                raise RuntimeError(f"wanted the imports to succeed, got {said!r}")
            return cpu_s(process.pid) * 1000
        finally:
            process.kill()


MEASURE = Measure(
    9,
    "start until subscribed: CPU of the process",
    "a process that imports numpy, onnxruntime and paho",
    [Case("one pipeline, no stream yet", BAR, "ms")],
    measure,
)
