"""lm-evaluation-harness with sparse prefill: its model type "minference", and its command line with that registered.

    python -m minference.harness --model minference --model_args pretrained=MODEL,attn_type=minference --tasks ...

Only transformers models, one request at a time: the harness pads batches on the right and hands no mask, so that sparse
prefill would choose by rows of padding.
"""

from __future__ import annotations

import sys

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"minference.harness needs {error.name}: pip install 'lm_eval[hf]'")

from .patch import MInference


@register_model("minference")
class MInferenceLM(HFLM):
    """The harness's transformers model (its type "hf"), patched.

    Parameters
    ----------
    pretrained : str or transformers.PreTrainedModel
    attn_type, config_path, attn_kwargs
        Of `minference.MInference`.
    **kwargs
        Of ``HFLM``.

    Raises
    ------
    ValueError
        For a batch size other than 1.
    """

    def __init__(self, pretrained, attn_type="minference", config_path=None, attn_kwargs=None, **kwargs):
        if str(kwargs.get("batch_size") or 1) != "1":
            raise ValueError(f"batch_size must be 1 with sparse prefill, got {kwargs['batch_size']!r}")
        super().__init__(pretrained, **kwargs)
        MInference(attn_type, config_path=config_path, attn_kwargs=attn_kwargs)(self.model)


if __name__ == "__main__":
    cli_evaluate()
