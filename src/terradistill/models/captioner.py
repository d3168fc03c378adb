"""A vision-language model that says what is in a scene, by hub id or from a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terradistill.errors import GeneratorError, reason
from terradistill.hardware import Hardware

INSTRUCTION = "Describe this satellite image in one short sentence: land cover, objects, and where they are."


class Captioner:
    """Any model that transformers opens for "image-text-to-text"; one with a chat template is told what to do."""

    def __init__(
        self, processor: Any, model: Any, instruction: str = INSTRUCTION, max_tokens: int = 40, *, name: str = ""
    ) -> None:
        self.name, self.processor, self.model = name, processor, model.eval().requires_grad_(False)
        # One without a chat template cannot be asked anything.
        self.instruction = instruction if getattr(processor, "chat_template", None) else ""
        self.max_tokens = max_tokens
        tokenizer = getattr(processor, "tokenizer", processor)
        tokenizer.padding_side = "left"  # what is generated follows the prompt

    @classmethod
    def load(cls, source: str, hardware: Hardware, *, instruction: str = INSTRUCTION) -> "Captioner":
        """Open a folder or a hub id; no code that comes with it is run.

        Raises:
            GeneratorError: there is no such model, the hub cannot be reached, or it is of another kind.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        known: dict[str, Any] = {"local_files_only": Path(source).is_dir(), "trust_remote_code": False}
        try:
            processor = AutoProcessor.from_pretrained(source, **known)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                source, dtype=hardware.learning.half or torch.float32, use_safetensors=True, **known
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise GeneratorError(
                f"The caption model {source} cannot be loaded ({reason(error)}): give the hub id or folder of an "
                "image-text-to-text model, and check the network."
            ) from error
        return cls(processor, loaded.to(hardware.device), instruction, name=source)

    @torch.inference_mode()
    def describe(self, images: Sequence[NDArray[np.uint8]]) -> list[str]:
        """One caption for each uint8 image (H, W, 3), as one batch; the same images get the same captions."""
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images]
        if self.instruction:
            asked = [{"type": "image"}, {"type": "text", "text": self.instruction}]
            prompt = self.processor.apply_chat_template(
                [{"role": "user", "content": asked}], add_generation_prompt=True
            )
            inputs = self.processor(
                text=[prompt] * len(pictures), images=[[p] for p in pictures], padding=True, return_tensors="pt"
            )
        else:
            inputs = self.processor(images=pictures, return_tensors="pt")
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        told = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        given = inputs.get("input_ids")
        if given is not None and not self.model.config.is_encoder_decoder:
            told = told[:, given.shape[1] :]
        texts = self.processor.batch_decode(told, skip_special_tokens=True)
        # What came to its end has a token there that is no word: the end itself, or padding after it.
        ends = set(getattr(self.processor, "tokenizer", self.processor).all_special_ids)
        return [whole(text, ended=last in ends) for text, last in zip(texts, told[:, -1].tolist(), strict=True)]


def whole(text: str, *, ended: bool) -> str:
    """A caption on one line; one that was cut off ends with its last whole sentence, or else with its last whole word.

    Args:
        text: what a model said.
        ended: it came to its end, and not to the bound of its length.
    """
    text = " ".join(text.split())
    if ended:
        return text
    sentences, stop, _ = text.rpartition(". ")
    return sentences + "." if stop else text.rpartition(" ")[0] or text
