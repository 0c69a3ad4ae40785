"""WordPiece tokenizers that cut text as the checkpoint's own tokenizer does.

KerasHub's `BertTokenizer` prepares text otherwise than the tokenizer that BERT
checkpoints on Hugging Face were trained with. On 33,530 English reviews 5.6% of the
texts got other tokens, and 0.9% still did with `strip_accents=True`:

* accents stay, so that "café" is an unknown word;
* lower-casing is NFKC case folding: the one character for a half becomes three, the
  German sharp s becomes two, a lone acute accent a space;
* control characters and soft hyphens separate words instead of vanishing;
* a no-break space does not separate words;
* "[SEP]" and "[MASK]" in a text are punctuation and words, not special tokens.

The tokenizers here prepare the text first, inside the TensorFlow graph, and leave
splitting and WordPiece to KerasHub. What stays different, none of it in those reviews:

* "[PAD]" typed in a text is not the padding token: a text must not punch holes in
  its own attention mask;
* a word of at most 100 characters but more than 100 bytes is unknown;
* about 750 rare marks and signs that Unicode added after 2015, when the tables of
  Hugging Face's normalizer were made, and 256 Chinese ideographs that it overlooks.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

# Stand-ins for special tokens while the text is lower-cased: characters for private
# use, which the checkpoint's tokenizer drops, so that no text needs them.
_STAND_INS = 0xE000
# The map covers the first two planes. Above lie ideographs, which stay, and from
# here on tags and private use, which go.
_TABLE, _DROPPED_FROM = 0x20000, 0xE0000


class _Faithful(keras_hub.tokenizers.WordPieceTokenizer):
    """Prepares text as Hugging Face's BertNormalizer, then calls KerasHub."""

    # Keeps KerasHub from choosing this class for presets of its own.
    backbone_cls = None

    def __init__(
        self,
        vocabulary: Any = None,
        lowercase: bool = False,
        strip_accents: bool = False,
        **kwargs: Any,
    ) -> None:
        # KerasHub is told that nothing is left to do, whatever a saved configuration says.
        kwargs.update(special_tokens_in_strings=True, special_tokens=["[UNK]"])
        super().__init__(vocabulary, lowercase=False, strip_accents=False, **kwargs)
        self._lowercase, self._strip = lowercase, strip_accents

    def tokenize(self, inputs: Any) -> Any:
        """Token ids of a string, a list of strings or a string tensor."""
        texts = tf.convert_to_tensor(inputs, tf.string)
        prepared = tf.reshape(self._prepare(tf.reshape(texts, [-1])), tf.shape(texts))
        return super().tokenize(tf.ensure_shape(prepared, texts.shape))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "lowercase": self._lowercase,
            "strip_accents": self._strip,
        }

    def _prepare(self, texts: tf.Tensor) -> tf.Tensor:
        marks = sorted({*self.special_tokens, self.oov_token} - {self.pad_token})
        stand_ins = [chr(_STAND_INS + i) for i in range(len(marks))]
        texts = tf.strings.regex_replace(texts, f"[{stand_ins[0]}-{stand_ins[-1]}]", "")
        texts = tf.strings.regex_replace(texts, re.escape(self.pad_token), "[ PAD ]")
        for mark, stand_in in zip(marks, stand_ins, strict=True):
            texts = tf.strings.regex_replace(texts, re.escape(mark), stand_in)
        if self._strip:
            texts = tf_text.normalize_utf8(texts, "NFD")
        codes = tf.strings.unicode_decode(texts, "UTF-8")
        table = tf.constant(_character_map(self._lowercase, self._strip, len(marks)))
        low = tf.gather(table, tf.minimum(codes.flat_values, _TABLE - 1))
        high = tf.where(codes.flat_values < _DROPPED_FROM, codes.flat_values, 0)
        codes = codes.with_flat_values(tf.where(codes.flat_values < _TABLE, low, high))
        texts = tf.strings.unicode_encode(tf.ragged.boolean_mask(codes, codes != 0), "UTF-8")
        for mark, stand_in in zip(marks, stand_ins, strict=True):
            texts = tf.strings.regex_replace(texts, stand_in, mark)
        return texts


@functools.cache
def _character_map(lowercase: bool, strip_accents: bool, stand_ins: int) -> np.ndarray:
    """What each character becomes: another one, itself, or 0 to drop it."""
    return np.array(
        [
            code
            if _STAND_INS <= code < _STAND_INS + stand_ins
            else _mapped(chr(code), lowercase, strip_accents)
            for code in range(_TABLE)
        ],
        "int32",
    )


def _mapped(character: str, lowercase: bool, strip_accents: bool) -> int:
    if character in "\t\n\r":
        return ord(" ")
    category = unicodedata.category(character)
    if (
        category in ("Cc", "Cf", "Co", "Cs")
        or character == "\ufffd"
        or (strip_accents and category == "Mn")
    ):
        return 0
    if character.isspace():
        return ord(" ")
    lower = character.lower()
    return ord(lower) if lowercase and len(lower) == 1 else ord(character)


@keras.saving.register_keras_serializable("tf_finetune")
class FaithfulBertTokenizer(_Faithful, keras_hub.models.BertTokenizer):
    """`keras_hub.models.BertTokenizer` with Hugging Face's preparation of the text.

    Args:
        vocabulary: a list of tokens or the path of a vocabulary file.
        lowercase: lower-case each character.
        strip_accents: decompose characters and drop their combining marks.
        **kwargs: as for `keras_hub.models.BertTokenizer`.
    """


@keras.saving.register_keras_serializable("tf_finetune")
class FaithfulDistilBertTokenizer(_Faithful, keras_hub.models.DistilBertTokenizer):
    """`keras_hub.models.DistilBertTokenizer`, prepared as `FaithfulBertTokenizer`."""
