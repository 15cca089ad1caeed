#!/usr/bin/env python3
"""Measure the embedded model inside vLLM's CPU backend, with the engine's own attention and with MInference.

    build/engines/vllm/bin/python bench/vllm_ttft.py                   # all parts at 32K tokens; made by make test-engines-vllm
    build/engines/vllm/bin/python bench/vllm_ttft.py --parts short --pairs 31

Parts, each written to OUTPUT/vllm_PART.json, rows of the same settings replaced:
    first_token   time to first token, prompts computed in chunks and in one piece, attentions in turn; density, kept mass
    answers       needle prompts answered right
    short         prompts of 16 to 2048 tokens, patched and unpatched in turn: median ratio, bootstrap interval
    mixed         time to first token while other requests decode in the same batches, and without them

An engine is started for each size of chunks, its worker a process of its own, as users start it; it keeps its prefixes'
keys and values for nobody, so that every prompt is computed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time

import ttft

from minference import MInference, record, restore
from minference.config import DEFAULT_SHARE
from minference.needle import model as needle
from minference.needle.prompts import answer_tokens

# "floor" leaves attention out: see vllm_floor.py. "vllm" is the engine's own.
ATTENTIONS = ("floor", "minference", "adaptive", "dense", "vllm")
# Rows that differ in one of these stand beside each other in a result file.
KEYS = ("tokens", "chunk", "attention", "decoding")


class Engine:
    """An engine that computes at most `chunk` tokens at a time; 0 for all of the longest prompt's."""

    def __init__(self, chunk: int, args):
        from vllm import LLM

        self.tokens = max(args.length + 64, 4096)
        self.chunk = chunk or self.tokens
        self.llm = LLM(
            str(needle.folder()),
            dtype="bfloat16",
            max_model_len=self.tokens,
            max_num_batched_tokens=self.chunk,
            enable_prefix_caching=False,
            enforce_eager=args.eager,
            disable_log_stats=True,
            worker_extension_cls="vllm_floor.Floor",
        )
        self.tokenizer = self.llm.get_tokenizer()

    @contextlib.contextmanager
    def attention(self, name: str):
        """The engine with one of ATTENTIONS."""
        if name == "floor":
            self.llm.collective_rpc("leave_attention_out", args=(True,))
        elif name != "vllm":
            options = {"share": DEFAULT_SHARE} if name == "adaptive" else {}
            MInference("dense" if name == "dense" else "minference", attn_kwargs=options)(self.llm)
        try:
            yield
        finally:
            if name == "floor":
                self.llm.collective_rpc("leave_attention_out", args=(False,))
            elif name != "vllm":
                restore(self.llm)

    def generate(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        """The likeliest tokens after each prompt, all prompts given to the engine at once."""
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], parameters(num_tokens), use_tqdm=False
        )
        return [list(output.outputs[0].token_ids) for output in outputs]

    def first_token(self, prompt: list[int]) -> float:
        begin = time.perf_counter()
        self.generate([prompt], 1)
        return time.perf_counter() - begin

    def first_token_among(self, decoding: int, context: list[int], prompt: list[int]) -> float:
        """While `decoding` requests with this context decode, each a token in every batch."""
        engine = self.llm.llm_engine
        names = [
            engine.add_request(str(i), {"prompt_token_ids": context}, parameters(2048))
            for i in range(decoding)
        ]
        # Requests that have answered by a token decode.
        answered = set()
        while len(answered) < decoding:
            answered.update(output.request_id for output in engine.step())
        begin = time.perf_counter()
        engine.add_request("asked", {"prompt_token_ids": prompt}, parameters(1))
        while not any(output.request_id == "asked" for output in engine.step()):
            pass
        seconds = time.perf_counter() - begin
        engine.abort_request(names, internal=True)
        while engine.has_unfinished_requests():
            engine.step()
        return seconds

    def shut_down(self):
        self.llm.llm_engine.engine_core.shutdown()


def parameters(num_tokens: int):
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)


@contextlib.contextmanager
def started(chunk: int, args):
    engine = Engine(chunk, args)
    try:
        yield engine
    finally:
        engine.shut_down()


