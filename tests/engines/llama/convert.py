#!/usr/bin/env python3
"""Converts the embedded model with llama.cpp's own convert_hf_to_gguf.py.

    tests/engines/llama/convert.py LLAMA_CPP MODEL --outfile MODEL.gguf [options of convert_hf_to_gguf.py]

The converter knows a tokenizer's way of splitting text by a list of models that are on the hub; the embedded model, which
is not, splits as Llama 3 does. The model's head patterns go into the file's metadata, where libggml-minference.so reads them.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    source = Path(sys.argv[1]).resolve()
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    from conversion.base import TextModel

    set_parameters = TextModel.set_gguf_parameters

    def set_parameters_and_patterns(self) -> None:
        set_parameters(self)
        patterns = (self.dir_model / "head_patterns.json").read_text(encoding="utf-8")
        self.gguf_writer.add_string("minference.head_patterns", patterns)

    TextModel.set_gguf_parameters = set_parameters_and_patterns
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "llama-bpe"
    sys.argv[:2] = [str(source / "convert_hf_to_gguf.py")]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
