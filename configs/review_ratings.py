"""How many points of ten a film review gives, from the rest of its words: regression.

    python examples/write_review_tasks.py runs/review_tasks
    python -m tf_finetune.main --config=configs/review_ratings.py --workdir=runs/review_ratings

The first line writes the reviews that say so, without the words that do, from
requirements-demo.txt; the pretrained MiniLM is there too. A review is cut to 256 tokens.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "runs/review_tasks/ratings.jsonl"
    config.data.text, config.data.label = "review", "points"
    config.model.preset = "minilm"
    config.model.sequence_length = 256
    config.model.task = "regression"
    return config
