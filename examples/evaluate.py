"""Score and time vision paths on two questions, with the adapter of train.py if there is one.   python examples/evaluate.py"""

from pathlib import Path

from shirg import Lavida, SHIRGEvaluationConfig, SHIRGEvaluator

OUTPUT = Path("./shirg_example_output")

model = Lavida.from_pretrained("nano")
adapter = OUTPUT / "checkpoints" / "best_model"
if adapter.is_dir():
    model.load_adapter(adapter)
config = SHIRGEvaluationConfig(
    datasets=["documents"],
    modes=["lowres", "shirg"],
    token_budgets=[512, 768],
    sample_size=2,
    output_dir=OUTPUT / "evaluation",
)
results = SHIRGEvaluator(config, model, model.tower).run_evaluation()
for one in results["scores"]:
    print(f"{one['variant']}, {one['metric']}: {one['score']:.2f} [{one['low']:.2f}, {one['high']:.2f}]")
print(f"report: {OUTPUT}/evaluation/evaluation_report.md")
