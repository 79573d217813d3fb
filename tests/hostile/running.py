"""Runs commands on hostile inputs, in processes of their own that are watched: `python -m tests.hostile.running JOBS REPORTS`.

Torch is imported once; every job is a fork with 4 GB of address space and 20 s of processor time for each of its commands. An audit hook
notes what they open, change, start or ask the network for. JOBS is JSON: {"outside": a folder that is nobody's business, "jobs": a list of
{"commands", "room"}}: command lines (or "load" or "shelf" with a path), and the folder that they may write to. REPORTS gets a JSON line for
each command.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTES, CODES = 9, 10  # file descriptors
MEMORY = 4 * 2**30
SECONDS = 20
IDLE = 5
"""Seconds that a job may sleep without computing anything until it counts as one that waits for ever."""

READY = [
    "tessera.apps.cli", "tessera.apps.file_info", "tessera.apps.drawing", "tessera.loading", "tessera.checkpoints.diffusers",
    "tessera.checkpoints.transfer", "tessera.training.run", "tessera.training.flow_making", "tessera.training.flow_task", "accelerate",
    "tessera.training.autoencoder", "tessera.serve.shelf", "transformers.models.clip.modeling_clip", "tessera.contexts.clip_joint",
    "tessera.contexts.clip_tokens", "tessera.contexts.labels", "tessera.codecs.vqgan", "tessera.codecs.kl", "tessera.codecs.text_vae",
    "tessera.families.versatile.network", "tessera.families.v_diffusion.network", "tessera.families.v_diffusion.transformer",
    "tessera.families.absorbing.network", "tessera.samplers.purity", "tessera.samplers.pseudo_numerical", "tessera.data.folder",
    "tessera.data.shards", "tessera.data.coco", "tessera.data.lsun", "tessera.data.imagenet", "tessera.data.scenes", "filelock",
    "tessera.evaluation.scenes_reader", "tessera.samplers.ancestral", "pydantic", "yaml", "PIL.PngImagePlugin", "PIL.JpegImagePlugin",
]  # fmt: skip
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pickle.find_class", "ctypes.dlopen", "webbrowser.open"}
NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto", "urllib.Request"}
CHANGES = {
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "shutil.rmtree",
}
SECRETS = ("/etc/passwd", "/etc/shadow", "/etc/hosts")


class Watch:
    """The audit hook. What it notes goes to a file at once, because the job may be killed."""

    def __init__(self, room: Path, outside: Path, notes: int) -> None:
        self.room, self.outside, self.notes = os.path.realpath(room), os.path.realpath(outside), notes

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike):
                self.opened(os.path.realpath(os.fsdecode(path)), bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        elif (event in STARTS and arguments != (None,)) or event in NETWORK:  # ctypes.dlopen(None) is the program itself
            self.note(f"{event} {arguments!r:.100}")
        elif event in CHANGES:
            for path in arguments[:2]:
                if isinstance(path, str | bytes | os.PathLike) and not self.inside(os.path.realpath(os.fsdecode(path))):
                    self.note(f"{event} {path!r:.100}")

    def opened(self, path: str, writes: bool) -> None:
        secret = path in SECRETS or path.endswith("/environ") or path.startswith(self.outside + os.sep)
        if secret or (writes and not self.inside(path)):
            self.note(f"{'writes' if writes else 'reads'} {path:.200}")

    def inside(self, path: str) -> bool:
        return path.startswith((self.room + os.sep, "/dev/", "/proc/self/")) or path == self.room

    def note(self, what: str) -> None:
        os.write(self.notes, f"{what}\n".encode("utf-8", "replace"))


def perform(arguments: list[str]) -> int:
    """The exit code of a command line, or of the two calls of Python that have none."""
    from tessera.apps import cli
    from tessera.apps.console import show
    from tessera.errors import TesseraError

    if arguments[0] not in ("load", "shelf"):
        return cli._run(arguments, debug=False)
    try:
        if arguments[0] == "load":
            from tessera.loading import load

            load(arguments[1], "cpu")
        else:
            from tessera.serve.shelf import Shelf

            show("\n".join(Shelf(Path(arguments[1])).offers))
    except TesseraError as error:
        return cli._explain(error)
    return 0


def child(job: dict[str, Any], outside: Path) -> None:
    """The job's commands, one after the other. Never returns."""
    room = Path(job["room"])
    os.chdir(room)
    os.setsid()
    for number, name in ((1, ".out"), (2, ".err"), (NOTES, ".notes"), (CODES, ".codes")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", errors="strict", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.update(
        HOME=str(room), HF_HOME=str(room / "hub"), XDG_CACHE_HOME=str(room / "cache"), TMPDIR=str(room), SECRET="environment-secret"
    )
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(Watch(room, outside, NOTES))
    for arguments in job["commands"]:
        spent = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + SECONDS, resource.RLIM_INFINITY))
        try:
            code = perform(arguments)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 99
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        ends = [os.fstat(number).st_size for number in (1, 2, NOTES)]
        os.write(CODES, f"{json.dumps([code, time.process_time() - spent, *ends])}\n".encode())
    os._exit(0)


def run(job: dict[str, Any], outside: Path) -> Iterator[dict[str, Any]]:
    """What each command of a job did: its exit code (text where a signal or the clock ended it), its output, and what the watch noted."""
    room = Path(job["room"])
    room.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    identity = os.fork()
    if identity == 0:
        try:
            child(job, outside)
        finally:
            os._exit(98)
    ended: str | None = None
    pause, before, since = 0.001, "", time.monotonic()
    while ended is None:
        found, status = os.waitpid(identity, os.WNOHANG)
        if found:
            ended = f"exit code {os.WEXITSTATUS(status)}" if os.WIFEXITED(status) else signal.Signals(os.WTERMSIG(status)).name
            continue
        now = Path(f"/proc/{identity}/stat").read_text().rpartition(")")[2].split()
        if now[0] == "R" or now[11] + now[12] != before:  # state; ticks in user and system mode
            before, since = now[11] + now[12], time.monotonic()
        elif time.monotonic() > since + IDLE:
            os.killpg(identity, signal.SIGKILL)
            os.waitpid(identity, 0)
            ended = "it waits for ever"
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    said = [(room / name).read_bytes() for name in (".out", ".err", ".notes")]
    starts = [0, 0, 0]
    codes = [json.loads(line) for line in (room / ".codes").read_text().splitlines()]
    for number, arguments in enumerate(job["commands"]):
        code, seconds, *ends = codes[number] if number < len(codes) else [ended, 0.0, *map(len, said)]
        out, err, notes = (text[a:b].decode("utf-8", "replace")[:20000] for text, a, b in zip(said, starts, ends, strict=True))
        starts = ends
        yield {"arguments": arguments, "code": code, "seconds": seconds, "out": out, "err": err, "notes": notes}
        if number >= len(codes):
            break


def main(jobs: Path, reports: Path) -> None:
    sys.path.insert(0, str(Path.cwd()))
    for name in READY:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    from tessera.model_folder import bundled
    from tessera.schema import check_arguments  # noqa: F401  pydantic's parts are imported with it

    assert bundled()
    given = json.loads(jobs.read_text())
    gc.collect()
    gc.freeze()  # so that a fork's collector does not copy what it shares with this process
    with reports.open("w") as file:
        for job in given["jobs"]:
            for report in run(job, Path(given["outside"])):
                file.write(json.dumps(report) + "\n")
                file.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
