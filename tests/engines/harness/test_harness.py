"""lm-evaluation-harness with a patched model, offline."""

import json
import subprocess
import sys

import pytest
import torch
from lm_eval.api.instance import Instance

from minference import record
from minference.harness import MInferenceLM
from minference.needle import haystack
from minference.needle import model as needle

WINDOW = {"n_init": 16, "n_local": 64}


def prose(count):
    lines = haystack.lines("harness")
    return "".join(next(lines) for _ in range(count))


@pytest.fixture(scope="module")
def window():
    return MInferenceLM(
        str(needle.folder()), "a_shape", attn_kwargs=WINDOW, device="cpu", dtype="float32", batch_size=1
    )


def test_likelihoods_are_those_of_the_patched_model(window):
    context, continuation = prose(150).rstrip(), " The miller carried every lantern beyond the harbour."
    request = Instance("loglikelihood", {}, (context, continuation), 0)
    with record(window.model) as report:
        ((found, greedy),) = window.loglikelihood([request], disable_tqdm=True)
    assert report.layers[0].calls == 1 and report.density < 0.3
    ids = window.tok_encode(context + continuation)
    own = len(ids) - len(window.tok_encode(context))
    with torch.inference_mode():
        logits = window.model(torch.tensor([ids])).logits[0, -own - 1 : -1].log_softmax(-1)
    wanted = torch.tensor(ids[-own:])
    assert found == pytest.approx(float(logits.gather(1, wanted[:, None]).sum()), abs=1e-3)
    assert greedy == bool((logits.argmax(-1) == wanted).all())
    dense = MInferenceLM(str(needle.folder()), "hf", device="cpu", dtype="float32")
    assert abs(found - dense.loglikelihood([request], disable_tqdm=True)[0][0]) > 0.1


def test_answers_are_generated(window):
    request = Instance("generate_until", {}, (prose(60), {"until": ["."], "max_gen_toks": 8}), 0)
    with record(window.model) as report:
        (found,) = window.generate_until([request], disable_tqdm=True)
    assert isinstance(found, str) and report.layers[0].calls == 1


@pytest.mark.parametrize("size", [2, "auto"])
def test_batches_are_refused(size):
    with pytest.raises(ValueError, match="batch_size must be 1 with sparse prefill"):
        MInferenceLM(str(needle.folder()), batch_size=size)


def test_command_line(tmp_path):
    """A task of two questions, from a file."""
    rows = [{"question": f"{prose(80)}Question: which?\nAnswer:", "answer": " none"}] * 2
    (tmp_path / "data.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "which.yaml").write_text(
        f"""task: which
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path / "data.json"}
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""
    )
    command = [sys.executable, "-m", "minference.harness", "--model", "minference", "--device", "cpu"]
    command += ["--model_args", f"pretrained={needle.folder()},attn_type=minference,dtype=float32"]
    command += ["--tasks", "which", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "|which|" in done.stdout.replace(" ", "")
