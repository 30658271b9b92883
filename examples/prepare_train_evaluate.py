"""The three steps as Python, small enough for a laptop.   python examples/prepare_train_evaluate.py"""

from shirg import (
    Lavida,
    SHIRGDatasetConfig,
    SHIRGDatasetProcessor,
    SHIRGEvaluationConfig,
    SHIRGEvaluator,
    SHIRGLoRAConfig,
    SHIRGLoRATrainer,
)
from shirg.data.loader import build_loaders

OUTPUT = "./shirg_example_output"


def main() -> None:
    # ------------------------------------------------------------- prepare
    processor = SHIRGDatasetProcessor(
        SHIRGDatasetConfig(base_dataset_size=12, ocr_enhancement_size=4, output_dir=f"{OUTPUT}/data")
    )
    train_loader, val_loader = build_loaders(processor.prepare_full_dataset(), batch_size=4)

    # ------------------------------------------------------------- train
    model = Lavida.from_pretrained("nano")
    config = SHIRGLoRAConfig(
        lora_rank=16, token_budgets=[512, 768], num_epochs=1, learning_rate=1e-4, output_dir=OUTPUT
    )
    results = SHIRGLoRATrainer(config, model).train(train_loader, val_loader)
    print(f"trained: {results['steps']} steps, validation loss {results['best_validation_loss']:.3f}")

    # ------------------------------------------------------------- evaluate
    model.load_adapter(f"{OUTPUT}/checkpoints/best_model")
    config = SHIRGEvaluationConfig(
        datasets=["documents"], token_budgets=[512, 768], sample_size=2, output_dir=f"{OUTPUT}/evaluation"
    )
    SHIRGEvaluator(config, model, model.tower).run_evaluation()
    print(f"report: {OUTPUT}/evaluation/evaluation_report.md")


if __name__ == "__main__":  # preparing starts worker processes, which import this file again
    main()
