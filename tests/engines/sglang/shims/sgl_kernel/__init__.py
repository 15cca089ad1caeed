"""Stands for SGLang's kernels, which are not published for the CPU: what is imported by name is there, and nothing runs."""

__version__ = "0.4.10"


def _absent(name):
    def function(*_, **__):
        raise NotImplementedError(f"sgl_kernel.{name} is not there on the CPU")

    return function


copy_all_layer_kv_cache_cpu = _absent("copy_all_layer_kv_cache_cpu")


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _absent(name)
