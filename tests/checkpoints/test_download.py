"""Downloads from a real server. A file of 3 MB is read in three chunks, so that it can break off in the middle."""

import hashlib
import json
import random
import shutil
import socket
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request

import pytest
from filelock import FileLock

from tessera.checkpoints.cards import Card
from tessera.checkpoints.download import download
from tessera.checkpoints.transfer import DeadLink, Patience, Redirects
from tessera.errors import TesseraError
from tests.checkpoints.file_server import FileServer, serve

CONTENT = random.Random(0).randbytes(3 << 20)
QUICK = Patience(timeout=0.5, slowest=1e4, window=0.2, tries=3, pause=0.0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def make_card(*urls: str, **about: Any) -> Card:
    values: dict[str, Any] = {"name": "x", "family": "tests", "file": "x.pth", "kind": "model", "data": "noise"}
    return Card(**{**values, **about}, urls=tuple({"url": url} for url in urls), licence="none", source="here")  # type: ignore[arg-type]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_whole_file(server: FileServer, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    card = make_card(server.put("/x", CONTENT), size=len(CONTENT), sha256=sha256(CONTENT), hash_source="here")
    path = download(card, folder, lambda done, total: seen.append((done, total)), QUICK)
    assert path.read_bytes() == CONTENT
    assert names(folder) == ["x.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_is_there_is_not_asked_for(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT))
    download(card, folder, patience=QUICK)
    server.asked.clear()
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT
    assert server.asked == []


def test_parts_are_concatenated(server: FileServer, folder: Path) -> None:
    pieces = {letter: CONTENT[i::3][:900] for i, letter in enumerate("abc")}
    for letter, piece in pieces.items():
        server.put(f"/x_a{letter}", piece, tag=f'"{letter}"')
    whole = b"".join(pieces.values())
    card = make_card(f"{server.address}/x_a[a-c]", sha256=sha256(whole), hash_source="here")
    assert download(card, folder, patience=QUICK).read_bytes() == whole


def test_a_broken_connection_goes_on_at_once(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT, breaks=[1_500_000, 200_000]))
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=1500000-", "bytes=1700000-"]


def test_an_interrupted_download_goes_on_in_the_next_run(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT, breaks=[1_500_000, 0, 0]))
    with pytest.raises(TesseraError, match=r"broke off after 1500000 of 3145728 bytes.*goes on from there"):
        download(card, folder, patience=QUICK)
    assert names(folder) == ["x.pth.part", "x.pth.part.json"]
    server.asked.clear()
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT
    assert server.asked == [("/x", "bytes=1500000-")]
    assert names(folder) == ["x.pth"]


def test_ctrl_c_keeps_what_is_there(server: FileServer, folder: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > 1 << 20:
            raise KeyboardInterrupt

    card = make_card(server.put("/x", CONTENT))
    with pytest.raises(KeyboardInterrupt):
        download(card, folder, stop, QUICK)
    server.asked.clear()
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT
    assert server.asked[0][1] not in (None, "bytes=0-")


def test_finished_parts_are_not_read_again(server: FileServer, folder: Path) -> None:
    server.put("/x_aa", CONTENT[:1000])
    server.put("/x_ab", CONTENT[1000:3000], breaks=[500, 0, 0])
    card = make_card(f"{server.address}/x_a[a-b]")
    with pytest.raises(TesseraError, match="broke off"):
        download(card, folder, patience=QUICK)
    server.asked.clear()
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT[:3000]
    assert server.asked == [("/x_ab", "bytes=500-")]


@pytest.mark.parametrize("how", [{"tag": '"2"'}, {"tag": None, "date": "Tue, 01 Apr 2025 10:00:00 GMT"}])
def test_a_file_that_changed_on_the_server_is_read_from_the_start(server: FileServer, folder: Path, how: dict[str, Any]) -> None:
    card = make_card(server.put("/x", CONTENT, breaks=[1_500_000, 0, 0]))
    with pytest.raises(TesseraError, match="broke off"):
        download(card, folder, patience=QUICK)
    changed = CONTENT[::-1]
    server.put("/x", changed, **how)
    server.asked.clear()
    assert download(card, folder, patience=QUICK).read_bytes() == changed
    assert server.asked == [("/x", None)]


def test_an_earlier_part_that_changed_is_read_again(server: FileServer, folder: Path) -> None:
    server.put("/x_aa", CONTENT[:1000])
    server.put("/x_ab", CONTENT[1000:3000], breaks=[500, 0, 0])
    card = make_card(f"{server.address}/x_a[a-b]")
    with pytest.raises(TesseraError, match="broke off"):
        download(card, folder, patience=QUICK)
    server.put("/x_aa", CONTENT[5000:6000], tag='"2"')
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT[5000:6000] + CONTENT[1000:3000]


def test_a_file_that_changes_between_two_tries(server: FileServer, folder: Path) -> None:
    changed = CONTENT[::-1]
    card = make_card(server.put("/x", CONTENT, breaks=[1_500_000]))

    def change(done: int, total: int) -> None:
        if done == 1_500_000:
            server.put("/x", changed, tag='"2"')

    assert download(card, folder, change, QUICK).read_bytes() == changed


def test_a_server_without_ranges_starts_again(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT, ranges=False, breaks=[1_500_000]))
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT


