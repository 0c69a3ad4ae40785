"""What a sentence of a film review speaks of: none, one or several of five aspects.

    python examples/write_review_tasks.py runs/review_tasks
    python -m tf_finetune.main --config=configs/review_aspects.py --workdir=runs/review_aspects

The first line writes the sentences and, by a list of words, their aspects, from the reviews in
requirements-demo.txt; the pretrained MiniLM is there too. Sentences of one review are whole in
one split of 80/10/10; 4,000 of the training sentences are used.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "runs/review_tasks/aspects.jsonl"
    config.data.text, config.data.label = "sentence", "aspects"
    config.data.group = "review"
    config.data.limit = 4_000
    config.model.preset = "minilm"
    config.model.task = "multi_label"
    return config
