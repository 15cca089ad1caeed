"""`minference capture`: query, key and value of a model's layers, in files."""

from __future__ import annotations

from . import options

_EXAMPLES = """  minference capture --layers 0,5 --length 8k
  minference capture Qwen/Qwen2-7B-Instruct --layers 3,14,27 --length 32k --text book.txt --device cuda
  minference compare minference-capture/*.safetensors
"""


def add_parser(subparsers) -> None:
    parser = options.command(
        subparsers,
        "capture",
        run,
        "write a model's query, key and value",
        "Run one prompt densely through a transformers model and write query, key and value of its attention layers, "
        "rotated, one safetensors file a layer, for minference compare.",
        _EXAMPLES,
    )
    options.add_model(parser)
    parser.add_argument(
        "--layers", type=options.comma_separated(int), metavar="A,B,...", help="which (default: all)"
    )
    options.add_length(parser, 8192, "of the prompt")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument(
        "--task",
        default="niah_multikey_1",
        help="whose prompt, see minference eval --list (default: %(default)s)",
    )
    prompt.add_argument("--text", metavar="FILE", help="begin of a text file as the prompt instead")
    options.add_seed(parser, "of the prompt")
    options.add_device(parser)
    options.add_output(parser, "minference-capture", "FOLDER", "where files go")
    options.add_threads(parser)


def run(args) -> int:
    from ..eval import perplexity
    from ..eval.tasks import named
    from ..search.capture import capture
    from .console import quiet_transformers, samples_progress

    named([args.task])
    quiet_transformers()
    options.set_threads(args)
    model, tokenizer = options.load_model(args, [args.length])
    if args.text:
        ids = perplexity.windows(tokenizer, args.text, args.length, 1)[0]
        source = {"text": args.text}
    else:
        ids = options.prompt_maker(args, tokenizer).make(args.task, args.length, args.seed)[1].ids
        source = {"task": args.task, "seed": args.seed}
    source["model"] = options.model_name(args)
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    with samples_progress("layers", len(args.layers or range(layers))) as advance:
        paths = capture(model, ids, args.layers, args.output, source, advance)
    for path in paths:
        print(path)
    return 0
