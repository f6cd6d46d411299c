"""Drives the release binary with a fleet of synthetic devices and prints what it took.

Called by script/bench-agent, which builds what it needs: bench.py AGENT BROKER FLEET [WORD…]. Words choose cases by
name (R1 U1 N1 N2 latency cost H1 M1 S1) and brokers (rumqttd, mosquitto). The agent is pinned to the first core, the fleet and the
broker to the second. Three runs each (RUNS=n in the environment); the range is printed as one row of docs/benchmarks.md.
The cost of mapping and custody is measured in pairs: a run without after each run with them.
H1 and M1 run libcoap's resource directory in the agent's place too, each run of it after one of the agent.
"""

import json
import os
import re
import shutil
import signal
import statistics
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AGENT, BROKER, FLEET, *WORDS = sys.argv[1:]
RUNS = int(os.environ.get("RUNS", "3"))
TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
OURS, THEIRS = (CORES[0], CORES[-1])
KEY = b"P4s$w0rdP4s$w0rd".hex()
# The same as text, which is how libcoap takes it.
KEY_TEXT = bytes.fromhex(KEY).decode()
# For so many devices the agent has credentials.
KNOWN = 10_000

# What a mapping can be least.
PLAIN = """schema = 1

[profile]
id = "fleet"
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

# What a user writes: names, a unit, bounds, and JSON.
FULL = """schema = 1

[profile]
id = "fleet"
unmapped = "drop"

[match]
endpoint = "lw*"

[device]
name = "node-{endpoint:tail}"

[defaults]
qos = 0

[instances]
"3303/0" = "air"

[[signal]]
name = "temperature"
path = "/3303/*/5700"
value = { unit = "Cel", scale = 0.001, round = 1, min = 0, max = 10000000 }
stale_after = "10m"
"""


def acknowledged(mapping):
    """The same with publishes that the broker acknowledges."""
    return mapping.replace("qos = 0", "qos = 1")



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

    def settle(self):
        """Waits until it has nothing to do: at the start it reads what it knows of its devices."""
        before = -1
        while before < (now := self.cpu()):
            before = now
            time.sleep(0.5)

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
    """On a port without security, open to everybody, or on one with DTLS for devices that are known."""

    def __init__(self, folder, broker, secure, mapping):
        self.folder = folder
        (folder / "fleet.toml").write_text(mapping)
        if secure:
            self.secure_port = free_port(socket.SOCK_DGRAM)
            file = folder / "devices.toml"
            file.touch(0o600)
            names = (f"lw{index:06}" for index in range(KNOWN))
            psk = '[[device]]\nname = "{0}"\npsk = {{ identity = "{0}", key = "{1}" }}\n'
            file.write_text("".join(psk.format(name, KEY) for name in names))
            devices = f'coap = []\ncoaps = ["127.0.0.1:{self.secure_port}"]\nfiles = ["{file}"]\njoin = "known"'
        else:
            self.port = free_port(socket.SOCK_DGRAM)
            devices = f'coap = ["127.0.0.1:{self.port}"]\ncoaps = []\njoin = "open"'
        (folder / "lwm2mqtt.toml").write_text(
            f"""[mqtt]
url = "mqtt://127.0.0.1:{broker.port}"
version = "5"
[devices]
{devices}
[devices.bootstrap]
coaps = []
[mappings]
paths = ["{folder}/fleet.toml"]
[models]
paths = []
[store]
path = "{folder}/store"
[admin]
socket = "{folder}/admin.sock"
[log]
level = "warn"
"""
        )
        self.log = open(folder / "agent.log", "wb")
        super().__init__(self.command(OURS), log=self.log)

    def command(self, cores):
        return pinned(cores, AGENT, "run", "--config", self.folder / "lwm2mqtt.toml")

    def again(self, how):
        """Ends it by a signal and begins anew, on all cores; after how many seconds a ping was answered."""
        self.child.send_signal(how)
        self.child.wait()
        began = time.monotonic()
        self.child = subprocess.Popen(
            self.command(",".join(map(str, CORES))), stdout=subprocess.DEVNULL, stderr=self.log
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
            it.settimeout(0.005)
            it.connect(("127.0.0.1", self.port))
            while True:
                try:
                    it.send(b"\x40\0\0\1")
                    if it.recv(16) == b"\x70\0\0\1":
                        return time.monotonic() - began
                except OSError:
                    time.sleep(0.002)


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on {port}")


class Libcoap(Process):
    """libcoap's resource directory with OpenSSL: it takes a registration, and does nothing with it."""

    name = "coap-rd-openssl"

    def __init__(self):
        self.secure_port = free_port(socket.SOCK_DGRAM)
        # DTLS is on the port after the one that it is told.
        super().__init__(pinned(OURS, self.name, "-A", "127.0.0.1", "-p", self.secure_port - 1, "-k", KEY_TEXT))


def fleet(port, *words):
    """Runs the fleet; its figures by name."""
    command = pinned(THEIRS, FLEET, "-p", port, *words)
    return json.loads(subprocess.check_output(command, timeout=300))


