"""One question about one page, by LaViDa's own path and at three budgets.   python examples/answer.py"""

from shirg import Lavida
from shirg.data.render import render_page

page = render_page("pie", seed=4, text_px=(22, 30), split="heldout").image  # or PIL.Image.open("page.png")
question = "What is the share of Cows?"
model = Lavida.from_pretrained("nano")  # or a folder in LaViDa's layout, or a hub id

print(f"{question}\nlowres: {model.answer(page, question, mode='lowres')}")
for budget in (256, 512, 768):
    print(f"shirg, {budget} of 2304 tokens: {model.answer(page, question, mode='shirg', budget=budget)}")
