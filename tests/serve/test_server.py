"""The HTTP interface and its doors: what clients of OpenAI's interface get, passwords, and what strangers try."""

import asyncio
import base64
import http.client
import io
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tessera.errors import TesseraError, UsageError
from tessera.record import Record
from tessera.serve.kept import Kept
from tessera.serve.limits import LIMITS, Busy
from tessera.serve.requests import Call, Draw
from tessera.serve.server import application, check_binding, parse_auth
from tessera.serve.service import Service
from tessera.serve.shelf import Shelf
from tests.serve.browser import free_port

pytest.importorskip("gradio", reason="gradio is not installed")

from fastapi import Request
from starlette.testclient import TestClient

from tessera.serve.api import waited


def asked(url: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None) -> tuple[int, Any]:
    """Status and JSON, or bytes, of an answer."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | (headers or {}), method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            status, content = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    try:
        return status, json.loads(content)
    except ValueError:
        return status, content


def picture_of(entry: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry["b64_json"])))


def test_every_control_has_a_label_and_says_what_it_does(address: str) -> None:
    kinds = {"textbox", "slider", "number", "dropdown", "radio", "checkbox", "checkboxgroup"}
    controls = [one["props"] for one in asked(f"{address}/config")[1]["components"] if one["type"] in kinds]
    asking = [props for props in controls if props.get("interactive") is not False]
    assert len(asking) > 20
    assert [props.get("elem_id") for props in asking if not props.get("label") or not props.get("info")] == []


def test_images_as_openai_clients_ask_for_them(address: str) -> None:
    status, answer = asked(f"{address}/v1/images/generations", {"prompt": "a red circle", "n": 2, "size": "32x32", "seed": 4, "user": "me"})
    assert status == 200
    assert [entry["seed"] for entry in answer["data"]] == [4, 4]
    assert isinstance(answer["created"], int)
    pictures = [picture_of(entry) for entry in answer["data"]]
    assert [picture.size for picture in pictures] == [(32, 32)] * 2
    assert Record.of(pictures[1]).prompt == "a red circle"
    again = asked(f"{address}/v1/images/generations", {"prompt": "a red circle", "n": 2, "seed": 4, "response_format": "url"})[1]
    assert again["data"][0]["url"] == "data:image/png;base64," + answer["data"][0]["b64_json"]
    assert asked(f"{address}/v1/models")[1]["data"][0]["id"] == "tiny"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"prompt": "a" * 100_000}, "characters"),
        ({"prompt": "a red circle", "n": 10**6}, "pictures"),
        ({"prompt": "a red circle", "n": -1}, "at least 1"),
        ({"prompt": "a red circle", "steps": -4}, "steps"),
        ({"prompt": "a red circle", "size": "20000x20000"}, "pixels"),
        ({"prompt": "a red circle", "size": "wide"}, "WIDTHxHEIGHT"),
        ({"prompt": "a red circle", "size": "33x33"}, "33"),
        ({"prompt": "a red circle", "model": "../../../etc"}, "unknown model"),
        ({"prompt": "a red circle", "model": "/etc/passwd"}, "unknown model"),
        ({"prompt": "", "n": 1}, "empty"),
        ({"prompt": "a red circle", "sampler": "purty"}, "did you mean"),
    ],
)
def test_what_is_asked_wrongly_gets_a_sentence(address: str, body: dict[str, Any], sentence: str) -> None:
    status, answer = asked(f"{address}/v1/images/generations", body)
    assert status == 400
    assert sentence in answer["error"]["message"]


def test_bodies_that_are_none_or_too_large(address: str) -> None:
    assert asked(f"{address}/v1/images/generations", b"{")[0] == 400
    assert asked(f"{address}/v1/images/generations", {"n": 1})[0] == 400
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=120)
    connection.putrequest("POST", "/v1/images/generations")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(LIMITS.upload_bytes + (1 << 17)))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert "MB" in json.load(answer)["error"]["message"]
    connection.close()


def test_many_at_once_get_their_own(address: str, models: Path) -> None:
    import tessera

    def one(seed: int) -> bytes:
        status, answer = asked(f"{address}/v1/images/generations", {"prompt": f"a {'red' if seed % 2 else 'blue'} circle", "seed": seed})
        assert status == 200
        return picture_of(answer["data"][0]).tobytes()

    with ThreadPoolExecutor(8) as pool:
        served_ = list(pool.map(one, range(16)))
    model = tessera.load(models / "tiny")
    alone = [model.text_to_image(f"a {'red' if seed % 2 else 'blue'} circle", seed=seed)[0].tobytes() for seed in range(16)]
    assert served_ == alone


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd", "file=/etc/passwd", "gradio_api/file=../../../../etc/passwd",
        "gradio_api/file=%2e%2e%2f%2e%2e%2fetc/passwd",
        "assets/../../../../../../etc/passwd", "static/..%2f..%2f..%2fetc%2fpasswd", "gradio_api/file=pyproject.toml",
        "theme.css/../../etc/passwd",
    ],
)  # fmt: skip
def test_files_of_the_machine_are_not_given_away(address: str, path: str) -> None:
    status, content = asked(f"{address}/{path}")
    assert status in (400, 403, 404)
    assert b"root:" not in (content if isinstance(content, bytes) else json.dumps(content).encode())


def called(address: str, name: str, data: list[Any]) -> str:
    """What gradio's interface says of a call, all of its events."""
    status, begun = asked(f"{address}/gradio_api/call/{name}", {"data": data})
    assert status == 200, begun
    with urllib.request.urlopen(f"{address}/gradio_api/call/{name}/{begun['event_id']}", timeout=120) as answer:
        text: str = answer.read().decode()
        return text


