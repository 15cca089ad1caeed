"""Step 1: haystack text and word lists from the documentation that a Linux machine has installed.

Missing folders are skipped, so the corpus differs from machine to machine; the synthetic tasks do not.
"""

from __future__ import annotations

import ast
import glob
import gzip
import hashlib
import html
import json
import lzma
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

DEFAULT_ROOTS = (
    "/usr/share/man/man*",
    "/usr/share/doc",
    "/usr/share/perl",
    "/usr/share/vim",
    "/usr/share/cmake*",
    "/usr/lib/python3*",
    "/usr/local/lib/python3*",
    "/usr/lib/jvm",
    "/usr/share/common-licenses",
    "/usr/share/licenses",
    "/usr/share/info",
)

# English text has these words often: see _is_english.
_COMMON_WORDS = frozenset("the of to and is a in for that be it with on as are this or".split())
_TEXT_NAMES = re.compile(r"(readme|news|changelog|copying|licen[cs]e|faq|todo|gpl|lgpl|artistic|apache)")
_MAX_FILE_BYTES, _MAX_DOCUMENT = 1 << 20, 40_000
# Shares of files and of words that only evaluation sees, in 256ths.
_HELDOUT_FILES, _HELDOUT_WORDS = 13, 52
_MIN_WORD_COUNT = 6

_ROFF_PARAGRAPH = (".SH", ".SS", ".PP", ".P", ".TP", ".IP", ".HP", ".LP", ".sp", ".br", ".Sh", ".Pp", ".It")
_ROFF_SKIPPED = (
    ".TH",
    ".so",
    ".ft",
    ".nf",
    ".fi",
    ".ie",
    ".el",
    ".if",
    ".de",
    ".ds",
    ".nr",
    "..",
    '.\\"',
    "'\\\"",
)
_ROFF_ESCAPES = {
    "\\-": "-", "\\(bu": "*", "\\(em": "--", "\\(en": "-", "\\(aq": "'", "\\(dq": '"', "\\(lq": '"', "\\(rq": '"',
    "\\(cq": "'", "\\(oq": "'", "\\*(Aq": "'", "\\ ": " ", "\\~": " ", "\\e": "\\", "\\(rs": "\\", "\\'": "'",
    "\\`": "`", "\\.": ".",
}  # fmt: skip
_ASCII = {
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "--", "\u2026": "...",
    "\u00a0": " ", "\t": "    ", "\r": "",
}  # fmt: skip


def _replace_all(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def _text_of_roff(source: str) -> str:
    lines = []
    for line in source.split("\n"):
        if line.startswith(_ROFF_SKIPPED):
            continue
        if line.startswith(_ROFF_PARAGRAPH):
            lines.append("\n" + re.sub(r"^\.\w+\s*", "", line).replace('"', ""))
        elif line.startswith((".", "'")):
            lines.append(re.sub(r"^[.']\s*\w+\s*", "", line).replace('"', ""))
        else:
            lines.append(line)
    text = re.sub(r"\\f(\[\w*\]|\(..|.)", "", "\n".join(lines))
    text = re.sub(r"\\s[+-]?\d+|\\m\[\w*\]|\\[&/,|^%:]|\\c$", "", text, flags=re.M)
    return _replace_all(text, _ROFF_ESCAPES)


def _text_of_html(source: str) -> str:
    text = re.sub(r"(?is)<(script|style|nav|head|svg)\b.*?</\1>", " ", source)
    text = re.sub(r"(?i)<(p|br|div|h\d|li|tr|pre|dt|dd|table|ul|ol|section)\b[^>]*>", "\n", text)
    return re.sub(r"[ \t]+\n", "\n", html.unescape(re.sub(r"<[^>]*>", "", text)))


def _text_of_python(source: str) -> str:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return "\n\n".join(text for text in docstrings if text and len(text) > 120)


def _text_of_perl(source: str) -> str:
    text = "\n\n".join(re.findall(r"(?ms)^=(?:head|pod|over|item)\b.*?(?=^=cut|\Z)", source))
    return re.sub(r"(?m)^=\w+ ?", "", re.sub(r"[BCEFILX]<+\s*(.*?)\s*>+", r"\1", text))


def read_text(path: str) -> str:
    """Readable ASCII text of one documentation file, or ""."""
    name = os.path.basename(path).lower()
    zipped = name.endswith(".gz")
    with (gzip.open if zipped else open)(path, "rb") as file:
        raw = file.read(_MAX_FILE_BYTES)
    name = name.removesuffix(".gz")
    if b"\0" in raw[:4096]:
        return ""
    text = raw.decode("utf-8", "replace")
    if re.search(r"/man/man\w+/[^/]+$", path):
        text = _text_of_roff(text)
    elif name.endswith((".html", ".htm")):
        text = _text_of_html(text)
    elif name.endswith(".py"):
        text = _text_of_python(text)
    elif name.endswith((".pod", ".pm", ".pl")):
        text = _text_of_perl(text)
    elif not (name.endswith((".txt", ".md", ".rst", ".texi")) or _TEXT_NAMES.match(name)):
        return ""
    text = _replace_all(text, _ASCII).encode("ascii", "ignore").decode()
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ ]+\n", "\n", text))


