"""A tiny captioner with random weights, saved and opened as one from the hub would be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from terradistill.data.drawn import draw_scenes
from terradistill.distillation.captioning import write_captions
from terradistill.errors import DataError, GeneratorError
from terradistill.hardware import Hardware
from terradistill.models.captioner import Captioner, whole

CPU = Hardware(torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP of random weights, with its processor."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    root = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", *(f"word{i}" for i in range(50))]
    (root / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(root / "vocab.txt"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = BlipTextConfig(
        vocab_size=len(words),
        encoder_hidden_size=16,
        bos_token_id=5,
        eos_token_id=3,
        sep_token_id=3,
        pad_token_id=0,
        **sizes,
    )
    config = BlipConfig(
        text_config=text.to_dict(), vision_config=BlipVisionConfig(image_size=32, patch_size=16, **sizes).to_dict()
    )
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(root / "model")
    image_processor = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(image_processor, tokenizer).save_pretrained(root / "model")
    return root / "model"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA of random weights, which has a chat template and can be asked."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<pad>", "<unk>", "<s>", "</s>", "<image>", "USER", "ASSISTANT", *(f"word{i}" for i in range(40))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template="{% for m in messages %}USER {% for c in m['content'] %}"
        "{{ '<image> ' if c['type'] == 'image' else c['text'] + ' ' }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT{% endif %}",
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=16, **sizes),
        text_config=LlamaConfig(
            vocab_size=len(words), num_key_value_heads=2, pad_token_id=0, bos_token_id=2, eos_token_id=3, **sizes
        ),
        image_token_index=4,
    )
    root = tmp_path_factory.mktemp("llava")
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(root)
    processor.save_pretrained(root)
    return root


def test_what_has_a_chat_template_is_asked(asked: Path) -> None:
    images = [np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8) for i in range(3)]
    captioner = Captioner.load(str(asked), CPU, instruction="word1 word2")
    together = captioner.describe(images)
    assert together == [captioner.describe([image])[0] for image in images]
    assert together[0]
    assert "USER" not in together[0].split()[:1], "the question is no part of the answer"
    other = Captioner.load(str(asked), CPU, instruction="word7 word8 word9").describe(images)
    assert other != together
    told = captioner.describe([images[0] // 4])
    assert told != together[:1], "the image is looked at"


def test_a_caption_that_was_cut_off_ends_with_a_whole_sentence_or_word() -> None:
    assert whole("a  forest by a\nlake", ended=True) == "a forest by a lake"
    assert whole("A forest. A lake lies bes", ended=False) == "A forest."
    assert whole("a forest by a la", ended=False) == "a forest by a"
    assert whole("forest", ended=False) == "forest"


def test_a_batch_is_described_as_each_alone(folder: Path) -> None:
    captioner = Captioner.load(str(folder), CPU)
    images = [np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8) for i in range(3)]
    together = captioner.describe(images)
    assert len(together) == 3
    assert together == [captioner.describe([image])[0] for image in images]


def test_captions_are_written_once_and_gone_on_with(folder: Path, tmp_path: Path) -> None:
    scenes = draw_scenes(tmp_path / "scenes", per_class=3, size=32, n_classes=2)
    captioner, out = Captioner.load(str(folder), CPU), tmp_path / "captions.jsonl"
    assert write_captions(scenes, out, captioner, batch_size=4) == 6
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({row["file_name"] for row in rows}) == 6
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:4]) + lines[4][:10])  # killed in the middle of a line
    assert write_captions(scenes, out, captioner, batch_size=4) == 2
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    captioner.instruction = "Count the roofs."
    with pytest.raises(DataError, match="asked for otherwise"):
        write_captions(scenes, out, captioner)


def test_what_is_no_caption_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(GeneratorError, match="image-text-to-text"):
        Captioner.load(str(tmp_path), CPU)