def test_the_page_is_an_interface_too(address: str) -> None:
    said = called(address, "make", ["a red circle", 1, "5", "tiny", "ancestral", 5, 1.0, "", 1.0, "32x32"])
    assert "event: complete" in said
    assert "seed 5" in said


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (1, 10**6, "Pictures of each must be a whole number from 1 to 16, not 1000000"),
        (1, 2.5, "not 2.5"),
        (1, None, "Pictures of each must be a whole number from 1 to 16"),
        (1, True, "must be a whole number"),
        (3, "../../etc/passwd", "Unknown model"),
        (5, -5, "Steps must be a whole number from 0 to 1000, not -5"),
        (5, 600, "steps must be between 1 and 20"),  # more than the slider shows, and than this model has
        (6, "<b>", "not &lt;b&gt;"),
        (6, 99, "Guidance must be a number from 0 to 15"),
        (8, [1], "Temperature must be"),
    ],
)
def test_wrong_values_get_a_sentence_in_the_message(address: str, place: int, value: Any, sentence: str) -> None:
    given: list[Any] = ["a red circle", 1, "5", "tiny", "ancestral", 5, 1.0, "", 1.0, "32x32"]
    given[place] = value
    said = called(address, "make", given)
    assert "event: complete" in said
    assert sentence.lower() in said.lower()
    assert "tessera-error" in said


def test_a_path_instead_of_an_upload_is_not_opened(address: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    for path in ("/etc/passwd", str(tmp_path / "private.png")):
        said = called(address, "enlarge", [{"path": path, "meta": {"_type": "gradio.FileData"}}, "2 times", "Lanczos"])
        assert "event: error" in said or "no longer here" in said
        assert "root:" not in said


def test_only_files_of_its_own_folder_are_opened(tmp_path: Path) -> None:
    kept = Kept(LIMITS)
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "private.png")
    assert kept.opened(kept.png(picture, "mine")).size == (8, 8)
    (kept.folder / "link.png").symlink_to(tmp_path / "private.png")
    for path in (tmp_path / "private.png", kept.folder / ".." / tmp_path.name / "private.png", kept.folder / "link.png"):
        with pytest.raises(UsageError, match="no longer here"):
            kept.opened(str(path))
    kept.close()
    assert not kept.folder.exists()


def test_an_upload_that_is_only_too_large_is_shrunk() -> None:
    kept = Kept(replace(LIMITS, upload_pixels=20_000, shrunk_pixels=5000))
    assert kept.opened(kept.png(Image.new("RGB", (200, 100)), "large")).size == (100, 50)
    with pytest.raises(TesseraError, match="too large: 201x100 pixels"):
        kept.opened(kept.png(Image.new("RGB", (201, 100)), "larger"))
    kept.close()


def test_files_make_room_for_new_ones() -> None:
    kept = Kept(replace(LIMITS, kept_bytes=1500))
    paths = [Path(kept.text("a" * 500, f"{number}.txt")) for number in range(5)]
    kept.sweep()
    assert [path.is_file() for path in paths] == [False, False, True, True, True]
    kept.close()


