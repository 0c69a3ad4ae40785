"""Every setting at its default; the data is named on the command line.

    python -m tf_finetune.main --config=configs/default.py --workdir=runs/mine \
      --config.data.path=FILE.csv --config.data.text=COLUMN --config.data.label=COLUMN

A recipe of your own is a copy of this file with the lines that differ.
`python -m tf_finetune.main --help` lists all settings.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    return FineTuneConfig()
