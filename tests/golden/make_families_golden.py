"""Makes families/: tiny random checkpoints with Hugging Face's own hidden states.

Run it where torch and transformers are installed; they are no dependencies of
this project:

    python tests/golden/make_families_golden.py
"""

from pathlib import Path

import numpy as np
import torch
import transformers as hf

SIZE = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 30,
    "initializer_range": 0.5,
}
ROBERTA = {**SIZE, "pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTIL = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "vocab_size": 30}
MODELS = {
    "bert_classifier": lambda: hf.BertForSequenceClassification(
        hf.BertConfig(**SIZE, **positions(20))
    ),
    "bert_masked_lm": lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZE, **positions(20))),
    "albert": lambda: hf.AlbertModel(
        hf.AlbertConfig(**SIZE, embedding_size=4, hidden_act="gelu", **positions(20))
    ),
    "distilbert": lambda: hf.DistilBertModel(hf.DistilBertConfig(**DISTIL, **positions(20))),
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**ROBERTA, **positions(22))),
    "roberta_classifier": lambda: hf.RobertaForSequenceClassification(
        hf.RobertaConfig(**ROBERTA, **positions(22))
    ),
    "xlm_roberta": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**ROBERTA, **positions(22))),
}


def positions(count):
    return {"max_position_embeddings": count}


def main() -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    for name, make in MODELS.items():
        model = make().eval()
        for weights in model.parameters():
            if weights.ndim == 1:
                weights.data.add_(torch.randn_like(weights) * 0.3)
        ids = generator.integers(5, 30, (3, 12))
        mask = np.ones_like(ids)
        mask[1, 8:] = mask[2, 2:] = 0
        ids[mask == 0] = model.config.pad_token_id or 0
        encoder = getattr(model, model.base_model_prefix, model)
        with torch.no_grad():
            states = encoder(
                input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)
            ).last_hidden_state
        folder = Path(__file__).parent / "families" / name
        model.save_pretrained(folder)
        np.savez_compressed(
            folder / "golden.npz", token_ids=ids, padding_mask=mask, hidden=states.numpy()
        )


if __name__ == "__main__":
    main()
