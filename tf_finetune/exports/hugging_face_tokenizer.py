"""A tokenizer as the files that Hugging Face's libraries read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras_hub

FILE = "tokenizer.json"
# A longer word is unknown as a whole, in every BERT.
_LONGEST_WORD = 100


def is_word_piece(preprocessor: Any) -> bool:
    """Whether the tokenizer is one of BERT's kind."""
    return isinstance(preprocessor.tokenizer, keras_hub.tokenizers.WordPieceTokenizer)


def write_tokenizer(preprocessor: Any, path: Path) -> None:
    """Writes `tokenizer.json` for the `tokenizers` library, which needs no TensorFlow.

    A tokenizer that is not of BERT's kind is written as KerasHub's own files instead, which
    are a SentencePiece model or a vocabulary and merges.
    """
    if is_word_piece(preprocessor):
        write_json(path / FILE, word_piece(preprocessor))
    else:
        preprocessor.tokenizer.save_to_preset(str(path))


def word_piece(preprocessor: Any) -> dict[str, Any]:
    """The contents of `tokenizer.json`: preparation, vocabulary, special tokens, longest text."""
    tokenizer = preprocessor.tokenizer
    settings, vocabulary = tokenizer.get_config(), tokenizer.get_vocabulary()
    ids = {token: i for i, token in enumerate(vocabulary)}
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    special = sorted({*tokenizer.special_tokens, tokenizer.oov_token}, key=lambda t: ids[t])
    # Of one text, or of the first of two.
    first = [_special(cls, 0), {"Sequence": {"id": "A", "type_id": 0}}, _special(sep, 0)]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, _special(sep, 1)]
    return {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": preprocessor.sequence_length,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": None,
        "added_tokens": [
            {
                "id": ids[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in special
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": bool(settings["strip_accents"]),
            "lowercase": bool(settings["lowercase"]),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": first + second,
            "special_tokens": {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (cls, sep)
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": tokenizer.oov_token,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": _LONGEST_WORD,
            "vocab": ids,
        },
    }


def _special(token: str, segment: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": segment}}


def write_json(file: Path, values: Any) -> None:
    """Writes JSON as Hugging Face does: indented, characters as they are."""
    text = json.dumps(values, indent=2, ensure_ascii=False, default=int)
    file.write_text(text + "\n", encoding="utf-8")