def bomb(path: Path, side: int) -> Path:
    """A PNG of side x side pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    compressor = zlib.compressobj(9)
    rows = b"".join(compressor.compress(bytes(side // 8 + 1)) for _ in range(side)) + compressor.flush()
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def uploaded(address: str, path: Path) -> str:
    boundary = "----parts"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\nContent-Type: image/png\r\n\r\n'.encode()
    )
    body += path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    status, places = asked(f"{address}/gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    assert status == 200, places
    place: str = places[0]
    return place


def test_decompression_bombs_are_refused_before_they_are_decoded(address: str, tmp_path: Path) -> None:
    place = uploaded(address, bomb(tmp_path / "bomb.png", 20_000))
    said = called(address, "enlarge", [{"path": place, "meta": {"_type": "gradio.FileData"}}, "2 times", "Lanczos"])
    assert "too large" in said or "not a readable picture" in said
    assert "event: complete" in said
    assert asked(f"{address}/v1/models")[0] == 200


def test_everything_asks_for_the_password(models: Path) -> None:
    """The page, its scripts and files, its calls and uploads, the interface, and what is not there at all."""
    kept = Kept(LIMITS)
    picture = kept.png(Image.new("RGB", (8, 8)), "private")
    given = ["a red circle", 1, "5", "tiny", "ancestral", 5, 1.0, "", 1.0, "32x32"]
    doors: list[tuple[str, str, Any]] = [
        ("GET", "/", None), ("HEAD", "/", None), ("GET", "/theme.css", None), ("GET", "/config", None), ("GET", "/openapi.json", None),
        ("GET", "/gradio_api/info", None), ("GET", f"/gradio_api/file={picture}", None), ("POST", "/gradio_api/call/make", {"data": given}),
        ("POST", "/gradio_api/call/v2/make", {"prompt": "a red circle"}), ("POST", "/gradio_api/queue/join", {"data": []}),
        ("GET", "/gradio_api/queue/data?session_hash=a", None), ("POST", "/gradio_api/upload", None),
        ("GET", "/gradio_api/heartbeat/a", None), ("POST", "/login", {}), ("GET", "/v1/models", None),
        ("POST", "/v1/images/generations", {"prompt": "a red circle"}), ("GET", "/v1/openapi.json", None), ("GET", "/nothing", None),
    ]  # fmt: skip
    with TestClient(application(Service(Shelf(models)), kept, ("ann", "secret"))) as client:
        for method, path, body in doors:
            answer = client.request(method, path, json=body)
            assert (path, answer.status_code) == (path, 401)
            assert answer.headers["www-authenticate"].startswith("Basic")
        for wrong in ("Bearer no", "Basic ???", "Basic " + base64.b64encode(b"ann:no").decode(), "Secret secret"):
            assert client.get("/v1/models", headers={"Authorization": wrong}).status_code == 401
        for right in ("Bearer secret", "Bearer ann:secret", "Basic " + base64.b64encode(b"ann:secret").decode()):
            assert client.get("/v1/models", headers={"Authorization": right}).status_code == 200
        client.auth = ("ann", "secret")
        assert "Generate" in client.get("/").text
        assert client.get(f"/gradio_api/file={picture}").content == Path(picture).read_bytes()
        assert client.post("/gradio_api/call/make", json={"data": given}).json()["event_id"]


def test_no_public_address_without_a_password() -> None:
    port = free_port()
    check_binding("127.0.0.1", port, None)
    check_binding("localhost", port, None)
    check_binding("0.0.0.0", port, ("ann", "secret"))
    for host in ("0.0.0.0", "::"):
        with pytest.raises(UsageError, match="--auth"):
            check_binding(host, port, None)
    with pytest.raises(UsageError, match="port"):
        check_binding("127.0.0.1", 0, None)
    with pytest.raises(UsageError, match="no address"):
        check_binding("no.such.host.invalid", port, None)


@pytest.mark.parametrize("text", ["ann", ":secret", "ann:", ""])
def test_half_a_password(text: str) -> None:
    with pytest.raises(UsageError, match="user and a password"):
        parse_auth(text)


def test_the_command_refuses_in_a_sentence(tmp_path: Path) -> None:
    for arguments, sentence in (
        (["--host", "0.0.0.0"], "--auth"),
        (["--models", str(tmp_path / "none")], "no folder"),
        (["--model", "nonsense"], "unknown model"),
        (["--upscaler", str(tmp_path / "none.pth")], "upscaler"),
    ):
        port = str(free_port())
        done = subprocess.run(
            [sys.executable, "-m", "tessera", "serve", "--port", port, *arguments], capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 2, done.stderr
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr


def test_a_client_that_leaves_has_cancelled(service: Service) -> None:
    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    go = threading.Event()
    service.submit(Call("tiny", run=lambda model, callback: [go.wait(120)]), user="")
    job = service.submit(Draw("tiny", prompts=("a red circle",)), user="a")
    assert not asyncio.run(waited(service, job, Request({"type": "http"}, gone)))
    assert job.state == "cancelled"
    go.set()


def test_the_page_is_there_without_torch_and_writes_nothing_into_gradio() -> None:
    code = """
