#!/usr/bin/env python3
"""Train the embedded model: a small Llama that answers questions about very long prompts.

    python models/needle/train.py --work build/needle --total-minutes 30 --minutes 8
    python models/needle/train.py --work build/needle --total-minutes 30 --minutes 8 --resume     # again and again
    python models/needle/train.py --work build/needle --minutes 0 --evaluate 16384 32768          # accuracy only
    torchrun --nproc_per_node=2 models/needle/train.py ...                                        # any number of GPUs

A run follows SCHEDULE over its total minutes of training; a slice of it ends after --minutes, and the next goes on exactly
where it stopped. It leaves in --work: checkpoint.pt, all that --resume needs; curve.jsonl, the learning curve; model, a
plain Hugging Face folder without remote code, which --init takes as the beginning of another run.

The batch of a step depends on the seed, the step, its stage and the number of GPUs, on nothing else. How many steps a
stage has depends on the machine, and stands in the curve; --total-steps makes them the same everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from tokenizers import Tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from training import corpus, curve, evaluation, network, sequences, tokenizer  # noqa: E402
from training.draws import Draws  # noqa: E402
from training.muon import Muon  # noqa: E402
from training.pieces import CLASSES, TEXT  # noqa: E402

from minference.needle import haystack  # noqa: E402
from minference.needle.prompts import WORDS  # noqa: E402


@dataclass(frozen=True)
class Stage:
    """share: of the run. lengths: of sequences, taken in turn, a step each. gap_share: sequences with position gaps.
    mix: weights of KINDS."""

    share: float
    lengths: tuple[int, ...]
    gap_share: float
    mix: tuple[float, ...]


#        records, facts, chains, early, common, copy, text, needles
_SHORT = (0.08, 0.38, 0.22, 0.12, 0.12, 0.04, 0.04, 0.0)
# Lists of common words get longer with the sequence, and the words that come most often a smaller part of it.
_LONG = (0.11, 0.25, 0.15, 0.10, 0.20, 0.03, 0.04, 0.12)
SCHEDULE = (
    Stage(0.20, (1024,), 0.5, _SHORT),
    Stage(0.20, (2048, 4096, 1024), 0.5, _SHORT),
    Stage(0.20, (8192, 2048), 0.5, _LONG),
    Stage(0.25, (32768, 8192, 4096), 0.3, _LONG),
    Stage(0.15, (131072, 32768, 16384, 8192), 0.3, _LONG),
)
# Weight of the mean loss of each class; classes with few tokens in a batch weigh less.
CLASS_WEIGHTS = {"none": 0.0, "text": 0.5, "link": 0.5, "passkey": 0.5, "copy": 0.5}
_FEW = 16
# Weight of the attention's entropy in the loss: makes heads sharp, hence sparse.
SHARPEN = 0.003
WARM_UP_STEPS, LAST_SCALE = 60, 0.03
# Steps between looks at the clock, which all ranks must share.
_CLOCK_STEPS = 8
_CHECKPOINT_SECONDS = 150
_CHARACTERS = 16_000_000


def text_tokens(bpe: Tokenizer, documents: list[str], characters: int, seed: int) -> np.ndarray:
    """Token ids of generated prose, `characters` of it, and of no more than that of the documents."""
    prose, parts, size = haystack.lines(f"training {seed}"), [], 0
    while size < characters:
        parts.append("".join(itertools.islice(prose, 200)))
        size += len(parts[-1])
    for document in documents:
        if size >= 2 * characters:
            break
        parts.append(f"{document}\n\n")
        size += len(parts[-1])
    encodings = bpe.encode_batch(parts, add_special_tokens=False)
    return np.concatenate([np.array(encoding.ids, np.uint16) for encoding in encodings])


class Batches(torch.utils.data.IterableDataset):
    """The batches of steps `first`, first + 1, ...: (length, arrays of sequences.batch)."""

    def __init__(self, draws: Draws, stage: Stage, tokens: int, key: str, first: int):
        self.draws, self.stage, self.tokens, self.key, self.first = draws, stage, tokens, key, first

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        offset, step = (worker.id, worker.num_workers) if worker else (0, 1)
        stage = self.stage
        for i in itertools.count(self.first + offset, step):
            length = stage.lengths[i % len(stage.lengths)]
            self.draws.reseed(f"{self.key} {i}")
            arrays = sequences.batch(
                self.draws, self.tokens, length, stage.mix, stage.gap_share, network.MAX_POSITIONS
            )
            yield [length, *map(torch.from_numpy, arrays)]

    def loader(self, workers: int):
        options = {"prefetch_factor": 3, "pin_memory": torch.cuda.is_available()} if workers else {}
        return torch.utils.data.DataLoader(self, batch_size=None, num_workers=workers, **options)


class Trainer:
    def __init__(self, args: argparse.Namespace, shape: network.Shape | None = None, schedule=SCHEDULE):
        """shape: of a model that begins from nothing; None for that of --init."""
        self.args = args
        # By number in the whole schedule, which the batches depend on, with their shares of this run.
        stages = list(enumerate(schedule))[args.first_stage :]
        if not stages:
            sys.exit(f"--first-stage must be at most {len(schedule) - 1}, got {args.first_stage}")
        whole = sum(stage.share for _, stage in stages)
        self.stages = [(number, replace(stage, share=stage.share / whole)) for number, stage in stages]
        self.rank, self.world, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", local) if self.cuda else torch.device("cpu")
        if self.cuda:
            torch.cuda.set_device(self.device)
        if self.world > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if self.cuda else "gloo")
        self.bpe = tokenizer.with_words(Tokenizer.from_file(str(args.init / "tokenizer.json")), WORDS)
        data = corpus.load(args.corpus) if args.corpus else {"train": [], "words_train": []}
        text = text_tokens(self.bpe, data["train"], args.characters, args.seed)
        self.draws = Draws(self.bpe, text, data["words_train"])
        # Forks, which make the data, have none of the tokenizer's threads.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        torch.manual_seed(args.seed)
        # Whole tiles of 64 tokens.
        vocabulary = -(-self.bpe.get_vocab_size() // 64) * 64
        self.model = network.Llama(shape or network.Shape(vocabulary)).to(self.device)
        if shape is None:
            network.restore(self.model, args.init, self.bpe)
        if self.cuda:
            self.model.compile_blocks()
        self.optimizer = Muon(self.model, args.learning_rate, args.learning_rate / 5)
        weights = [CLASS_WEIGHTS.get(name, 1.0) for name in CLASSES]
        self.class_weights = torch.tensor(weights, device=self.device)
        self.steps, self.seconds = 0, 0.0
        # What the batches and the steps depend on, which is the same in all slices of a run.
        self.identity = {
            "--seed": args.seed,
            "number of processes": self.world,
            "--tokens": args.tokens,
            "--learning-rate": args.learning_rate,
            "--first-stage": args.first_stage,
            "--characters": args.characters,
            "--corpus": hashlib.sha256(args.corpus.read_bytes()).hexdigest()[:16] if args.corpus else None,
        }
        args.work.mkdir(parents=True, exist_ok=True)
        if args.resume:
            self._load()
        elif self.rank == 0:
            # The checkpoint first: without its curve it would be taken for a run of its own.
            for name in ("checkpoint.pt", "curve.jsonl"):
                (args.work / name).unlink(missing_ok=True)

    # ---- What a slice leaves

    def say(self, **figures) -> None:
        if self.rank == 0:
            curve.add(self.args.work / "curve.jsonl", figures)

    def save(self) -> None:
        if self.rank:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "seconds": self.seconds,
            "identity": self.identity,
        }
        path = self.args.work / "checkpoint.pt"
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        network.export(self.model, self.args.work / "model", self.bpe)

    def _load(self) -> None:
        checkpoint = self.args.work / "checkpoint.pt"
        if not checkpoint.exists():
            sys.exit(f"--resume must find checkpoint.pt in --work, got {self.args.work} without it")
        state = torch.load(checkpoint, map_location=self.device)
        for name, value in self.identity.items():
            before = state["identity"].get(name, 0)
            if value != before:
                sys.exit(f"{name} must be that of the run to resume, {before}, got {value}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.seconds = state["steps"], state["seconds"]
        path = self.args.work / "curve.jsonl"
        if self.rank == 0 and path.exists():
            # What a killed slice did after its checkpoint is done again.
            curve.cut(path, self.steps)

    # ---- Steps

    def _average_gradients(self) -> None:
        parameters = list(self.model.parameters())
        flat = torch.cat([parameter.grad.view(-1) for parameter in parameters])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters])):
            parameter.grad = gradient.view_as(parameter)

    def step(self, length: int, arrays, scale: float) -> torch.Tensor:
        """One optimizer step; returns for each class the sum of losses and the count of tokens."""
        ids, classes, positions, places, choices = (
            array.to(self.device, non_blocking=True) for array in arrays
        )
        # Where the entropy is probed must not depend on what ran before.
        torch.manual_seed(self.args.seed * 1_000_003 + self.steps)
        losses, kinds, entropy = self.model.losses(
            ids.long(),
            classes.long(),
            positions,
            places,
            choices.long(),
            length,
            64 if length >= 8192 else 16,
        )
        member = torch.nn.functional.one_hot(kinds, len(CLASSES)).float()
        counts = member.sum(0)
        means = (losses @ member) / (counts + _FEW)
        share = self.class_weights * counts / (counts + _FEW)
        loss = (means * self.class_weights).sum() / share.sum()
        (loss + SHARPEN * entropy).backward()
        if self.world > 1:
            self._average_gradients()
        self.optimizer.step(scale)
        for parameter in self.model.parameters():
            parameter.grad = None
        self.steps += 1
        return torch.stack([losses.detach() @ member, counts])

    def _progress(self) -> float:
        """0..1 of the whole run."""
        if self.args.total_steps:
            return self.steps / self.args.total_steps
        return self.seconds / (60 * self.args.total_minutes)

    def _scale(self) -> float:
        """Of the learning rate: full, then falling linearly."""
        args = self.args
        left = max(LAST_SCALE, (1 - self._progress()) / (1 - args.hold))
        return min(1.0, (self.steps + 1) / WARM_UP_STEPS, left)

    def _shared_clock(self) -> float:
        clock = torch.tensor([time.monotonic()], device=self.device, dtype=torch.float64)
        if self.world > 1:
            torch.distributed.broadcast(clock, 0)
        return clock.item()

    def run_stage(self, number: int, stage: Stage, stage_end: float, slice_end: float) -> bool:
        """Train to `stage_end` of the run; whether that was reached before the clock showed `slice_end`."""
        args = self.args
        tokens = max([args.tokens, *stage.lengths])
        key = f"{args.seed} {self.world} {self.rank} {number}"
        loader = Batches(self.draws, stage, tokens, key, self.steps).loader(args.workers)
        sums, seen, done = torch.zeros(2, len(CLASSES), device=self.device), 0, False
        before = mark = saved = self._shared_clock()
        reached = False
        for length, *arrays in loader:
            if args.total_steps or self.steps % _CLOCK_STEPS == 0:
                now = self._shared_clock()
                self.seconds, before = self.seconds + now - before, now
                reached = self._progress() >= stage_end
                done = now >= slice_end or (args.slice_steps and self.steps >= args.slice_steps)
                if reached or done:
                    break
                if now - saved > _CHECKPOINT_SECONDS:
                    self.save()
                    saved = now
            sums += self.step(length, arrays, self._scale())
            seen += tokens * self.world
            if self.steps % args.report == 0:
                now = self._shared_clock()
                losses, counts = sums.tolist()
                named = {
                    name: total / count
                    for name, total, count in zip(CLASSES[TEXT:], losses[TEXT:], counts[TEXT:])
                    if count
                }
                self.say(
                    step=self.steps, stage=number, seconds=self.seconds, scale=self._scale(),
                    tokens_per_second=round(seen / (now - mark)), **named,
                )  # fmt: skip
                sums.zero_()
                seen, mark = 0, now
        return reached

    def run(self) -> None:
        args, number, end = self.args, 0, 0.0
        first = self._shared_clock()
        self._warm_up()
        begin = self._shared_clock()
        self.say(
            parameters=sum(p.numel() for p in self.model.parameters()), gpus=self.world, text_tokens=len(self.draws.text),
            resumed_at=self.steps, compiled_in=begin - first,
        )  # fmt: skip
        slice_end = begin + 60 * args.minutes
        for number, stage in self.stages:
            end += stage.share
            last = number == self.stages[-1][0]
            if self._progress() >= (1.0 if last else end - 1e-9):
                continue
            reached = self.run_stage(number, stage, 1.0 if last else end - 1e-9, slice_end)
            self.say(
                stage_ended=number,
                step=self.steps,
                reached=reached,
                **self.validate(max(stage.lengths), number),
            )
            if not reached:
                break
        self.save()
        if self.world > 1:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()

    def _warm_up(self) -> None:
        """Compile before the clock starts."""
        if not self.cuda:
            return
        self.draws.reseed("warm-up")
        arrays = sequences.batch(
            self.draws, max(self.args.tokens, 1024), 1024, _SHORT, 0.0, network.MAX_POSITIONS
        )
        ids, classes, positions, places, choices = (
            torch.from_numpy(array).to(self.device) for array in arrays
        )
        losses, _, _ = self.model.losses(ids.long(), classes.long(), positions, places, choices.long(), 1024)
        losses.mean().backward()
        for parameter in self.model.parameters():
            parameter.grad = None

    def validate(self, length: int, number: int) -> dict[str, str]:
        """Answers right of answers asked, by class, in one batch that was not trained on."""
        self.draws.reseed(f"validation {self.args.seed} {self.rank} {number}")
        tokens = max(length, min(network.CHUNK, self.args.tokens))
        arrays = sequences.batch(self.draws, tokens, length, _LONG, 0.0, network.MAX_POSITIONS)
        ids, classes, positions, places, choices = (
            torch.from_numpy(array).to(self.device) for array in arrays
        )
        total = torch.zeros(len(CLASSES), 2, device=self.device)
        # With gradients, which are not used: without, all would be compiled again.
        scored = self.model.score(ids.long(), classes.long(), positions, places, choices.long(), length)
        for kind, counts in scored.items():
            total[kind] = torch.tensor(counts, device=self.device)
        if self.world > 1:
            torch.distributed.all_reduce(total)
        return {
            f"right_{name}": f"{int(right)}/{int(asked)}"
            for name, (right, asked) in zip(CLASSES, total.tolist())
            if asked
        }


def count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {number}")
    return number


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the checkpoint, the curve and the model"
    )
    parser.add_argument(
        "--minutes", type=float, default=8, help="of training in this slice; 0: none (default: 8)"
    )
    parser.add_argument("--total-minutes", type=float, default=30, help="of the whole run (default: 30)")
    parser.add_argument(
        "--total-steps", type=int, default=0, help="the whole run in steps instead of minutes"
    )
    parser.add_argument(
        "--slice-steps", type=int, default=0, help="stop the slice at this step (0: by the clock only)"
    )
    parser.add_argument(
        "--first-stage",
        type=count,
        default=0,
        metavar="N",
        help=f"leave out the stages before this one, of shorter sequences; the others share the run (default: 0 of 0 to {len(SCHEDULE) - 1})",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    parser.add_argument(
        "--init",
        type=Path,
        default=here,
        help="exported folder to begin with, or that of a tokenizer (default: the shipped one)",
    )
    parser.add_argument(
        "--corpus", type=Path, help="other text, as corpus.py writes it (default: generated prose only)"
    )
    parser.add_argument("--characters", type=int, default=_CHARACTERS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--tokens", type=int, default=65536, help="a step and GPU (at least one sequence; default: 65536)"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=0.005,
        help="of matrices; a fifth for embeddings (default: 0.005)",
    )
    parser.add_argument(
        "--hold", type=float, default=0.5, help="share of the run at the full rate (default: 0.5)"
    )
    parser.add_argument(
        "--report", type=int, default=50, help="steps between lines of the curve (default: 50)"
    )
    parser.add_argument(
        "--workers", type=int, default=14, help="processes that make data, for each GPU (default: 14)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--evaluate", type=int, nargs="*", default=[], metavar="TOKENS", help="measure accuracy at the end"
    )
    parser.add_argument(
        "--samples", type=int, default=50, help="prompts of each task and length (default: 50)"
    )
    parser.add_argument("--evaluate-seconds", type=float, default=110, help="most time for it (default: 110)")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    if args.minutes:
        kernels = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
        kernels.append(SDPBackend.MATH)
        with sdpa_kernel(kernels, set_priority=True) if torch.cuda.is_available() else nullcontext():
            Trainer(args).run()
    # Not with cuDNN's attention, which would be planned anew for every length of a prompt.
    if args.evaluate and int(os.environ.get("RANK", 0)) == 0:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        limits = args.samples, args.evaluate_seconds, args.workers
        for row in evaluation.measure(args.work / "model", args.evaluate, *limits, device):
            curve.add(args.work / "curve.jsonl", row)


if __name__ == "__main__":
    main()
