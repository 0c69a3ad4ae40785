"""What Hugging Face calls the parts of BERT and DistilBERT in a checkpoint."""

from __future__ import annotations

# Parts of a block, and of the model; `{}` is the number of a block.
NAMES: dict[str, dict[str, str]] = {
    "bert": {
        "words": "bert.embeddings.word_embeddings",
        "positions": "bert.embeddings.position_embeddings",
        "segments": "bert.embeddings.token_type_embeddings",
        "embeddings_norm": "bert.embeddings.LayerNorm",
        "query": "bert.encoder.layer.{}.attention.self.query",
        "key": "bert.encoder.layer.{}.attention.self.key",
        "value": "bert.encoder.layer.{}.attention.self.value",
        "attended": "bert.encoder.layer.{}.attention.output.dense",
        "attention_norm": "bert.encoder.layer.{}.attention.output.LayerNorm",
        "inner": "bert.encoder.layer.{}.intermediate.dense",
        "outer": "bert.encoder.layer.{}.output.dense",
        "norm": "bert.encoder.layer.{}.output.LayerNorm",
        "pooler": "bert.pooler.dense",
        "classifier": "classifier",
    },
    "distilbert": {
        "words": "distilbert.embeddings.word_embeddings",
        "positions": "distilbert.embeddings.position_embeddings",
        "embeddings_norm": "distilbert.embeddings.LayerNorm",
        "query": "distilbert.transformer.layer.{}.attention.q_lin",
        "key": "distilbert.transformer.layer.{}.attention.k_lin",
        "value": "distilbert.transformer.layer.{}.attention.v_lin",
        "attended": "distilbert.transformer.layer.{}.attention.out_lin",
        "attention_norm": "distilbert.transformer.layer.{}.sa_layer_norm",
        "inner": "distilbert.transformer.layer.{}.ffn.lin1",
        "outer": "distilbert.transformer.layer.{}.ffn.lin2",
        "norm": "distilbert.transformer.layer.{}.output_layer_norm",
        "pooler": "pre_classifier",
        "classifier": "classifier",
    },
}
