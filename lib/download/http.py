"""A downloader for pooch that goes on where a broken transfer ended.

pooch starts every file from its first byte. Here the bytes that have arrived stay in
``<name>.part`` beside a note of what they are part of, across retries and across runs, and the
server is asked for the rest (RFC 9110, Sec. 14: Range, If-Range). Nothing takes the place of the
wanted file before length, format and, through pooch, checksum are right.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from tqdm.auto import tqdm

from lib.download.whole import DownloadError, check_content, check_space
from lib.paths import atomic

LONGEST_WAIT = 120.0
"""Seconds between two attempts at most, whatever a server asks for."""


class _Transient(Exception):
    """Something that may be over in a moment; `wait` is what the server asks for, in seconds."""

    def __init__(self, message: str, wait: float = 0.0):
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class ResumingDownloader:
    """Callable for ``pooch.Pooch.fetch(..., downloader=...)``.

    Attributes
    ----------
    part : Path
        File that keeps what has arrived, ``<name>.part``.
    size : int or None
        Length in bytes that the file must have, where it is known.
    attempts : int
        Failures in a row, each with less than a chunk gained, after which to give up.
    wait : float
        Seconds before the second attempt; doubled before each further one.
    chunk : int
        Bytes read at a time.
    timeout : (float, float)
        Seconds to wait for a connection, and for the next bytes.
    """

    part: Path
    size: int | None = None
    attempts: int = 6
    wait: float = 1.0
    chunk: int = 1 << 20
    timeout: tuple[float, float] = (15.0, 60.0)

    @property
    def name(self) -> str:
        """Name of the file that is wanted."""
        return self.part.name.removesuffix(".part")

    @property
    def _note(self) -> Path:
        return self.part.with_name(self.part.name + ".json")

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download `url` to `output_file`.

        Raises
        ------
        DownloadError
            If the server refuses, sends something else, or fails too often.
        ValueError
            If all bytes are there but not in the file's format; pooch then tries once more.
        """
        failures, furthest = 0, self._have()
        while not self._is_complete(url):
            try:
                self._transfer(url)
            except _Transient as problem:
                # Bytes that had been here before are no progress: a server that lets every
                # transfer start anew must not keep this going for ever.
                failures = 1 if self._have() - furthest >= self.chunk else failures + 1
                furthest = max(furthest, self._have())
                self._wait_or_give_up(url, problem, failures)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise DownloadError(
                    f"the disk is full after {self._have():,} bytes of {self.name}, which are "
                    "kept: make room and run the same command again"
                ) from error
        self._finish(output_file)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _state(self, url: str) -> dict:
        """Note about the part: its whole length and the server's mark of this version."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            note = {}
        return note if note.get("url") == url else {}

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _is_complete(self, url: str) -> bool:
        state = self._state(url)
        return bool(state) and (state["done"] or self._have() == state["total"])

    def _wait_or_give_up(self, url: str, problem: _Transient, failures: int) -> None:
        if failures >= self.attempts:
            raise DownloadError(
                f"{self.name} could not be downloaded from {url}: {problem}. "
                f"{self._have():,} bytes are kept in {self.part}; run the same command again later."
            ) from problem
        seconds = min(max(problem.wait, self.wait * 2 ** (failures - 1)), LONGEST_WAIT)
        print(f"  {self.name}: {problem}; trying again in {seconds:.0f} s", flush=True)
        time.sleep(seconds)

    def _transfer(self, url: str) -> None:
        """Ask for what is missing, once, and append it."""
        state, have = self._state(url), self._have()
        if not state:
            self._discard()
            have = 0
        # Compression on the way would make lengths and ranges those of another file.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if state["validator"]:
                headers["If-Range"] = state["validator"]
        try:
            with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as answer:
                self._check_status(answer)
                if answer.status_code == 206:
                    total = self._check_range(answer, have, state)
                else:
                    have, total = 0, self._start(answer, url)
                check_space(self.part.parent, (total or 0) - have)
                self._append(answer, have, total)
        except requests.TooManyRedirects as error:
            raise DownloadError(f"{url} redirects without end: {error}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _Transient(f"the connection failed ({type(error).__name__})") from error
        self._check_length(url, total)

    def _check_status(self, answer: requests.Response) -> None:
        code = answer.status_code
        if code == 416:
            self._discard()
            raise _Transient("the server has no such range; starting anew")
        if code in (408, 425, 429) or code >= 500:
            after = answer.headers.get("Retry-After", "")
            raise _Transient(f"the server answers {code}", float(after) if after.isdigit() else 0.0)
        if code not in (200, 206):
            raise DownloadError(
                f"{answer.url} answers {code} {answer.reason}: {self.name} is not to be had there. "
                "Get it by hand (data/README.md) and put it into the survey's folder."
            )
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError(
                f"{answer.url} answers with a web page instead of {self.name}: look at it in a "
                "browser; the service may be down, or want a login"
            )

    def _check_range(self, answer: requests.Response, have: int, state: dict) -> int | None:
        """Length of the whole file, from an answer that holds the rest of it."""
        match = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip()
        )
        total = int(match[2]) if match and match[2] != "*" else state.get("total")
        if not match or int(match[1]) != have or total != state.get("total"):
            self._discard()
            raise _Transient("the server sends another part than was asked for; starting anew")
        return total

    def _start(self, answer: requests.Response, url: str) -> int | None:
        """Begin an empty part for an answer that holds the whole file; returns its length."""
        length = answer.headers.get("Content-Length", "")
        offered = int(length) if length.isdigit() else None
        if self.size is not None and offered is not None and offered != self.size:
            raise DownloadError(
                f"{url} offers {offered:,} bytes, but {self.name} has {self.size:,}: it is another "
                "file, or has changed. Compare with data/README.md."
            )
        total = self.size if self.size is not None else offered
        # A weak mark does not promise the same bytes, and may not be used for ranges.
        mark = answer.headers.get("ETag", "")
        validator = mark if mark.startswith('"') else answer.headers.get("Last-Modified")
        self.part.write_bytes(b"")
        self._write_note({"url": url, "total": total, "validator": validator, "done": False})
        return total

    def _write_note(self, note: dict) -> None:
        with atomic(self._note) as temporary:
            temporary.write_text(json.dumps(note), encoding="utf-8")

    def _append(self, answer: requests.Response, have: int, total: int | None) -> None:
        bar = tqdm(
            desc=self.name, total=total, initial=have, unit="B", unit_scale=True, disable=None
        )
        # Raw bytes: `requests` would unpack a .gz file that is served as Content-Encoding: gzip.
        with bar, open(self.part, "ab") as file:
            for chunk in answer.raw.stream(self.chunk, decode_content=False):
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
                if total is not None and have > total:
                    break
            file.flush()
            os.fsync(file.fileno())

    def _check_length(self, url: str, total: int | None) -> None:
        have = self._have()
        if total is None:
            # The server does not say how long the file is: its end is all there is to go by.
            self._write_note({**self._state(url), "done": True})
        elif have < total:
            raise _Transient(f"the connection ended after {have:,} of {total:,} bytes")
        elif have > total:
            self._discard()
            raise DownloadError(f"{url} sends more than the {total:,} bytes of {self.name}")

    def _finish(self, output_file: str) -> None:
        try:
            check_content(self.part, self.name)
        except ValueError:
            self._discard()
            raise
        os.replace(self.part, output_file)
        self._note.unlink()
