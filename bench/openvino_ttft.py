#!/usr/bin/env python3
"""Measure the embedded model in OpenVINO GenAI, with its own sparse attention, beside vLLM with MInference.

    make test-engines-llama test-engines-vllm build/engines/llama/needle-f16.gguf
    build/engines/vllm/bin/pip install openvino-genai==2026.4.1.0
    build/engines/vllm/bin/python bench/openvino_ttft.py               # 32K tokens

Written to OUTPUT/openvino_first_token.json, rows of the same settings replaced. Every run is a needle prompt of its own, given as
token ids and answered to its end: the time is that of the first token, `right` whether the whole answer is. Attentions take turns on
the same prompts. OpenVINO GenAI reads F16 GGUF, with whose tokenizer it cuts prompts given as text at 8,192 tokens.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time

import numpy as np
import ttft
import vllm_ttft
from llama_programs import ROOT

from minference.needle.prompts import answer_tokens

GGUF = ROOT / "build/engines/llama/needle-f16.gguf"
# Of each engine; those of vLLM are in one piece, OpenVINO's in chunks of 4096: in one piece it took longer.
ATTENTIONS = {
    "minference": "vllm",
    "adaptive": "vllm",
    "trishape": "openvino",
    "xattention": "openvino",
    "dense": "openvino",
}
OPENVINO_CHUNK = 4096
WARM_UP_TOKENS = 2048
KEYS = ("length", "engine", "attention", "cache")


class OpenVINO:
    """A pipeline of this attention, its other parameters OpenVINO's defaults.

    cache: precision of keys and values; "default" for OpenVINO's choice.
    """

    def __init__(self, attention: str, cache: str, args):
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = OPENVINO_CHUNK
        scheduler.cache_size = 2  # GB
        scheduler.enable_prefix_caching = False
        if attention != "dense":
            scheduler.use_sparse_attention = True
            scheduler.sparse_attention_config = openvino_genai.SparseAttentionConfig(
                mode=getattr(openvino_genai.SparseAttentionMode, attention.upper())
            )
        properties = {"INFERENCE_NUM_THREADS": args.threads}
        if cache != "default":
            properties["KV_CACHE_PRECISION"] = cache
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(GGUF), scheduler, "CPU", properties)

    def answer(self, token_ids: list[int], num_tokens: int) -> tuple[float, list[int]]:
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig(max_new_tokens=num_tokens, do_sample=False, ignore_eos=True)
        tokens: list[int] = []
        begin = time.perf_counter()
        request = self.pipeline.add_request(0, openvino.Tensor(np.array([token_ids], np.int64)), config)
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            if request.can_read():
                if not tokens:
                    seconds = time.perf_counter() - begin
                tokens += next(iter(request.read().values())).generated_ids
        return seconds, tokens


class VLLM:
    """An attention of a running engine."""

    def __init__(self, attention: str, engine: vllm_ttft.Engine):
        self.attention, self.engine = attention, engine

    def answer(self, token_ids: list[int], num_tokens: int) -> tuple[float, list[int]]:
        engine = self.engine.llm.llm_engine
        seconds, tokens = None, []
        with self.engine.attention(self.attention):
            begin = time.perf_counter()
            engine.add_request("asked", {"prompt_token_ids": token_ids}, vllm_ttft.parameters(num_tokens))
            while engine.has_unfinished_requests():
                for output in engine.step():
                    seconds = seconds or time.perf_counter() - begin
                    tokens = list(output.outputs[0].token_ids)
        return seconds, tokens


def measure(args) -> list[dict]:
    with contextlib.ExitStack() as stack:
        args.eager = False
        engine = stack.enter_context(vllm_ttft.started(0, args))
        asked = ttft.needle_prompts(engine.tokenizer, args.length, args.repeats)
        prompts = [
            (engine.tokenizer(prompt.text).input_ids, answer_tokens(engine.tokenizer, prompt))
            for prompt in asked
        ]
        peers = {}
        for attention in args.attentions:
            if ATTENTIONS[attention] == "vllm":
                peers["vllm", attention, "bf16"] = VLLM(attention, engine)
            else:
                for cache in args.caches:
                    peers["openvino", attention, cache] = OpenVINO(attention, cache, args)
        for peer in peers.values():
            peer.answer(prompts[0][0][:WARM_UP_TOKENS], 2)
        seconds = {setting: [] for setting in peers}
        right = dict.fromkeys(peers, 0)
        for token_ids, expected in prompts:
            for setting, peer in peers.items():
                measured, tokens = peer.answer(token_ids, len(expected))
                seconds[setting].append(measured)
                right[setting] += tokens == expected
                print(*setting, len(token_ids), measured, tokens == expected, file=sys.stderr, flush=True)
    return [
        dict(zip(KEYS, (args.length, *setting)))
        | {"seconds": round(statistics.median(runs), 3), "right": right[setting], "prompts": len(runs)}
        for setting, runs in seconds.items()
    ]


def compare(rows: list[dict]) -> None:
    """Adds to every row how much sooner it is than the fastest of OpenVINO's at its length that answers every prompt."""
    for row in rows:
        peers = [
            peer["seconds"]
            for peer in rows
            if peer["engine"] == "openvino"
            and peer["length"] == row["length"]
            and peer["right"] == peer["prompts"]
        ]
        if peers:
            row["sooner"] = round(min(peers) / row["seconds"], 2)


def main() -> None:
    parser = ttft.common_parser(__doc__, repeats=5)
    parser.add_argument("--length", type=int, default=32768, metavar="TOKENS")
    parser.add_argument(
        "--attentions", nargs="+", choices=ATTENTIONS, default=["minference", "trishape", "xattention"]
    )
    parser.add_argument(
        "--caches", nargs="+", choices=("default", "u8", "f16", "bf16"), default=["default", "bf16"]
    )
    args = parser.parse_args()
    vllm_ttft.set_environment(args.threads)
    rows = ttft.with_earlier(args.output, "openvino_first_token", measure(args), KEYS)
    rows.sort(key=lambda row: (row["length"], list(ATTENTIONS).index(row["attention"]), row["cache"]))
    compare(rows)
    title = "Time to first token in OpenVINO GenAI and in vLLM with MInference, embedded model"
    ttft.write(args.output, "openvino_first_token", title, args.threads, rows)


# vLLM's processes load this file again.
if __name__ == "__main__":
    main()
