#!/usr/bin/env python3
"""What train.py begins with.

python models/needle/prepare.py corpus      # documentation that Debian machines have installed
python models/needle/prepare.py tokenizer   # byte-level BPE from it; with it as --init a model begins from nothing
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training import corpus, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    build = Path("build/needle")
    parser.add_argument("what", choices=("corpus", "tokenizer"))
    parser.add_argument("--corpus", type=Path, default=build / "corpus.json.xz")
    parser.add_argument("--roots", nargs="+", default=corpus.DEFAULT_ROOTS, help="folders to read")
    parser.add_argument("--megabytes", type=int, default=60, help="of text (default: 60)")
    parser.add_argument("--out", type=Path, default=build / "tokenizer", help="folder of the tokenizer")
    args = parser.parse_args()
    if args.what == "corpus":
        args.corpus.parent.mkdir(parents=True, exist_ok=True)
        corpus.collect(args.corpus, args.roots, args.megabytes * 1_000_000)
    else:
        tokenizer.train(corpus.load(args.corpus)["train"], args.out)


if __name__ == "__main__":
    main()
