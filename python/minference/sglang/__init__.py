"""Sparse prefill inside SGLang, as an attention backend for prefill on the CPU.

    python -m sglang.launch_server --model MODEL --device cpu --prefill-attention-backend minference \
        --decode-attention-backend torch_native
    MINFERENCE_SGLANG='{"model_name": "Qwen/Qwen2-7B-Instruct"}'      parameters of `MInference`, if others than its defaults

plugin.py is the entry point that SGLang loads in each of its processes, backend.py what it registers; only backend.py needs
SGLang when it is loaded.
"""
