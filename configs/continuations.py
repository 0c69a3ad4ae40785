r"""A language model learns to go on with the beginning of a film review, by adapters.

    python examples/write_continuations.py runs/continuations
    python -m tf_finetune.main --config=configs/continuations.py --workdir=runs/goes_on

The first line writes 4,000 sentences of Rotten Tomatoes (requirements-demo.txt), halved. The
pretrained GPT-2 of 124M parameters is fetched by KerasHub; where there is no network, a small
one with random weights, written there too, shows that all of it works, within a minute:

    python -m tf_finetune.main --config=configs/continuations.py --workdir=runs/goes_on \
      --config.model.preset=runs/continuations/tiny_gpt2 --config.phases=full \
      --config.fit.learning_rate=3e-3
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "runs/continuations/rows.jsonl"
    config.data.text, config.data.label = "prompt", "response"
    config.model.preset = "gpt2_base_en"
    config.model.task = "causal_lm"
    config.phases = "lora"
    config.fit.packing = True
    config.fit.global_batch = 16
    config.fit.eval_batch = 16
    return config