def _is_english(paragraph: str) -> bool:
    words = re.findall(r"[a-z]+", paragraph.lower())
    letters = sum(map(len, words))
    common = sum(word in _COMMON_WORDS for word in words)
    return (
        len(words) >= 12 and common >= 0.14 * len(words) and letters >= 0.62 * len(paragraph.replace(" ", ""))
    )


def _files(roots) -> list[str]:
    """All files under the roots, in an order that mixes the folders."""
    files = set()
    for root in roots:
        for top in glob.glob(root):
            for folder, _, names in os.walk(top):
                files.update(os.path.join(folder, name) for name in names)
    return sorted(files, key=lambda name: hashlib.md5(name.encode()).hexdigest())


def documents(roots) -> Iterator[str]:
    """Documents of English paragraphs, no paragraph twice."""
    seen = set()
    for path in _files(roots):
        try:
            if os.path.islink(path) or os.path.getsize(path) < 400:
                continue
            text = read_text(path)
        except (OSError, EOFError, UnicodeError):
            continue
        paragraphs = []
        for paragraph in (part.strip("\n") for part in text.split("\n\n")):
            key = re.sub(r"\W+", " ", paragraph).strip()
            if len(paragraph) > 60 and key not in seen and _is_english(paragraph):
                seen.add(key)
                paragraphs.append(paragraph)
        document = "\n\n".join(paragraphs)[:_MAX_DOCUMENT]
        if len(document) > 600:
            yield document


def _hash_byte(text: str) -> int:
    return hashlib.md5(text.encode()).digest()[0]


def collect(path: str | Path, roots=DEFAULT_ROOTS, max_characters: int = 60_000_000) -> dict:
    """Write {"train", "heldout": documents, "words_train", "words_heldout": words} to an xz-compressed JSON file."""
    train, heldout, size = [], [], 0
    for document in documents(roots):
        (heldout if _hash_byte(document) < _HELDOUT_FILES else train).append(document)
        size += len(document)
        if size > max_characters:
            break
    counts = Counter(
        word for document in train for word in re.findall(r"(?<![\w.-])[a-z]{4,9}(?![\w-])", document)
    )
    words = sorted(word for word, count in counts.items() if count >= _MIN_WORD_COUNT)
    corpus = {
        "train": train,
        "heldout": heldout,
        "words_train": [word for word in words if _hash_byte(word) >= _HELDOUT_WORDS],
        "words_heldout": [word for word in words if _hash_byte(word) < _HELDOUT_WORDS],
    }
    with lzma.open(path, "wt", preset=6) as file:
        json.dump(corpus, file)
    return corpus


def load(path: str | Path) -> dict:
    with lzma.open(path, "rt") as file:
        return json.load(file)
