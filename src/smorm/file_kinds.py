"""Files that are another thing than their names say: pointers, web pages, archives."""

from __future__ import annotations

HEAD = 32  # bytes that tell the kind of a file
_OTHER_FILES = {
    b"version https://git-lfs.": "a Git LFS pointer in the file's stead: fetch it (git lfs pull)",
    b"<!DOCTYPE html": "a web page, not the data: download the file itself",
    b"<!doctype html": "a web page, not the data: download the file itself",
    b"<html": "a web page, not the data: download the file itself",
    b"PAR1\x15": "a Parquet file: give it a name that ends in .parquet",
    b"ARROW1\0": "an Arrow file: save it as Parquet or JSON lines",
    b"PK\x03\x04": "a zip archive or an Excel workbook: unpack it, or save it as CSV",
    b"BZh91AY": "packed by bzip2: unpack it (bunzip2)",
    b"\xfd7zXZ\0": "packed by xz: unpack it (unxz)",
}
"""Kinds by their first bytes, each with the next step."""


def other_kind(head: bytes) -> str:
    """What a file is that begins so, and what to do; nothing where it may be text or JSON."""
    start = head.lstrip()
    return next((kind for magic, kind in _OTHER_FILES.items() if start.startswith(magic)), "")
