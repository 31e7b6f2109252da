"""Fine-tune a vision-language model with TRL on streamed stories: the user shows pictures, the assistant tells.

    pip install 'openstory_hf[torch,trl]'
    python scripts/train_trl_vlm.py FOLDER [--model Qwen/Qwen2.5-VL-3B-Instruct] [--length 4] [--max-steps 10]

FOLDER is written by `openstory build`; a dataset on the Hub works as well, for it is read by plain `load_dataset`.
Without `--model` a tiny LLaVA with random weights is trained, offline, to show that the pieces fit.

`ChatCollator` trains the assistant's turns alone and shortens long stories by whole frames. TRL's own collator trains
prompts and placeholders too, unless the chat template marks what is generated, and refuses a story cut in a picture.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
import transformers
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

from openstory_hf.collate.chat import ChatCollator
from openstory_hf.testing import tiny_tokenizer
from openstory_hf.views import batched, features, to_messages, windows

TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ': ' }}{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}{{ '<image>' }}{% else %}{{ block['text'] }}{% endif %}{% endfor %}{{ '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)


def tiny_llava(texts: Iterable[str]) -> tuple[Any, Any]:
    """A LLaVA of some 10,000 weights, and its processor, which knows the words of some texts."""
    size = {"height": 28, "width": 28}
    tokenizer = tiny_tokenizer(["user: assistant: ", *texts])
    processor = transformers.LlavaProcessor(
        # the variant on Pillow does not ask for torchvision
        image_processor=transformers.models.clip.image_processing_pil_clip.CLIPImageProcessorPil(
            size=size, crop_size=size
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**shape, image_size=28, patch_size=14),
        text_config=transformers.LlamaConfig(
            **shape,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=processor.image_token_id,
        vision_feature_select_strategy="default",
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, and return the loss of every step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="built folder, or dataset on the Hub")
    parser.add_argument("--split", default="train")
    parser.add_argument("--model", help="name on the Hub or folder (default: a tiny one with random weights)")
    parser.add_argument("--text", default="captions", help='column of the texts, such as "referential_captions"')
    parser.add_argument("--prompt", default="Tell this story, one picture at a time.")
    parser.add_argument("--length", type=int, default=4, help="frames per story")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens per story; the last frames go first")
    parser.add_argument("--max-steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=2, help="stories")
    parser.add_argument("--learning-rate", type=float, default=1e-2, help="for --model rather 1e-5")
    parser.add_argument("--out", help="folder for the trained model")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    transformers.set_seed(given.seed)

    stories = load_dataset(given.folder, split=given.split, streaming=True)
    if given.model:
        model = transformers.AutoModelForImageTextToText.from_pretrained(given.model)
        processor = transformers.AutoProcessor.from_pretrained(given.model)
    else:
        some = stories.select_columns([given.text]).take(1000)
        model, processor = tiny_llava([given.prompt, *(text for row in some for text in row[given.text])])
    # pictures stay encoded up to the collator, and few enough wait in the buffer to fit into memory
    shorter = batched(partial(windows, length=given.length, stride=given.length))
    chats = (
        stories.decode(False)
        .shuffle(seed=given.seed, buffer_size=100)
        .map(shorter, batched=True, batch_size=8)
        .map(
            partial(to_messages, text=given.text),
            remove_columns=stories.column_names,
            features=features(to_messages),
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model,
            SFTConfig(
                output_dir=given.out or folder,
                max_steps=given.max_steps,
                per_device_train_batch_size=given.batch_size,
                learning_rate=given.learning_rate,
                lr_scheduler_type="constant",
                bf16=torch.cuda.is_available(),
                use_cpu=not torch.cuda.is_available(),
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                seed=given.seed,
            ),
            data_collator=ChatCollator(
                processor=processor, prompt=given.prompt, max_length=given.max_length, truncate="newest"
            ),
            train_dataset=chats,
            processing_class=processor,
        )
        trainer.train()
        if given.out:
            trainer.save_model()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss: {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")
    return losses


if __name__ == "__main__":
    main()
