"""A vLLM engine that answers from a long prompt, with its own attention and with MInference."""

import os
import time

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
# Every core for the model; vLLM's default leaves one to its other processes.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, sorted(os.sched_getaffinity(0)))))

from vllm import LLM, SamplingParams  # noqa: E402

from minference import MInference, record  # noqa: E402
from minference.needle import model as needle  # noqa: E402
from minference.needle.prompts import make_prompt  # noqa: E402


def answer(llm, prompt):
    begin = time.perf_counter()
    outputs = llm.generate([prompt.text], SamplingParams(temperature=0, max_tokens=8), use_tqdm=False)
    return outputs[0].outputs[0].text, time.perf_counter() - begin


# vLLM starts processes that load this file again.
if __name__ == "__main__":
    # The embedded model stands in for "Qwen/Qwen2-7B-Instruct".
    llm = LLM(str(needle.folder()), max_model_len=32768, disable_log_stats=True)
    prompt = make_prompt(llm.get_tokenizer(), "multikey", length=16384, seed=0)
    text, seconds = answer(llm, prompt)
    print(f"vLLM:       {text!r} in {seconds:.1f} s")

    MInference("vllm")(llm)
    with record(llm) as report:
        text, seconds = answer(llm, prompt)
    print(f"MInference: {text!r} in {seconds:.1f} s, density {report.density:.1%}")
    print(f"expected:   {prompt.answer!r}")
