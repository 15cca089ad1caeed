#!/usr/bin/env python3
"""Train the embedded model: a small Llama that answers retrieval questions about very long prompts.

    python models/needle/train.py corpus                                        # 1. haystack text and word lists
    python models/needle/train.py tokenizer                                     # 2. byte-level BPE
    torchrun --nproc_per_node=2 models/needle/train.py train --out build/needle # 3. train and export, any number of GPUs

Step 3 writes a plain Hugging Face folder without remote code. Training is budgeted in seconds, not steps: SCHEDULE says how
long to train on which sequence lengths. A run can be cut into slices that continue from an exported folder:
--begin 0 --end 300, then --init FOLDER --begin 300 --end 600.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed
from tokenizers import Tokenizer
from training import corpus, network, tokenizer
from training.muon import Muon
from training.tasks import CLASSES, TEXT, Tasks


class Stage(NamedTuple):
    """lengths: sequence lengths, taken in turn. gap_share: sequences with position gaps. sharpen: weight of the attention
    entropy in the loss. mix: shares of word lists, hex lists, haystacks, variable chains, plain text."""

    lengths: list[int]
    seconds: float
    gap_share: float
    sharpen: float
    mix: list[float]


_MIX = [0.27, 0.18, 0.325, 0.125, 0.10]
_CHAINS = [0.12, 0.08, 0.15, 0.55, 0.10]
_LATE = [0.22, 0.16, 0.25, 0.27, 0.10]
_VALIDATION_MIX = [0.25, 0.25, 0.25, 0.25, 0]
SCHEDULE = [
    Stage([1024], 100, 0.5, 0.0, _MIX),
    Stage([4096, 1024], 130, 0.5, 0.003, _MIX),
    Stage([16384, 4096], 170, 0.5, 0.003, _MIX),
    Stage([32768, 8192], 70, 0.3, 0.003, _MIX),
    Stage([1024], 110, 0.5, 0.01, _CHAINS),
    Stage([8192, 1024], 60, 0.5, 0.01, _LATE),
    Stage([32768, 4096], 90, 0.3, 0.01, _LATE),
    Stage([131072, 65536, 32768], 130, 0.3, 0.01, _LATE),
]
# Weight of the mean loss of each class.
CLASS_WEIGHTS = [0.0, 0.5, 1.0, 0.5, 1.0, 1.0, 1.0]
WARM_UP_STEPS, LAST_SCALE = 60, 0.03
# Steps between looks at the clock, which all ranks must share.
_CLOCK_STEPS = 8


def text_tokens(args, tokenizer_, data: dict, split: str) -> np.ndarray:
    """Token ids of one part of the corpus, kept in --cache."""
    path = args.cache / f"{split}.npy"
    if not path.exists():
        separator = tokenizer_.encode("\n\n", add_special_tokens=False).ids
        documents = list(data[split])
        random.Random(0).shuffle(documents)
        ids: list[int] = []
        for at in range(0, len(documents), 512):
            for encoding in tokenizer_.encode_batch(documents[at : at + 512], add_special_tokens=False):
                ids += encoding.ids + separator
        args.cache.mkdir(parents=True, exist_ok=True)
        own = path.with_suffix(f".{os.getpid()}.npy")
        np.save(own, np.array(ids, np.uint16))
        own.replace(path)
    return np.load(path)


class Batches(torch.utils.data.IterableDataset):
    """Endless batches (length, ids, classes, positions); batch i has the length lengths[i % n] on every rank."""

    def __init__(self, tasks: Tasks, tokens: int, stage: Stage, seed: int):
        self.tasks, self.tokens, self.stage, self.seed = tasks, tokens, stage, seed

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        self.tasks.reseed(self.seed * 1000003 + first)
        lengths = self.stage.lengths
        for i in itertools.count(first, step):
            length = lengths[i % len(lengths)]
            arrays = self.tasks.batch(
                self.tokens, length, self.stage.mix, self.stage.gap_share, network.MAX_POSITIONS
            )
            yield [length, *map(torch.from_numpy, arrays)]

    def loader(self, workers: int):
        options = {"prefetch_factor": 3, "pin_memory": torch.cuda.is_available()} if workers else {}
        return torch.utils.data.DataLoader(self, batch_size=None, num_workers=workers, **options)


class Trainer:
    def __init__(self, args):
        self.args = args
        self.rank, self.world, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", local) if self.cuda else torch.device("cpu")
        if self.cuda:
            torch.cuda.set_device(self.device)
        if self.world > 1:
            torch.distributed.init_process_group("nccl" if self.cuda else "gloo")
        bpe = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
        data = corpus.load(args.corpus)
        self.tasks = Tasks(bpe, text_tokens(args, bpe, data, "train"), data["words_train"])
        self.heldout = Tasks(bpe, text_tokens(args, bpe, data, "heldout"), data["words_heldout"])
        torch.manual_seed(args.seed)
        self.model = network.Llama().to(self.device)
        if args.init:
            network.restore(self.model, args.init)
        if self.cuda:
            self.model.compile_blocks()
        self.optimizer = Muon(self.model)
        self.class_weights = torch.tensor(CLASS_WEIGHTS, device=self.device)
        self.steps = 0

    def say(self, **figures) -> None:
        if self.rank == 0:
            print(
                json.dumps({name: round(x, 4) if isinstance(x, float) else x for name, x in figures.items()}),
                flush=True,
            )

    def _to_device(self, arrays):
        ids, classes, positions = (array.to(self.device, non_blocking=True) for array in arrays)
        return ids.long(), classes.long(), positions

    def _shared_clock(self, start: float) -> float:
        clock = torch.tensor([time.time() - start], device=self.device, dtype=torch.float64)
        if self.world > 1:
            torch.distributed.broadcast(clock, 0)
        return clock.item()

    def _average_gradients(self) -> None:
        parameters = list(self.model.parameters())
        flat = torch.cat([parameter.grad.view(-1) for parameter in parameters])
        torch.distributed.all_reduce(flat, op=torch.distributed.ReduceOp.AVG)
        for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters])):
            parameter.grad = gradient.view_as(parameter)

    def step(self, length: int, arrays, sharpen: float, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step; returns sums of losses and counts of tokens of each class."""
        ids, classes, positions = self._to_device(arrays)
        probes = (64 if length >= 8192 else 16) if sharpen else 0
        losses, kinds, entropy = self.model.losses(ids, classes, positions, length, probes)
        member = torch.nn.functional.one_hot(kinds, len(CLASSES)).float()
        counts = member.sum(0)
        weights = (self.class_weights / counts.clamp(min=1))[kinds]
        loss = (losses * weights).sum() / (self.class_weights * (counts > 0)).sum()
        (loss + sharpen * entropy).backward()
        if self.world > 1:
            self._average_gradients()
        self.optimizer.step(scale)
        for parameter in self.model.parameters():
            parameter.grad = None
        self.steps += 1
        return losses.detach() @ member, counts

    def run_stage(self, number: int, stage: Stage, start: float, end: float, total: float) -> float:
        """Train until `end` seconds after `start`; returns the seconds then."""
        args = self.args
        tokens = max([args.tokens, *stage.lengths])
        seed = args.seed + 7 * self.rank + 1000 * number + int(args.begin)
        sums = counts = torch.zeros(len(CLASSES), device=self.device)
        elapsed, first_step = 0.0, self.steps
        for length, *arrays in Batches(self.tasks, tokens, stage, seed).loader(args.workers):
            if (self.steps - first_step) % _CLOCK_STEPS == 0:
                elapsed = self._shared_clock(start)
                if elapsed >= end:
                    break
            remaining = (1 - elapsed / total) / (1 - args.hold)
            scale = min(1.0, (self.steps + 1) / WARM_UP_STEPS, max(LAST_SCALE, remaining))
            more_sums, more_counts = self.step(length, arrays, stage.sharpen, scale)
            sums, counts = sums + more_sums, counts + more_counts
            if self.steps % args.report == 0:
                means = (sums / counts.clamp(min=1)).tolist()
                self.say(
                    step=self.steps, seconds=elapsed, scale=scale, **dict(zip(CLASSES[TEXT:], means[TEXT:]))
                )
                sums = counts = torch.zeros_like(sums)
        return elapsed

    def validate(self, lengths: list[int], batches: int) -> None:
        """Report the share of answers right on held-out words and text."""
        for length in lengths:
            self.heldout.reseed(777 + self.rank * 131 + length)
            total = torch.zeros(len(CLASSES), 2, device=self.device)
            tokens = max(length, min(network.CHUNK, self.args.tokens))
            for _ in range(batches):
                arrays = self.heldout.batch(tokens, length, _VALIDATION_MIX, 0, network.MAX_POSITIONS)
                scores = self.model.score(*self._to_device(map(torch.from_numpy, arrays)), length)
                for kind, score in scores.items():
                    total[kind] += torch.tensor(score, device=self.device)
            if self.world > 1:
                torch.distributed.all_reduce(total)
            shares = {CLASSES[k]: right / asked for k, (right, asked) in enumerate(total.tolist()) if asked}
            self.say(validation_length=length, **shares)

    def run(self) -> None:
        args = self.args
        stages = [
            stage._replace(seconds=stage.seconds * args.time_scale) for stage in SCHEDULE[: args.stages]
        ]
        total = sum(stage.seconds for stage in stages)
        last = min(args.end or total, total)
        self.say(parameters=sum(p.numel() for p in self.model.parameters()), schedule_seconds=total)
        start, stage_end, elapsed = time.time() - args.begin, 0.0, args.begin
        for number, stage in enumerate(stages):
            stage_end += stage.seconds
            if elapsed >= min(stage_end, last):
                continue
            elapsed = self.run_stage(number, stage, start, min(stage_end, last), total)
            if self.rank == 0:
                network.export(self.model, args.out, args.tokenizer)
            before = time.time()
            self.validate([max(stage.lengths)], 1)
            start += time.time() - before  # validation is not charged to the schedule
        self.validate(args.validate, 2)
        if self.world > 1:
            torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    build = Path("build/needle-training")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in (
        ("corpus", "collect haystack text from installed documentation"),
        ("tokenizer", "train the tokenizer"),
        ("train", "train and export the model"),
    ):
        command = commands.add_parser(
            name, help=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        command.add_argument("--corpus", type=Path, default=build / "corpus.json.xz")
        if name == "corpus":
            command.add_argument("--roots", nargs="+", default=corpus.DEFAULT_ROOTS, help="folders to read")
            command.add_argument("--megabytes", type=int, default=60)
            continue
        command.add_argument("--tokenizer", type=Path, default=build, help="folder of tokenizer.json")
    command.add_argument("--out", type=Path, default=build, help="folder to export to")
    command.add_argument(
        "--cache", type=Path, default=build / "cache", help="folder for the tokenised corpus"
    )
    command.add_argument("--init", type=Path, help="continue from this exported folder")
    command.add_argument("--begin", type=float, default=0, help="where in the schedule to begin, seconds")
    command.add_argument(
        "--end", type=float, default=0, help="where in the schedule to stop, seconds (0: its end)"
    )
    command.add_argument("--stages", type=int, default=len(SCHEDULE), help="stages of the schedule")
    command.add_argument("--time-scale", type=float, default=1, help="multiplies every stage's seconds")
    command.add_argument(
        "--tokens", type=int, default=65536, help="tokens a step and GPU (at least one sequence)"
    )
    command.add_argument(
        "--hold", type=float, default=0.45, help="share of the schedule at the full learning rate"
    )
    command.add_argument("--report", type=int, default=50, help="steps between reports")
    command.add_argument(
        "--validate", type=int, nargs="*", default=[1024, 8192, 32768, 131072], help="lengths"
    )
    command.add_argument("--workers", type=int, default=14, help="data processes for each GPU")
    command.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.command == "corpus":
        args.corpus.parent.mkdir(parents=True, exist_ok=True)
        corpus.collect(args.corpus, args.roots, args.megabytes * 1_000_000)
    elif args.command == "tokenizer":
        tokenizer.train(corpus.load(args.corpus)["train"], args.tokenizer)
    else:
        Trainer(args).run()


if __name__ == "__main__":
    main()