def first_token(args) -> list[dict]:
    rows = []
    for chunk in args.chunks:
        with started(chunk, args) as engine:
            prompt = ttft.token_ids_of(engine.tokenizer, args.length)
            seconds: dict[str, list[float]] = {name: [] for name in args.attentions}
            for i in range(-1, args.repeats):
                for name in args.attentions:
                    if name == "vllm" and i >= args.dense_repeats:
                        continue
                    with engine.attention(name):
                        # The first round warms up.
                        measured = engine.first_token(prompt if i >= 0 else prompt[: engine.chunk // 2])
                    if i >= 0:
                        seconds[name].append(measured)
                        print(chunk, name, measured, file=sys.stderr, flush=True)
            for row in ttft.first_token_rows(seconds, "vllm"):
                row = {"tokens": len(prompt), "chunk": min(engine.chunk, len(prompt))} | row
                rows.append(row | kept_by(engine, row["attention"], prompt))
    return rows


def kept_by(engine: Engine, attention: str, prompt: list[int]) -> dict:
    """Density and kept mass of one prompt, which measuring them makes slower."""
    if attention not in ("minference", "adaptive"):
        return {}
    with engine.attention(attention), record(engine.llm, kept_mass=True) as report:
        engine.first_token(prompt)
    return {name: round(float(getattr(report, name)), 4) for name in ("density", "kept_mass")}


def answers(args) -> list[dict]:
    rows = []
    for chunk in args.chunks:
        with started(chunk, args) as engine:
            for name, count in (("minference", args.prompts), ("vllm", args.dense_prompts)):
                asked = ttft.needle_prompts(engine.tokenizer, args.length, count)
                expected = [answer_tokens(engine.tokenizer, prompt) for prompt in asked]
                prompts = [engine.tokenizer(prompt.text).input_ids for prompt in asked]
                with engine.attention(name):
                    answers = engine.generate(prompts, max(map(len, expected)))
                right = sum(got[: len(wanted)] == wanted for got, wanted in zip(answers, expected))
                rows.append({"tokens": args.length, "chunk": min(engine.chunk, args.length)})
                rows[-1] |= {"attention": name, "right": right, "prompts": count}
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def short(args) -> list[dict]:
    rows = []
    with started(4096, args) as engine:
        prompt = ttft.token_ids_of(engine.tokenizer, 2 * max(ttft.SHORT_LENGTHS))

        def measure(which: int, length: int) -> float:
            with engine.attention(("vllm", "minference")[which]):
                return engine.first_token(prompt[:length])

        for length in ttft.SHORT_LENGTHS:
            for which in (0, 1, 0, 1):
                measure(which, length)
            rows.append(
                {"tokens": length} | ttft.compare(args.pairs, lambda which, n=length: measure(which, n))
            )
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def mixed(args) -> list[dict]:
    """Times alone and mixed, in turn; what is saved by the library when mixed, over what it saves alone."""
    names = ("minference", "vllm")
    with started(4096, args) as engine:
        prompt = ttft.token_ids_of(engine.tokenizer, args.length)
        context = prompt[: args.context]
        seconds = {(name, decoding): [] for name in names for decoding in (0, args.decoding)}
        for i in range(-1, args.repeats):
            for name, decoding in seconds:
                with engine.attention(name):
                    measured = engine.first_token_among(decoding, context, prompt if i >= 0 else context)
                if i >= 0:
                    seconds[name, decoding].append(measured)
                    print(name, decoding, measured, file=sys.stderr, flush=True)
    medians = {key: statistics.median(runs) for key, runs in seconds.items()}
    saved = {
        decoding: medians["vllm", decoding] - medians["minference", decoding]
        for decoding in (0, args.decoding)
    }
    return [
        {
            "tokens": len(prompt),
            "decoding": decoding,
            "context": args.context,
            "minference_seconds": round(medians["minference", decoding], 3),
            "vllm_seconds": round(medians["vllm", decoding], 3),
            "sooner": round(medians["vllm", decoding] / medians["minference", decoding], 2),
            "saved_share": round(saved[decoding] / saved[0], 4),
            "runs": args.repeats,
        }
        for decoding in (0, args.decoding)
    ]


PARTS = {
    "first_token": ("Time to first token in vLLM, embedded model", first_token),
    "answers": ("Needle prompts answered in vLLM, embedded model", answers),
    "short": ("Short prompts in vLLM, patched over unpatched, embedded model", short),
    "mixed": ("Time to first token in vLLM while other requests decode, embedded model", mixed),
}


def parse() -> argparse.Namespace:
    parser = ttft.parser(__doc__, PARTS)
    parser.add_argument("--length", type=int, default=32768, metavar="TOKENS")
    parser.add_argument(
        "--chunks", nargs="+", type=int, default=[4096, 0], metavar="TOKENS", help="0: one piece"
    )
    parser.add_argument(
        "--attentions", nargs="+", choices=ATTENTIONS, default=["floor", "minference", "adaptive", "vllm"]
    )
    parser.add_argument("--eager", action="store_true", help="do not let the engine compile the model")
    parser.add_argument(
        "--dense-repeats", type=int, default=3, help="times to first token: runs of vLLM's attention"
    )
    parser.add_argument("--decoding", type=int, default=8, help="mixed: requests that decode")
    parser.add_argument("--context", type=int, default=2048, help="mixed: tokens before what they decode")
    return parser.parse_args()


def set_environment(threads: int) -> None:
    """What an engine that this process starts is told: offline, all of these cores for the model."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.environ.update(
        HF_HUB_OFFLINE="1",
        OMP_WAIT_POLICY="passive",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND=",".join(map(str, cores)),
        VLLM_LOGGING_LEVEL="WARNING",
        VLLM_NO_USAGE_STATS="1",
    )


def main() -> None:
    args = parse()
    set_environment(args.threads)
    for part in args.parts:
        title, measure = PARTS[part]
        rows = ttft.with_earlier(args.output, f"vllm_{part}", measure(args), KEYS)
        # One piece, the largest chunk, last.
        rows.sort(key=lambda row: (row["tokens"], row.get("chunk", 0)))
        ttft.write(args.output, f"vllm_{part}", title, args.threads, rows)


# The engine's processes load this file again.
if __name__ == "__main__":
    main()