import sys
from tessera.serve.kept import Kept
from tessera.serve.limits import LIMITS
from tessera.serve.server import application
from tessera.serve.service import Service
from tessera.serve.shelf import Shelf
from tessera.serve.shelf import Shelf
import gradio.component_meta
from gradio import Textbox

application(Service(Shelf()), Kept(LIMITS))
assert gradio.component_meta.create_or_modify_pyi(Textbox, "none such", []) is None  # its own would not find the class
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "False\n", done.stderr


def told(
    host: str, port: int, headers: dict[str, str], path: str = "/v1/models", method: str = "GET", body: bytes = b""
) -> tuple[int, str]:
    """Status and sentence of an answer to a request with headers of one's own, Host among them."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_name_that_was_made_to_stand_for_this_machine_is_refused(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        status, sentence = told(host, int(port), {"Host": name})
        assert (status, "its own address alone" in sentence) == (421, True), name
    for name in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}"):
        assert told(host, int(port), {"Host": name})[0] == 200


def test_pages_of_other_sites_get_nothing(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    own = f"{host}:{port}"
    body = json.dumps({"prompt": "a red circle", "steps": 1}).encode()
    json_type = {"Content-Type": "application/json", "Host": own}
    for extra in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}):
        status, sentence = told(host, int(port), {**json_type, **extra}, "/v1/images/generations", "POST", body)
        assert (status, "other sites" in sentence) == (403, True), extra
    assert told(host, int(port), {**json_type, "Origin": f"http://{own}"}, "/v1/images/generations", "POST", body)[0] == 200


def test_bodies_of_other_types_are_answered_as_clients_read_it(address: str) -> None:
    where = f"{address}/v1/images/generations"
    wrong = [b'{"prompt": ["a", "b"]}', b'{"prompt": "a", "steps": 2.5}', b'{"prompt": "a", "n": Infinity}', b"no JSON", b"[" * 9999, b"7"]
    for body in wrong:
        status, answer = asked(where, body)
        assert status == 400, body[:40]
        assert answer["error"]["message"]
        assert answer["error"]["type"] == "invalid_request_error"


def test_uploads_of_an_address_have_a_quota(tmp_path: Path) -> None:
    kept = Kept(replace(LIMITS, uploaded_bytes=1000))
    assert kept.uploads("a", 600)
    assert not kept.uploads("a", 600)
    assert kept.uploads("b", 600)
    assert kept.uploads("a", 400)
    kept.close()


def test_one_address_cannot_fill_the_queue(models: Path) -> None:
    service = Service(Shelf(models), replace(LIMITS, waiting=20, waiting_of_user=3, waiting_of_address=5))
    try:
        blocked = service.submit(Draw("tiny", prompts=("a red circle",), n=8, settings={"steps": 10}), "10.0.0.1/page:make")
        refused = 0
        for session in range(20):
            with suppress(Busy):
                service.submit(Draw("tiny", prompts=("a red circle",), n=8, settings={"steps": 10}), f"10.0.0.1/{session}:make")
                continue
            refused += 1
        assert refused >= 8  # some of the first may be finished by then
        service.submit(Draw("tiny", prompts=("a red circle",)), "10.0.0.2/page:make")
        blocked.cancel()
    finally:
        service.close()


def test_a_broken_folder_among_models_is_left_out_and_named(models: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.json").write_text("{")
    (tmp_path / "fine").symlink_to(models / "tiny")  # links out of the folder are not followed
    shelf = Shelf(tmp_path)
    assert list(shelf.left_out) == ["broken"]
    assert "cannot be read" in shelf.left_out["broken"]


def test_what_a_killed_server_left_is_removed_by_the_next() -> None:
    code = "import os, signal\nfrom tessera.serve.kept import Kept\nfrom tessera.serve.limits import LIMITS\n"
    code += "print(Kept(LIMITS).folder, flush=True)\n"
    killed = subprocess.run(
        [sys.executable, "-c", code + "os.kill(os.getpid(), signal.SIGKILL)"], capture_output=True, text=True, check=False
    )
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    running = Kept(LIMITS)
    another = Kept(LIMITS)
    assert not left.exists()
    assert running.folder.is_dir()
    running.close()
    another.close()
