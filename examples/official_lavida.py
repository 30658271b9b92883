"""SHIRG in a model of the official LaViDa code base, which must be installed.

python examples/official_lavida.py CHECKPOINT page.png "What is the total?"
"""

import sys

import torch
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_pretrained_model
from PIL import Image

from shirg.integrations.llava import disable_shirg, enable_shirg, pixels_for_shirg

checkpoint, page, question = sys.argv[1:4]
tokenizer, model, _, _ = load_pretrained_model(
    checkpoint, None, "llava_llada", device_map="cuda:0", torch_dtype="bfloat16"
)
model = model.eval().to(torch.bfloat16)  # as in its predict.py

conversation = conv_templates["llada"].copy()
conversation.append_message(conversation.roles[0], f"<image>\n{question}")
conversation.append_message(conversation.roles[1], None)
ids = tokenizer_image_token(conversation.get_prompt(), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")[None]

enable_shirg(model, budget=768, tokenizer=tokenizer)
pixels = pixels_for_shirg([Image.open(page)])  # float32, for the edges; the tower casts them
new = model.generate(
    ids.to(model.device),
    images=pixels.to(model.device),
    max_new_tokens=32,
    block_length=32,
    step_ratio=0.5,
    prefix_lm=True,
    tokenizer=tokenizer,
)
print(tokenizer.batch_decode(new, skip_special_tokens=True)[0])
disable_shirg(model)
