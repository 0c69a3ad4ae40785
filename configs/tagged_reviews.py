"""Names, years and ratings in sentences of film reviews, tagged by a written rule.

    python examples/write_tagged_reviews.py runs/tagged_reviews.conll
    python -m tf_finetune.main --config=configs/tagged_reviews.py --workdir=runs/tags

3,460 sentences of 300 IMDb reviews with 852 entities, and the pretrained MiniLM, both from
requirements-demo.txt. Reviews are whole in one split of 80/10/10.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "runs/tagged_reviews.conll"
    config.data.group = "document"
    config.model.preset = "minilm"
    config.model.task = "token_classification"
    return config