@pytest.mark.parametrize("tag", [None, 'W/"1"'])
def test_without_a_strong_validator_nothing_is_appended(server: FileServer, folder: Path, tag: str | None) -> None:
    card = make_card(server.put("/x", CONTENT, tag=tag, breaks=[1_500_000]))
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, None]


def test_a_date_will_do_as_validator(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT, tag=None, date="Tue, 01 Apr 2025 10:00:00 GMT", breaks=[1_500_000]))
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT
    assert server.asked[1][1] == "bytes=1500000-"


@pytest.mark.parametrize("left", ["", "[]", "{", '[{"url": 1}]', '[{"length": 3}]', "null"])
def test_a_part_of_unknown_origin_is_not_used(server: FileServer, folder: Path, left: str) -> None:
    folder.mkdir()
    (folder / "x.pth.part").write_bytes(b"something else")
    (folder / "x.pth.part.json").write_text(left)
    assert download(make_card(server.put("/x", CONTENT)), folder, patience=QUICK).read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_cut(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT, breaks=[1_500_000, 0, 0]))
    with pytest.raises(TesseraError, match="broke off"):
        download(card, folder, patience=QUICK)
    (folder / "x.pth.part").write_bytes(CONTENT + b"more")
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_dead_link(server: FileServer, folder: Path, status: int) -> None:
    card = make_card(server.put("/x", status=status))
    with pytest.raises(TesseraError) as caught:
        download(card, folder, patience=QUICK)
    sentence = str(caught.value)
    assert "the link to x.pth is dead" in sentence
    assert f"answers {status}" in sentence
    assert f"put it into {folder} as x.pth" in sentence
    assert names(folder) == []


def test_a_dead_part_is_noticed_before_anything_is_read(server: FileServer, folder: Path) -> None:
    server.put("/x_aa", CONTENT)
    with pytest.raises(TesseraError, match="x_ab answers 404"):
        download(make_card(f"{server.address}/x_a[a-b]"), folder, patience=QUICK)
    assert server.asked == []
    assert names(folder) == []


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html><p>moved", "text/html; charset=utf-8"),
        (b"  <html>sorry", "application/octet-stream"),
        (b'<?xml version="1.0"?><Error>AuthenticationFailed', "application/octet-stream"),
        (b"sign in", "text/html"),
    ],
)
def test_a_web_page_in_place_of_the_file(server: FileServer, folder: Path, content: bytes, kind: str) -> None:
    card = make_card(server.put("/x", content, kind=kind))
    with pytest.raises(TesseraError, match="web page in place of the file"):
        download(card, folder, patience=QUICK)
    assert names(folder) == []


def test_no_such_host(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(TesseraError, match=r"cannot be downloaded now .*tessera\.invalid cannot be looked up.*put it into"):
        download(make_card("http://tessera.invalid/x"), folder, patience=QUICK)


def test_nobody_listens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(TesseraError, match=r"cannot be reached.*try again later"):
            download(make_card(f"http://127.0.0.1:{taken.getsockname()[1]}/x"), folder, patience=QUICK)


def test_passing_failures_are_borne(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT, failures=2))
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT


def test_lasting_failures_are_not(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT, failures=99))
    with pytest.raises(TesseraError, match=r"answers 503.*try again later"):
        download(card, folder, patience=QUICK)
    assert server.files["/x"].failures == 99 - QUICK.tries


def test_the_next_address_is_tried(server: FileServer, folder: Path) -> None:
    card = make_card(f"{server.address}/none", server.put("/short", b"too short"), server.put("/x", CONTENT), size=len(CONTENT))
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT


def test_addresses_known_to_be_dead_are_not_tried(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT))
    buried = card.model_copy(update={"urls": (card.urls[0].model_copy(update={"dead": "https://example.org/17"}),)})
    with pytest.raises(TesseraError, match=r"is dead, see https://example\.org/17"):
        download(buried, folder, patience=QUICK)
    assert server.asked == []


def test_a_download_goes_on_from_the_address_it_began_with(server: FileServer, folder: Path) -> None:
    second = server.put("/second", CONTENT, breaks=[1_500_000, 0, 0])
    with pytest.raises(TesseraError, match="broke off"):
        download(make_card(f"{server.address}/first", second), folder, patience=QUICK)
    server.put("/first", CONTENT)
    server.asked.clear()
    download(make_card(f"{server.address}/first", second), folder, patience=QUICK)
    assert server.asked == [("/second", "bytes=1500000-")]


def test_a_wrong_hash_leaves_nothing(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT), sha256="0" * 64, hash_source="here")
    with pytest.raises(TesseraError) as caught:
        download(card, folder, patience=QUICK)
    assert sha256(CONTENT) in str(caught.value)
    assert f"expected {'0' * 64}" in str(caught.value)
    assert names(folder) == []


