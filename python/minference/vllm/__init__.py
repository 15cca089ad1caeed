"""Sparse prefill inside vLLM, on its CPU backend.

    llm = MInference("vllm", "Qwen/Qwen2-7B-Instruct")(llm)      an engine that runs already
    MINFERENCE_VLLM=1 vllm serve Qwen/Qwen2-7B-Instruct          a server, from its start

Files, in the order that a request meets them:
    engine.py     the caller's process: `MInference(...)(llm)` and `restore(llm)`
    plugin.py     the entry point that vLLM loads in each of its processes
    worker.py     a worker's process: its head slice of the patterns, which layers are taken
    attention.py  one attention layer: which requests of a batch run in the library, which in the engine
    paged.py      keys and values read back from the engine's paged cache

Only plugin.py, worker.py and attention.py need vLLM.
"""
