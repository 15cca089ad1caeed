"""Sparse prefill inside vLLM, on its CPU backend.

    llm = MInference("vllm", "Qwen/Qwen2-7B-Instruct")(llm)      an engine that runs already
    MINFERENCE_VLLM=1 vllm serve Qwen/Qwen2-7B-Instruct          a server, from its start

Files, in the order that a request meets them:
    engine.py       the caller's process: `MInference(...)(llm)` and `restore(llm)`
    ../serving.py   the same request, from MINFERENCE_VLLM
    layers.py       what a request means for an engine's model
    plugin.py       the entry point that vLLM loads in each of its processes
    backend.py      what stands in the CPU backend's place when the environment asks for it
    worker.py       a worker's process: which layers are taken, its head slice of the patterns
    rules.py        the rules for both
    attention.py    one attention layer: which requests of a batch run in the library, which in the engine
    paged.py        keys and values read back from the engine's paged cache

plugin.py, backend.py, worker.py and attention.py need vLLM, the others do not.
"""
