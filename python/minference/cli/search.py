"""`minference search`: the head patterns of a model, and what they lose."""

from __future__ import annotations

import os

from . import options

_EXAMPLES = """  minference search --lengths 16k --cost 0.1
  minference search Qwen/Qwen2.5-7B-Instruct --lengths 32k --samples 2 --output qwen.json
  minference eval retrieval --patterns head_patterns.json
"""


def add_parser(subparsers) -> None:
    parser = options.command(
        subparsers,
        "search",
        run,
        "find a model's head patterns",
        "Run prompts through a transformers model and find, for every head, the pattern and budget that move its "
        "attention output least, among candidates whose cost is counted as the kernel pays for it. Checks the result "
        "on other prompts against every uniform setting. Scores go to a folder; the same command again goes on "
        "where it was.",
        _EXAMPLES,
    )
    options.add_model(parser)
    parser.add_argument(
        "--cost",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of dense attention's cost, mean over heads (default: %(default)s)",
    )
    options.add_list(
        parser,
        "--levels",
        float,
        "0.25,0.5,1,2",
        "X,Y,...",
        "multiples of the cost that candidates are fitted to, so that heads share it; 1 alone gives every head the same "
        "cost",
    )
    parser.add_argument(
        "--weigh",
        action="store_true",
        help="heads by what their errors do to the answers, not by the errors alone; takes one more pass of every prompt for every head",
    )
    options.add_list(
        parser, "--kinds", str, "A-shape,vertical-slash,block-sparse", "A,B,...", "of pattern to choose from"
    )
    options.add_list(
        parser,
        "--tasks",
        str,
        "kv_words,niah_multikey_1,repeated,recall",
        "A,B,...",
        "prompts, see minference eval --list",
    )
    options.add_lengths(parser, "16k")
    options.add_count(parser, "--samples", 1, "prompts of each task and length to search on")
    options.add_count(parser, "--held-out", 1, "prompts of each task and length to check on")
    options.add_seed(parser, "the first prompt's seed", 1000)
    options.add_output(parser, "head_patterns.json", "FILE", "pattern file")
    parser.add_argument(
        "--work",
        default="minference-search",
        metavar="FOLDER",
        help="scores, report.md and map.png (default: %(default)s)",
    )
    options.add_device(parser)
    options.add_threads(parser)


def _plan(args):
    from ..eval.tasks import named
    from ..search.candidates import families_of
    from ..search.driver import Plan

    tasks = named(args.tasks)
    if not 0 < args.cost <= 1:
        raise ValueError(f"--cost must be above 0 and at most 1, got {args.cost}")
    if min(args.levels) <= 0:
        raise ValueError(f"--levels must be numbers above 0, got {args.levels}")
    if args.weigh and len(args.levels) == 1:
        raise ValueError("--weigh needs several --levels, for heads to share the cost, got one")

    def prompts(first: int, count: int) -> tuple:
        return tuple(
            (task, tokens, seed)
            for seed in range(first, first + count)
            for tokens in args.lengths
            for task in tasks
        )

    return Plan(
        args.cost,
        tuple(args.levels),
        prompts(args.seed, args.samples),
        prompts(args.seed + args.samples, args.held_out),
        families_of(args.kinds),
        args.weigh,
    )


def _source(args, plan, check, best: dict | None) -> str:
    """Provenance: what was searched, on what, and what came of it."""
    from .. import __version__

    tasks = ", ".join(dict.fromkeys(task for task, _, _ in plan.prompts))
    lengths = ", ".join(str(tokens) for tokens in dict.fromkeys(tokens for _, tokens, _ in plan.prompts))
    text = (
        f"minference search {__version__} on {options.model_name(args)}: cost {plan.cost:g}, levels {', '.join(f'{x:g}' for x in plan.levels)}"
        f"{', heads weighed by their effect on the answers' * plan.weigh}; "
        f"{tasks} at {lengths} tokens, seeds {args.seed} to {args.seed + args.samples - 1}; "
        f"held-out output error {check.found.mean():.4f} at cost {check.cost:.4f}"
    )
    return text + (
        f", best uniform setting of that cost {best['error']:.4f} ({best['setting']})" if best else ""
    )


def run(args) -> int:
    from .._files import write_whole
    from ..eval.journal import Journal
    from ..patterns import HeadPatterns
    from ..search import report
    from ..search.driver import JOURNAL_KEY, Search
    from ..words import percent
    from .console import make_console, quiet_transformers, samples_progress

    plan = _plan(args)
    quiet_transformers()
    options.set_threads(args)
    model, tokenizer = options.load_model(args, args.lengths)
    maker = options.prompt_maker(args, tokenizer)
    identity = options.identity(
        args,
        cost=plan.cost,
        levels=list(plan.levels),
        prompts=[list(prompt) for prompt in plan.prompts],
        held_out=[list(prompt) for prompt in plan.held_out],
        families=[family.name for family in plan.families],
        weigh=plan.weigh or None,
    )
    with Journal(args.work, identity, JOURNAL_KEY) as journal:
        search = Search(model, lambda *prompt: maker.make(*prompt)[1], plan, journal)
        with samples_progress("layers of prompts", search.steps()) as advance:
            choice, check = search.run(advance)
        folder = journal.folder
    rivals = report.rivals(check)
    best = rivals[0] if rivals else None
    source = _source(args, plan, check, best)
    HeadPatterns.from_array(choice.patterns, source).save(args.output)
    write_whole(folder / "report.md", report.as_markdown(source, choice, check))
    report.save_map(folder / "map.png", choice)
    console = make_console()
    console.print(
        f"Held-out output error [bold]{check.found.mean():.4f}[/] at {percent(check.cost)} of dense attention's cost"
    )
    if best:
        console.print(
            f"Best uniform setting of that cost: {best['setting']}, error {best['error']:.4f} at "
            f"{percent(best['cost'])}; paired difference {best['difference']:+.4f} "
            f"({best['difference_low']:+.4f} .. {best['difference_high']:+.4f})"
        )
    if check.divergence is not None:
        found, by_errors = check.divergence.mean(0)
        console.print(
            f"Answers of held-out prompts move by [bold]{found:.4f}[/] nats; {by_errors:.4f} with patterns chosen by errors alone"
        )
    console.print(
        f"Patterns: {os.fspath(args.output)}; report: {folder / 'report.md'}; map: {folder / 'map.png'}"
    )
    return 0
