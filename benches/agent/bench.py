"""Drives the release binary with a fleet of synthetic devices and prints what it took.

Called by script/bench-agent, which builds what it needs: bench.py AGENT BROKER LWLOAD [WORD…]. Words choose cases by
name (R1 U1 N1 latency) and brokers (rumqttd, mosquitto). The agent is pinned to the first core, the fleet and the broker
to the second. Three runs each (RUNS=n in the environment); the range is printed as one row of docs/benchmarks.md.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AGENT, BROKER, LWLOAD, *WORDS = sys.argv[1:]
RUNS = int(os.environ.get("RUNS", "3"))
TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
OURS, THEIRS = (CORES[0], CORES[-1])

MAPPING = """schema = 1

[profile]
id = "lwload"
unmapped = "drop"

[match]
endpoint = "lw*"

[defaults]
qos = 0

[[signal]]
name = "temperature"
path = "/3303/*/5700"
format = "value"
"""


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def pinned(core, *words):
    return ["taskset", "-c", str(core), *map(str, words)]


class Process:
    """A program that ends with the block it is used in."""

    def __init__(self, command, stdout=subprocess.DEVNULL, log=None):
        self.child = subprocess.Popen(command, stdout=stdout, stderr=log or subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()

    def cpu(self):
        """Seconds of processor time so far."""
        text = Path(f"/proc/{self.child.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss(self):
        """Resident memory in bytes."""
        text = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024


class Rumqttd(Process):
    name = "rumqttd"

    def __init__(self, folder):
        self.port = free_port()
        self.counts = open(folder / "counts", "w+b")
        super().__init__(pinned(THEIRS, BROKER, free_port(), self.port), stdout=self.counts)

    def published(self):
        """How many publishes have come in all; a second old at most, so it is asked for twice."""
        time.sleep(2.2)
        self.counts.seek(0)
        lines = self.counts.read().split()
        return int(lines[-1]) if lines else 0


class Mosquitto(Process):
    name = "mosquitto"

    def __init__(self, folder):
        self.port = free_port()
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nsys_interval 1\nmax_queued_messages 100000\n"
            + ("user root\n" if os.getuid() == 0 else "")
        )
        super().__init__(pinned(THEIRS, "mosquitto", "-c", folder / "mosquitto.conf"))

    def published(self):
        """Packets of every kind: its count of publishes leaves those of QoS 0 out."""
        time.sleep(2.2)
        return int(
            subprocess.check_output(
                ["mosquitto_sub", "-p", str(self.port), "-t", "$SYS/broker/messages/received", "-C", "1"]
            )
        )


class Agent(Process):
    def __init__(self, folder, broker):
        self.port = free_port(socket.SOCK_DGRAM)
        (folder / "lwload.toml").write_text(MAPPING)
        (folder / "lwm2mqtt.toml").write_text(
            f"""[mqtt]