def test_a_wrong_size_is_noticed_before_anything_is_read(server: FileServer, folder: Path) -> None:
    with pytest.raises(TesseraError, match="has 3145728 bytes, where the released file has 5"):
        download(make_card(server.put("/x", CONTENT), size=5), folder, patience=QUICK)
    assert server.asked == []


def test_a_wrong_file_that_is_there_already(server: FileServer, folder: Path) -> None:
    folder.mkdir()
    (folder / "x.pth").write_bytes(b"other")
    card = make_card(server.put("/x", CONTENT), sha256=sha256(CONTENT), hash_source="here")
    with pytest.raises(TesseraError, match=rf"{sha256(b'other')}, expected {sha256(CONTENT)}"):
        download(card, folder, patience=QUICK)
    assert (folder / "x.pth").read_bytes() == b"other"


def test_a_server_that_stalls(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT, breaks=[1_500_000, 0, 0], stalls=True))
    with pytest.raises(TesseraError, match=r"stopped answering.*goes on from there"):
        download(card, folder, patience=QUICK)
    assert (folder / "x.pth.part").stat().st_size == 1_500_000


def test_a_server_that_drips(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT, drip=True))
    with pytest.raises(TesseraError, match="too slow"):
        download(card, folder, patience=QUICK)


def test_a_file_without_a_length(server: FileServer, folder: Path) -> None:
    card = make_card(server.put("/x", CONTENT, ranges=False, length=False))
    with pytest.raises(TesseraError, match="does not say how long"):
        download(card, folder, patience=QUICK)


def test_an_empty_file(server: FileServer, folder: Path) -> None:
    with pytest.raises(TesseraError, match="does not say how long"):
        download(make_card(server.put("/x", b"", ranges=False)), folder, patience=QUICK)


def test_redirects_are_followed(server: FileServer, folder: Path) -> None:
    server.put("/far", CONTENT, breaks=[1_500_000])
    card = make_card(server.put("/x", location="/far"))
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "http://[::1", "http://host:port/"])
def test_redirects_out_of_http_are_not(server: FileServer, folder: Path, target: str) -> None:
    with pytest.raises(TesseraError, match=r"the link to x\.pth is dead"):
        download(make_card(server.put("/x", location=target)), folder, patience=QUICK)
    assert names(folder) == []


@pytest.mark.parametrize("target", ["http://example.org/x", "file:///etc/passwd", "ftp://example.org/x"])
def test_redirects_to_less_safety_are_not(target: str) -> None:
    with pytest.raises(DeadLink, match="is not followed"):
        Redirects().redirect_request(Request("https://example.org/x"), None, 302, "Found", HTTPMessage(), target)


def test_redirects_in_a_circle(server: FileServer, folder: Path) -> None:
    with pytest.raises(TesseraError, match=r"the link to x\.pth is dead.*redirects in a circle") as caught:
        download(make_card(server.put("/x", location="/x")), folder, patience=QUICK)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_noticed_before(server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 << 20))
    with pytest.raises(TesseraError, match=r"0\.0 GB free.*make room"):
        download(make_card(server.put("/x", CONTENT)), folder, patience=QUICK)
    assert server.asked == []
    assert names(folder) == []


def test_a_disk_that_fills_up_in_the_middle(server: FileServer, folder: Path) -> None:
    resource = pytest.importorskip("resource")
    card = make_card(server.put("/x", CONTENT))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))  # a write beyond fails as on a full disk
    try:
        with pytest.raises(TesseraError, match=r"x\.pth\.part cannot be written \(.*\); what is there is kept"):
            download(card, folder, patience=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(folder) == ["x.pth.part", "x.pth.part.json"]
    assert download(card, folder, patience=QUICK).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TesseraError, match="cannot be written to"):
        download(make_card(server.put("/x", CONTENT)), tmp_path / "file" / "models", patience=QUICK)


def test_two_processes_at_once(server: FileServer, folder: Path) -> None:
    folder.mkdir()
    with FileLock(folder / ".x.pth.lock"), pytest.raises(TesseraError, match="another process"):
        download(make_card(server.put("/x", CONTENT)), folder, patience=QUICK)


def test_the_plan_beside_a_part_names_its_address(server: FileServer, folder: Path) -> None:
    url = server.put("/x", CONTENT, breaks=[10, 0, 0])
    with pytest.raises(TesseraError, match="broke off"):
        download(make_card(url), folder, patience=QUICK)
    assert json.loads((folder / "x.pth.part.json").read_text()) == [{"url": url, "length": len(CONTENT), "validator": '"1"'}]


def test_a_file_in_a_folder_of_its_own(server: FileServer, folder: Path) -> None:
    path = download(make_card(server.put("/one", CONTENT), file="run/saved/one.pth"), folder, patience=QUICK)
    assert (path, path.read_bytes()) == (folder / "run" / "saved" / "one.pth", CONTENT)
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["one.pth"]


def test_a_folder_that_only_a_browser_opens(folder: Path) -> None:
    with pytest.raises(TesseraError, match=r"open https://drive\.google\.com/drive/folders/x in a browser.*put it into"):
        download(make_card("https://drive.google.com/drive/folders/x"), folder, patience=QUICK)
