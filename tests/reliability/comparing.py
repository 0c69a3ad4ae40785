"""Whether two runs ended the same, bit for bit."""

from tf_finetune.proof.comparing import differences

__all__ = ["differences"]
