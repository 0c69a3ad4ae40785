"""Are two pieces of text from the same film review? A model of pairs.

    python examples/write_review_tasks.py runs/review_tasks
    python -m tf_finetune.main --config=configs/review_pairs.py --workdir=runs/review_pairs

The first line writes pairs of pieces, 40 words each, from the reviews in
requirements-demo.txt; the pretrained MiniLM is there too. The four pairs of two reviews are
whole in one split of 80/10/10; 4,000 of the training pairs are used, which takes about five
minutes on 2 cores. It is a hard task: 62% of the test pairs were right, where chance has 50%.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "runs/review_tasks/pairs.jsonl"
    config.data.text, config.data.text_pair = "first", "second"
    config.data.label, config.data.group = "relation", "group"
    config.data.limit = 4_000
    config.model.preset = "minilm"
    return config