def rate(got):
    """How many registered a second, from the first datagram until the last one stood."""
    return got["devices"] / got["complete"] if got["complete"] else 0


def registrations(agent, broker, devices=10_000, at_once=40):
    cpu, rss = agent.cpu(), agent.rss()
    got = fleet(agent.port, "-n", devices, "-C", at_once, "-d", 6)
    return {
        "registrations/s": rate(got),
        "µs CPU each": (agent.cpu() - cpu) / devices * 1e6,
        "p99 ms": got["register"]["p99"],
        "bytes RSS each": (agent.rss() - rss) / devices,
        "observed": got["observed"],
        "retransmitted": got["again"],
        "lost": devices - got["up"],
    }


def burst(agent, broker):
    return registrations(agent, broker, 2_000, 2_000)


def updates(agent, broker):
    cpu = agent.cpu()
    got = fleet(agent.port, "-n", 100, "-L", "-d", 6)
    return {
        "updates/s": got["updated"] / got["elapsed"],
        "µs CPU each": (agent.cpu() - cpu) / got["updated"] * 1e6,
        "p99 ms": got["update"]["p99"],
    }


def notifications(rate, *words_of_fleet):
    def case(agent, broker, devices=1_000, seconds=6):
        def run(*words):
            before, cpu = broker.published(), agent.cpu()
            got = fleet(agent.port, "-n", devices, "-C", 100, *words)
            return got, broker.published() - before, agent.cpu() - cpu

        # What registering again costs is taken off: first they are new, then known.
        run("-d", 2)
        _, other_publishes, other_cpu = run("-d", 2)
        got, publishes, cpu = run("-P", devices / rate, "-d", seconds, *words_of_fleet)
        figures = {
            "sent/s": got["notified"] / (seconds - got["complete"]),
            "µs CPU each": (cpu - other_cpu) / got["notified"] * 1e6,
            "published of sent %": (publishes - other_publishes) / got["notified"] * 100,
            "retransmitted": got["again"],
        }
        if words_of_fleet:
            figures["acknowledged of sent %"] = got["acknowledged"] / got["notified"] * 100
        return figures

    return case


