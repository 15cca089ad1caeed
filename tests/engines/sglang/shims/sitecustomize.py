"""Python imports this file at the start of each of SGLang's processes."""

import torchvision_operators  # noqa: F401
