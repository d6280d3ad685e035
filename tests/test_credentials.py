"""No credentials in what is kept or handed on: notebooks, sources, profiles and logs of runs."""

import json
import re
import subprocess
import zipfile

import pytest
from conftest import ROOT

from lib.workflow import kaggle

KEPT = {
    *(".ipynb", ".py", ".md", ".yaml", ".yml", ".json", ".txt", ".toml", ".sh", ".html", ".log"),
    ".csv",
}

PATTERNS = {
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "Kaggle key": r"\bkey\\?[\"']?\s*[:=]\s*\\?[\"'][0-9a-f]{32}\\?[\"']",
    "Kaggle variable": r"KAGGLE_(?:KEY|API_TOKEN)\\?[\"']?\]?\s*[=:]\s*\\?[\"']?[A-Za-z0-9_]{16,}",
    "Kaggle token": r"\bKGAT_[A-Za-z0-9]{20,}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b",
    "AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "signed URL": r"[?&](?:X-Amz-Signature|X-Goog-Signature|sig)=[0-9A-Fa-f%]{32,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "password in a URL": r"\bhttps?://[^\s/:@\"'<>{}]+:[^\s/:@\"'<>{}]+@[\w.-]+",
    "bearer token": r"\b[Bb]earer [A-Za-z0-9._~+/-]{24,}",
}


def credentials(text):
    """Kinds of credentials that a text holds; never the credential itself."""
    return [kind for kind, pattern in PATTERNS.items() if re.search(pattern, text)]


def kept_files():
    """Files under git, and what runs in this checkout have made."""
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("this is no git checkout, so it cannot be told what is kept")
    names = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [p for p in names + texts(ROOT / "runs") if p.suffix in KEPT and p.is_file()]


def texts(folder):
    """Files of text at any depth below a folder."""
    return [p for p in folder.rglob("*") if p.suffix in KEPT and p.is_file()]


def with_credentials(files):
    """Files that hold credentials, and of which kinds."""
    return {
        str(path): kinds
        for path in files
        if (kinds := credentials(path.read_text(encoding="utf-8", errors="replace")))
    }


def test_nothing_kept_holds_credentials():
    files = kept_files()
    assert {p.name for p in files} >= {"00_mock_survey.ipynb", "steps.py", "mock.yaml"}
    assert not with_credentials(files)


@pytest.mark.chain
def test_a_run_holds_no_credentials(smoke):
    files = texts(smoke[1])
    names = {path.relative_to(smoke[1]).as_posix() for path in files}
    assert {"03_train_b0/log.txt", "03_train_b0/03_train_b0.ipynb"} <= names
    assert any(name.startswith("sweeps/") and name.endswith("/receipt.json") for name in names)
    assert not with_credentials(files)


def test_what_goes_to_kaggle_holds_no_credentials(tmp_path):
    code, _ = kaggle.build("smoke", tmp_path / "out", "somebody")
    (wheel,) = code.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "out" / "wheel")
    files = texts(tmp_path / "out")
    assert {p.name for p in files} >= {"driver.ipynb", "kernel-metadata.json", "steps.py"}
    assert not with_credentials(files)


# Put together here, so that this file does not hold what it looks for.
PLANTED = {
    "Hugging Face token": "token = 'hf_" + "aBcDeFgH1J" * 4 + "'",
    "Kaggle key": '{"username":"someone","key":"' + "0123456789abcdef" * 2 + '"}',
    "Kaggle variable": "os.environ['KAGGLE_KEY'] = '" + "0123456789abcdef" * 2 + "'",
    "Kaggle token": "KGAT_" + "0123456789abcdef" * 2,
    "GitHub token": "ghp_" + "aB3" * 12,
    "AWS key": "AKIA" + "ABCDEFGH12345678",
    "signed URL": "https://store/x.zip?a=1&X-Amz-Signature=" + "0123456789abcdef" * 4,
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "password in a URL": "http://someone:" + "secret@proxy.example.org/",
    "bearer token": "Authorization: Bearer " + "abcDEF0123456789" * 2,
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_each_kind_is_found_in_text_and_in_a_notebook(kind):
    assert kind in credentials(PLANTED[kind])
    notebook = json.dumps({"cells": [{"source": [PLANTED[kind] + "\n"]}]})
    assert kind in credentials(notebook)


def test_what_is_no_credential_is_left_alone():
    harmless = (
        "sha256 " + "0123456789abcdef" * 4,
        '"checksum": "md5:bc647032d31e50c798770cf4430525c7"',
        "https://zenodo.org/records/3565489/files/images_gz2.zip",
        "hf_hub_download(REPOSITORY, name)",
        "set KAGGLE_KEY in your environment",
        "someone@example.org",
    )
    assert [credentials(text) for text in harmless] == [[]] * len(harmless)
