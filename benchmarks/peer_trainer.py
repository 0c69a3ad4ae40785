"""The peer: fine-tuning by the Hugging Face Trainer, torch on CPU.

Runs under the Python of its own environment (`benchmarks/requirements-peer.txt`) and
imports nothing of tf_finetune. It reads `train.jsonl`, `validation.jsonl` and
`test.jsonl` (`{"text": ..., "label": 0}` a line) from `--rows` and writes one JSON
object to `--out`: accuracies, times and versions.

    benchmarks/.venv-peer/bin/python benchmarks/peer_trainer.py \
        --rows=ROWS --model=MINILM_FOLDER --out=peer.json --learning-rate=5e-5 --seed=0
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

SPLITS = ("train", "validation", "test")


class Clock(transformers.TrainerCallback):
    """Notes when training began, when its first step was done and each epoch's score.

    Args:
        process_began: in seconds since 1970.
    """

    def __init__(self, process_began: float) -> None:
        self.process_began, self.began, self.first_step = process_began, 0.0, 0.0
        self.validation: list[float] = []
        self.validated_at: list[float] = []
        self.epoch_seconds: list[float] = []
        self.evaluating = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epoch_began = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epoch_seconds.append(time.perf_counter() - self.epoch_began)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first_step = self.first_step or time.perf_counter() - self.began

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        self.validation.append(metrics["eval_accuracy"])
        self.validated_at.append(time.time() - self.process_began)
        self.evaluating += metrics["eval_runtime"]


def read(options: argparse.Namespace, tokenizer: Any) -> dict[str, list[dict[str, Any]]]:
    """The three splits as tokenised rows, cut to `max_tokens` and not yet padded."""
    splits = {}
    for name in SPLITS:
        with (options.rows / f"{name}.jsonl").open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        tokens = tokenizer(
            [row["text"] for row in rows], truncation=True, max_length=options.max_tokens
        )
        splits[name] = [
            {"labels": row["label"], **{key: tokens[key][i] for key in tokens}}
            for i, row in enumerate(rows)
        ]
    return splits


def arguments(options: argparse.Namespace, folder: str) -> transformers.TrainingArguments:
    """The Trainer's settings: its defaults, and what makes it fast and picks the best epoch."""
    return transformers.TrainingArguments(
        output_dir=folder,
        seed=options.seed,
        learning_rate=options.learning_rate,
        lr_scheduler_type="linear",
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch,
        per_device_eval_batch_size=128,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_only_model=True,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
        bf16=options.bf16,
        dataloader_pin_memory=False,
    )


def freeze(model: Any, train: str) -> None:
    """Leaves trainable what `train` says: all, the head, or the last blocks and the head."""
    if train == "all":
        return
    blocks = model.base_model.encoder.layer
    count = 0 if train == "head" else int(train.removeprefix("last:"))
    model.base_model.requires_grad_(False)
    for block in blocks[len(blocks) - count :]:
        block.requires_grad_(True)


def accuracy(outputs: Any) -> dict[str, float]:
    """Share of rows whose largest logit is the label's."""
    return {"accuracy": float((outputs.predictions.argmax(-1) == outputs.label_ids).mean())}


def run(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Fine-tunes, keeps the epoch best on validation and scores it on test."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    transformers.set_seed(options.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    splits = read(options, tokenizer)
    classes = 1 + max(row["labels"] for rows in splits.values() for row in rows)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        options.model, num_labels=classes
    )
    freeze(model, options.train)
    clock = Clock(options.began)
    trainer = transformers.Trainer(
        model=model,
        args=arguments(options, folder),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
        callbacks=[clock],
    )
    trainer.train()
    trained = time.perf_counter() - clock.began
    test = trainer.predict(splits["test"]).metrics["test_accuracy"]
    return {
        "test_accuracy": test,
        "validation_accuracy": max(clock.validation),
        "validation": clock.validation,
        "validated_at": clock.validated_at,
        "train_seconds": trained,
        "first_step_seconds": clock.first_step,
        "examples_per_second": len(splits["train"]) / clock.epoch_seconds[-1],
        "steps": trainer.state.global_step,
        "steps_per_second": trainer.state.global_step / (trained - clock.evaluating),
        "rows": {name: len(rows) for name, rows in splits.items()},
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def main() -> None:
    """Reads the command line, runs, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True, help="folder of the JSONL splits")
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", default="all", help="all, head or last:K")
    parser.add_argument("--began", type=float, default=time.time(), help="seconds since 1970")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(options, folder)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
