"""A causal language model that responds to prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from tf_finetune.data_checks import LANGUAGE
from tf_finetune.model.fidelity import use_graph_tokens
from tf_finetune.model.headed import HeadedTask, _Hidden
from tf_finetune.model.packing import for_packed_rows


@keras.saving.register_keras_serializable("tf_finetune")
class LanguageTask(HeadedTask):
    """A KerasHub `CausalLM` as a task of ours; called on token ids it gives its logits.

    Nothing is put on the backbone: the logits are those that it was pretrained with.
    `language_model` is the KerasHub model, of the same layers, with its `generate` for other
    samplers than the greedy one of `predict`.

    Args:
        backbone: of the language model.
        preprocessor: its own.
        language_model: the registered name of its class, as `keras_hub>GPT2CausalLM`.
        words: the mean number of response tokens of a training row, the unit of the loss.
        packed: `network` takes rows of several examples, as `packing.for_packed_rows`.

    Raises:
        UserError: if rows are to be packed, and cannot be.
    """

    column = "text"
    one_vector = False

    def __init__(
        self,
        backbone: keras_hub.models.Backbone,
        preprocessor: keras_hub.models.CausalLMPreprocessor,
        language_model: str,
        words: float = 1.0,
        packed: bool = False,
        **kwargs: Any,
    ) -> None:
        use_graph_tokens(preprocessor)
        made = keras.saving.get_registered_object(language_model)(
            backbone=backbone, preprocessor=preprocessor
        )
        made.compile(sampler="greedy", jit_compile=False)
        self.backbone, self.preprocessor = backbone, preprocessor
        keras_hub.models.Task.__init__(
            self, inputs=made.input, outputs=made.output, compile=False, **kwargs
        )
        plain = keras.Model(made.input, made.output, name="network")
        self._views = _Hidden(
            language_model=made,
            encoder=backbone,
            network=for_packed_rows(made) if packed else plain,
            scorer=plain,
            head=None,
        )
        self._language_model, self.words = language_model, words
        self.kind, self.class_names = LANGUAGE, ()
        self.dropout, self.target_mean, self.target_std = 0.0, 0.0, 1.0
        self.temperature = 1.0
        self._responding: dict[Any, Any] = {}

    @property
    def language_model(self) -> keras_hub.models.CausalLM:
        """KerasHub's model of the same layers."""
        return self._views.models["language_model"]

    def calibrate(self, temperature: float) -> None:
        """Not for a language model.

        Raises:
            ValueError: always.
        """
        raise ValueError("a language model is not calibrated")

    def predict(self, x: Any, batch_size: int = 16, **kwargs: Any) -> Any:
        """Responses to prompts, greedily, up to the preprocessor's `sequence_length` tokens.

        Args:
            x: a list of n prompts; or input that `keras.Model.predict` takes.
            batch_size: prompts a step.
            **kwargs: for `keras.Model.predict` where `x` is no prompts.

        Returns:
            A list of n strings.
        """
        if isinstance(x, np.ndarray) and x.dtype.kind in "UO":
            x = x.tolist()
        if not (isinstance(x, list | tuple) and all(isinstance(one, str) for one in x)):
            return keras.Model.predict(self, x, batch_size=batch_size, **kwargs)
        respond, found = self.responding(), dict[int, str]()
        order = sorted(range(len(x)), key=lambda i: len(x[i]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            written = respond(tf.constant([x[i] for i in chosen], tf.string)).numpy()
            found |= zip(chosen, (one.decode(errors="ignore") for one in written), strict=True)
        return [found[i] for i in range(len(x))]

    def responding(self) -> Any:
        """`respond` as one TensorFlow function of prompts (n,), traced once for the weights."""
        preprocessor: Any = self.preprocessor
        facts = preprocessor.sequence_length, self.backbone.compute_dtype
        # An adapter that was merged is no variable any more.
        key = *facts, *map(id, self.weights)
        if key not in self._responding:
            self._responding = {
                key: tf.function(
                    lambda prompts: respond(self.language_model, prompts),
                    input_signature=[tf.TensorSpec([None], tf.string)],
                    autograph=False,
                )
            }
        return self._responding[key]

    def copied(self) -> Self:
        """As of any task."""
        raise NotImplementedError("a language model trains on one device")

    def _own_config(self) -> dict[str, Any]:
        return {"language_model": self._language_model, "words": self.words}

    def get_config(self) -> dict:
        return {**keras_hub.models.Task.get_config(self), **self._own_config()}


def language_task(
    model: keras_hub.models.CausalLM, words: float = 1.0, *, packed: bool = False
) -> LanguageTask:
    """A KerasHub language model as a task; `words` and `packed` as for `LanguageTask`."""
    name = keras.saving.get_registered_name(type(model))
    return LanguageTask(model.backbone, model.preprocessor, name, words=words, packed=packed)


def respond(model: keras_hub.models.CausalLM, prompts: tf.Tensor) -> tf.Tensor:
    """Strings (n,): what a language model writes after prompts, strings (n,).

    Args:
        model: compiled with a sampler.
        prompts: cut to the preprocessor's `sequence_length`, which prompt and response share.
    """
    preprocessor = model.preprocessor
    tokenizer = preprocessor.tokenizer
    # TensorFlow Text ends some strings at a zero byte.
    clean = tf.strings.regex_replace(prompts, r"\x00", "")
    x = preprocessor.generate_preprocess(clean, sequence_length=preprocessor.sequence_length)
    x = _begun({name: tf.convert_to_tensor(values) for name, values in x.items()}, tokenizer)
    stops = stops_of(tokenizer)
    found = model.generate_step(x, stop_token_ids=stops)
    given, written = (tf.cast(one["padding_mask"], tf.bool) for one in (x, found))
    written = tf.logical_and(written, tf.logical_not(given))
    ids = tf.cast(found["token_ids"], tf.int32)
    for special in {*stops, *tokenizer.special_token_ids}:
        written = tf.logical_and(written, ids != special)
    return tokenizer.detokenize(tf.ragged.boolean_mask(ids, written))


def _begun(x: dict[str, tf.Tensor], tokenizer: Any) -> dict[str, tf.Tensor]:
    """With a token in rows without one, after which nothing could be written."""
    ids, mask = x["token_ids"], tf.cast(x["padding_mask"], tf.bool)
    empty = tf.logical_not(tf.reduce_any(mask, axis=1, keepdims=True))
    first = tf.logical_and(empty, tf.range(tf.shape(ids)[1]) == 0)
    begun = {
        "token_ids": tf.where(first, tf.cast(tokenizer.end_token_id, ids.dtype), ids),
        "padding_mask": tf.cast(tf.logical_or(mask, first), x["padding_mask"].dtype),
    }
    return x | begun


def stops_of(tokenizer: Any) -> Sequence[int]:
    """The tokens that end a text; Llama 3 has two."""
    found = [tokenizer.end_token_id, getattr(tokenizer, "end_token2_id", None)]
    return [int(one) for one in found if one is not None]