def latency(rate):
    def case(agent, broker, devices=500, seconds=6):
        with tempfile.TemporaryFile("w+") as seen:
            words = ["mosquitto_sub", "-p", str(broker.port), "-V", "5", "-t", "lwm2mqtt/d/+/v/+/+", "-F", "%U %p"]
            with Process(pinned(THEIRS, *words), stdout=seen):
                time.sleep(0.5)
                got = fleet(agent.port, "-n", devices, "-C", 100, "-P", devices / rate, "-d", seconds)
                time.sleep(0.5)
            seen.seek(0)
            stamps = [tuple(map(float, line.split())) for line in seen]
            # From when the fleet stands: a registration costs much more than a notification.
            start = stamps[0][1] + got["complete"] + 1
            late = [(received - sent) * 1000 for received, sent in stamps if sent > start]
        late.sort()
        return {
            "sent/s": got["notified"] / (seconds - got["complete"]),
            "seen": len(late),
            "p50 ms": late[len(late) // 2],
            "p99 ms": late[len(late) * 99 // 100],
        }

    return case


def handshakes(server, devices=4_000, at_once=40):
    cpu = server.cpu()
    got = fleet(server.secure_port, "-n", devices, "-C", at_once, "-d", 6, "-k", KEY)
    return {
        "handshakes and registrations/s": rate(got),
        "µs CPU each": (server.cpu() - cpu) / devices * 1e6,
        "handshake p99 ms": got["handshake"]["p99"],
        "observed": got["observed"],
        "retransmitted": got["again"],
        "lost": devices - got["up"],
    }


def sessions(server, devices=5_000):
    rss = server.rss()
    got = fleet(server.secure_port, "-n", devices, "-C", 40, "-d", 12, "-k", KEY)
    return {
        "bytes RSS each": (server.rss() - rss) / got["up"],
        "observed": got["observed"],
        "lost": devices - got["up"],
    }


def restarts(agent, broker, devices=100_000):
    """All of them registered and observed, then an orderly restart, then one after a kill."""
    # A process may have so many sockets.
    part = 10_000
    parts = [fleet(agent.port, "-n", part, "-f", first, "-C", 100, "-d", 5) for first in range(0, devices, part)]
    got = {name: sum(one[name] for one in parts) for name in ("observed", "up")}
    agent.settle()
    before = agent.rss()
    stopped = agent.again(signal.SIGTERM)
    loaded = agent.rss()
    killed = agent.again(signal.SIGKILL)
    store = sum(file.stat().st_size for file in (agent.folder / "store").glob("lwm2mqtt.db*"))
    return {
        "s until ready after a stop": stopped,
        "s until ready after a kill": killed,
        "RSS MB before": before / 1e6,
        "RSS MB after": loaded / 1e6,
        "after : before": loaded / before,
        "bytes on disk each": store / devices,
        "observed": got["observed"],
        "lost": devices - got["up"],
    }


# With DTLS, and with libcoap in the agent's place in the same run.
SECURE = {
    "H1 PSK CCM_8 handshake and register, 40 at once": handshakes,
    "M1 5 000 devices with a PSK session": sessions,
}

CASES = {
    "R1 10 000 registrations, 40 at once": registrations,
    "R1 burst, 2 000 at once": burst,
    "U1 updates, closed loop": updates,
    "N1 NON to QoS 0, 10 k/s": notifications(10_000),
    "N1 NON to QoS 0, 30 k/s": notifications(30_000),
    "N1 NON to QoS 0, 60 k/s": notifications(60_000),
    "N1 NON to QoS 0, 100 k/s": notifications(100_000),
    "N1 latency at 5 k/s": latency(5_000),
    "S1 restart with 100 000 registrations": restarts,
}


# Confirmable notifications, each acknowledged when the broker has acknowledged its publish.
CUSTODY = {
    "N2 CON to QoS 1, 10 k/s": notifications(10_000, "-c"),
    "N2 CON to QoS 1, 40 k/s": notifications(40_000, "-c"),
}

# Two ways to do the same: with all that a gateway is for, and without. NON is never kept for the device.
COST = {
    "cost of a mapping, N1 at 20 k/s": (
        (notifications(20_000), FULL),
        (notifications(20_000), PLAIN),
    ),
    "cost of custody, QoS 1 at 20 k/s, CON : NON": (
        (notifications(20_000, "-c"), acknowledged(PLAIN)),
        (notifications(20_000), acknowledged(PLAIN)),
    ),
    "cost of mapping and custody, N2 at 20 k/s": (
        (notifications(20_000, "-c"), acknowledged(FULL)),
        (notifications(20_000), acknowledged(PLAIN)),
    ),
}


def figure(values):
    low, high = min(values), max(values)
    digits = 0 if high >= 100 else 2
    shown = [f"{value:,.{digits}f}".replace(",", " ") for value in (low, high)]
    return shown[0] if shown[0] == shown[1] else "–".join(shown)


def run(case, kind, secure=False, mapping=PLAIN):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with kind(folder) as broker:
            wait_for(broker.port)
            with Agent(folder, broker, secure, mapping) as agent:
                time.sleep(1)
                if agent.child.poll() is not None:
                    sys.exit((folder / "agent.log").read_text())
                agent.settle()
                return case(agent, broker)


def run_libcoap(case):
    with Libcoap() as server:
        time.sleep(1)
        if server.child.poll() is not None:
            sys.exit("coap-rd-openssl has ended")
        return case(server)


def print_row(title, who, runs):
    cells = [f"{name} {figure([one[name] for one in runs])}" for name in runs[0]]
    print(f"| {title} | {who} | {'; '.join(cells)} |", flush=True)


def secure(title, case, kinds):
    """One case with the agent and each broker, and with libcoap between."""
    ours, theirs = {kind: [] for kind in kinds}, []
    for _ in range(RUNS):
        for kind in kinds:
            ours[kind].append(run(lambda agent, _: case(agent), kind, secure=True))
        if shutil.which(Libcoap.name):
            theirs.append(run_libcoap(case))
    for kind in kinds:
        print_row(title, kind.name, ours[kind])
    if not theirs:
        print(f"| {title} | {Libcoap.name} | not run: it is not installed |")
        return
    print_row(title, Libcoap.name, theirs)
    for kind in kinds:
        ratios = [
            f"{name} {statistics.median(one[name] for one in ours[kind]) / statistics.median(one[name] for one in theirs):.2f}"
            for name in theirs[0]
            if name.endswith(("/s", " each"))
        ]
        print(f"| {title} | {kind.name} : libcoap | {'; '.join(ratios)} |", flush=True)


def cost(title, pair, kinds):
    """The same load with something and without it, by turns."""
    for kind in kinds:
        rows = ([], [])
        for _ in range(RUNS):
            for row, (case, mapping) in zip(rows, pair):
                row.append(run(case, kind, mapping=mapping))
        for row, what in zip(rows, ("with", "without")):
            print_row(f"{title}, {what}", kind.name, row)
        name = "µs CPU each"
        with_it, without = (statistics.median(one[name] for one in row) for row in rows)
        print(f"| {title}, with : without | {kind.name} | {name} {with_it / without:.2f} |", flush=True)


def main():
    kinds = [kind for kind in (Rumqttd, Mosquitto) if not {"rumqttd", "mosquitto"} & {*WORDS} or kind.name in WORDS]
    words = [word for word in WORDS if word not in ("rumqttd", "mosquitto")]
    print(f"{RUNS} runs, agent on core {OURS}, fleet and broker on core {THEIRS}; load before: {os.getloadavg()[0]:.2f}\n")
    print("| case | broker | figures |\n|---|---|---|")
    for title, case in {**CASES, **CUSTODY, **COST, **SECURE}.items():
        if words and not any(word in title for word in words):
            continue
        if title in SECURE:
            secure(title, case, kinds)
            continue
        if title in COST:
            cost(title, case, kinds)
            continue
        mapping = acknowledged(PLAIN) if title in CUSTODY else PLAIN
        for kind in kinds:
            print_row(title, kind.name, [run(case, kind, mapping=mapping) for _ in range(RUNS)])


main()
