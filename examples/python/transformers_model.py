"""A transformers model that answers from a long prompt, with MInference and without."""

import time

import torch

from minference import MInference, record
from minference.needle import model as needle
from minference.needle.prompts import make_prompt

# The embedded model stands in for `AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B-Instruct")`.
model, tokenizer = needle.load()
prompt = make_prompt(tokenizer, "multikey", length=8192, seed=0)
inputs = tokenizer(prompt.text, return_tensors="pt", return_token_type_ids=False)


def answer():
    begin = time.perf_counter()
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    text = tokenizer.decode(tokens[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return text, time.perf_counter() - begin


text, seconds = answer()
print(f"dense:      {text!r} in {seconds:.1f} s")

model = MInference("minference")(model)
with record(model) as report:
    text, seconds = answer()
print(f"MInference: {text!r} in {seconds:.1f} s, density {report.density:.1%}")
print(f"expected:   {prompt.answer!r}")
