"""How much batching users together gives: the same requests at once, shared batches against one by one.

    python -m benchmarks.serving [--model NAME] [--users N] [--steps N] [--runs N] [--json]

Target: at least 1.5 times the throughput. Both ways use the same service, settings and seeds; runs of both alternate.
Before that: how long a server takes until its page answers, and until a first picture after that (targets 6 s and 8 s on 2 idle cores).
"""

import argparse
import json
import os
import signal
import socket
import statistics
import sys
import time
import urllib.request
from dataclasses import replace

from tessera.serve.requests import Draw
from tessera.serve.service import Service
from tessera.serve.shelf import Shelf


def measure(service: Service, asked: Draw, users: int) -> tuple[float, float]:
    """Wall-clock seconds until all users have their picture, and processor seconds."""
    started, processor = time.perf_counter(), time.process_time()
    jobs = [service.submit(replace(asked, seed=user), str(user)) for user in range(users)]
    for job in jobs:
        while not job.wait(1.0):
            for other in jobs:
                other.touch()
        if job.state != "done":
            raise SystemExit(f"a request failed: {job.error}")
    return time.perf_counter() - started, time.process_time() - processor


def start(model: str) -> tuple[float, float, float, float]:
    """Of a server in a process of its own: seconds until its page answers, and until a picture after that; its processor seconds until
    both; its peak memory in MB."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.perf_counter()
    child = os.posix_spawn(sys.executable, [sys.executable, "-m", "tessera", "serve", "--model", model, "--port", str(port)], os.environ)
    address = f"http://127.0.0.1:{port}"
    while True:
        try:
            urllib.request.urlopen(address, timeout=60).close()
            break
        except OSError:
            time.sleep(0.05)
    answered = time.perf_counter()
    body = json.dumps({"prompt": "a red circle above a blue square", "model": model}).encode()
    request = urllib.request.Request(f"{address}/v1/images/generations", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=600).close()
    drawn = time.perf_counter()
    os.kill(child, signal.SIGKILL)
    _, _, usage = os.wait4(child, 0)
    return (
        answered - started,
        drawn - answered,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3),
    )


def main() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported, as the command line does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--steps", type=int, help="the model's own unless given")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    page, picture, used, peak = start(options.model)
    asked = Draw(options.model, prompts=("a red circle above a blue square",), settings={"steps": options.steps})
    shelf = Shelf(first=options.model)
    services = {"one by one": Service(shelf, together=False), "together": Service(shelf)}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in services}
    for service in services.values():  # one after the other: they share the shelf
        service.warm(options.model).wait()
        measure(service, asked, 1)
    for _ in range(options.runs):
        for name, service in services.items():
            taken[name].append(measure(service, asked, options.users))
    for service in services.values():
        service.close()

    seconds = {name: statistics.median(wall for wall, _ in runs) for name, runs in taken.items()}
    processor = {name: min(used for _, used in runs) for name, runs in taken.items()}
    gains = seconds["one by one"] / seconds["together"], processor["one by one"] / processor["together"]
    if options.json:
        print(
            json.dumps(
                {
                    "cores": os.cpu_count(),
                    "load": os.getloadavg()[0],
                    "start": [page, picture, used, peak],
                    "seconds": taken,
                    "gain": gains[0],
                    "cpu gain": gains[1],
                }
            )
        )
        return
    print(f"{options.users} users, {options.model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.runs} runs each")
    print(f"page after {page:.1f} s, a first picture {picture:.1f} s later; {used:.1f} s of processor time in all, {peak:.0f} MB at most")
    print(f"{'':12}{'median s':>10}{'best cpu s':>12}{'pictures/s':>12}")
    for name in services:
        print(f"{name:12}{seconds[name]:10.2f}{processor[name]:12.2f}{options.users / seconds[name]:12.2f}")
    print(f"gain {gains[0]:.2f} by the clock, {gains[1]:.2f} in processor time (target 1.5)")


if __name__ == "__main__":
    main()