url = "mqtt://127.0.0.1:{broker.port}"
version = "5"
[devices]
coap = ["127.0.0.1:{self.port}"]
coaps = []
join = "open"
[devices.bootstrap]
coaps = []
[mappings]
paths = ["{folder}/lwload.toml"]
[models]
paths = []
[store]
path = "{folder}/store"
[log]
level = "warn"
"""
        )
        self.log = open(folder / "agent.log", "wb")
        super().__init__(pinned(OURS, AGENT, "run", "--config", folder / "lwm2mqtt.toml"), log=self.log)


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on {port}")


def lwload(agent, *words, during=None):
    """Runs the fleet; its figures by name."""
    command = pinned(THEIRS, LWLOAD, "-h", "127.0.0.1", "-p", agent.port, *words)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if during:
        during(child)
    text = child.communicate(timeout=300)[0]
    found = re.search(
        r"up (?P<up>\d+) dead (?P<dead>\d+) rejected (?P<rejected>\d+) retransmissions (?P<again>\d+); all registered in "
        r"(?P<seconds>[\d.]+) s \((?P<registered>\d+)/s\); observes (?P<observes>\d+) gets \d+ notifications (?P<sent>\d+) "
        r"updates (?P<updates>\d+) \((?P<rate>\d+)/s\)",
        text,
    )
    if not found:
        sys.exit(f"lwload said: {text}")
    figures = {name: float(value) for name, value in found.groupdict().items()}
    for name, p50, p99 in re.findall(r"(\w+)\s+n=\d+ p50 ([\d.]+) ms p99 ([\d.]+) ms", text):
        figures[name] = (float(p50), float(p99))
    return figures


def registrations(agent, broker, devices=10_000, at_once=40):
    cpu, rss = agent.cpu(), agent.rss()
    got = lwload(agent, "-n", devices, "-C", at_once, "-d", 6)
    return {
        "registrations/s": got["registered"],
        "µs CPU each": (agent.cpu() - cpu) / devices * 1e6,
        "p99 ms": got["register"][1],
        "bytes RSS each": (agent.rss() - rss) / devices,
        "observed": got["observes"],
        "retransmitted": got["again"],
        "lost": devices - got["up"],
    }


def burst(agent, broker):
    return registrations(agent, broker, 2_000, 2_000)


def updates(agent, broker):
    cpu = agent.cpu()
    got = lwload(agent, "-n", 100, "-L", "-d", 6)
    return {
        "updates/s": got["rate"],
        "µs CPU each": (agent.cpu() - cpu) / got["updates"] * 1e6,
        "p99 ms": got["update"][1],
    }


def notifications(rate):
    def case(agent, broker, devices=1_000, seconds=6):
        def fleet(*words):
            before, cpu = broker.published(), agent.cpu()
            got = lwload(agent, "-n", devices, "-C", 100, *words)
            return got, broker.published() - before, agent.cpu() - cpu

        # What registering again costs is taken off: first they are new, then known.
        fleet("-d", 2)
        _, other_publishes, other_cpu = fleet("-d", 2)
        got, publishes, cpu = fleet("-P", devices / rate, "-d", seconds)
        return {
            "sent/s": got["sent"] / (seconds - got["seconds"]),
            "µs CPU each": (cpu - other_cpu) / got["sent"] * 1e6,
            "published of sent %": (publishes - other_publishes) / got["sent"] * 100,
            "retransmitted": got["again"],
        }

    return case


def latency(rate):
    def case(agent, broker, devices=500, seconds=6):
        with tempfile.TemporaryFile("w+") as seen:
            words = ["mosquitto_sub", "-p", str(broker.port), "-V", "5", "-t", "lwm2mqtt/d/+/v/+/+", "-F", "%U %p"]
            with Process(pinned(THEIRS, *words), stdout=seen):
                time.sleep(0.5)
                got = lwload(agent, "-n", devices, "-C", 100, "-P", devices / rate, "-d", seconds)
                time.sleep(0.5)
            seen.seek(0)
            stamps = [tuple(map(float, line.split())) for line in seen]
            # From when the fleet stands: a registration costs much more than a notification.
            start = stamps[0][1] + got["seconds"] + 1
            late = [(received - sent) * 1000 for received, sent in stamps if sent > start]
        late.sort()
        return {
            "sent/s": got["sent"] / (seconds - got["seconds"]),
            "seen": len(late),
            "p50 ms": late[len(late) // 2],
            "p99 ms": late[len(late) * 99 // 100],
        }

    return case


CASES = {
    "R1 10 000 registrations, 40 at once": registrations,
    "R1 burst, 2 000 at once": burst,
    "U1 updates, closed loop": updates,
    "N1 NON TLV to QoS 0, 10 k/s": notifications(10_000),
    "N1 NON TLV to QoS 0, 30 k/s": notifications(30_000),
    "N1 NON TLV to QoS 0, 60 k/s": notifications(60_000),
    "N1 NON TLV to QoS 0, 100 k/s": notifications(100_000),
    "N1 latency at 5 k/s": latency(5_000),
}


def figure(values):
    low, high = min(values), max(values)
    digits = 0 if high >= 100 else 2
    shown = [f"{value:,.{digits}f}".replace(",", " ") for value in (low, high)]
    return shown[0] if shown[0] == shown[1] else "–".join(shown)


def run(case, kind):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with kind(folder) as broker:
            wait_for(broker.port)
            with Agent(folder, broker) as agent:
                time.sleep(1)
                if agent.child.poll() is not None:
                    sys.exit((folder / "agent.log").read_text())
                return case(agent, broker)


def main():
    kinds = [kind for kind in (Rumqttd, Mosquitto) if not {"rumqttd", "mosquitto"} & {*WORDS} or kind.name in WORDS]
    words = [word for word in WORDS if word not in ("rumqttd", "mosquitto")]
    print(f"{RUNS} runs, agent on core {OURS}, fleet and broker on core {THEIRS}; load before: {os.getloadavg()[0]:.2f}\n")
    print("| case | broker | figures |\n|---|---|---|")
    for title, case in CASES.items():
        if words and not any(word in title for word in words):
            continue
        for kind in kinds:
            runs = [run(case, kind) for _ in range(RUNS)]
            cells = [f"{name} {figure([one[name] for one in runs])}" for name in runs[0]]
            print(f"| {title} | {kind.name} | {'; '.join(cells)} |", flush=True)


main()
