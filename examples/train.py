"""Prepare rendered pages and train one adapter for two budgets, small enough for a laptop.   python examples/train.py"""

from shirg import Lavida, SHIRGDatasetConfig, SHIRGDatasetProcessor, SHIRGLoRAConfig, SHIRGLoRATrainer
from shirg.data.loader import build_loaders

OUTPUT = "./shirg_example_output"


def main() -> None:
    # ------------------------------------------------------------- data
    data = SHIRGDatasetConfig(base_dataset_size=12, ocr_enhancement_size=4, output_dir=f"{OUTPUT}/data")
    loaders = build_loaders(SHIRGDatasetProcessor(data).prepare_full_dataset(), batch_size=4)

    # ------------------------------------------------------------- adapter
    model = Lavida.from_pretrained("nano")
    config = SHIRGLoRAConfig(
        lora_rank=16, token_budgets=[512, 768], num_epochs=1, learning_rate=1e-4, output_dir=OUTPUT
    )
    results = SHIRGLoRATrainer(config, model).train(*loaders)
    print(f"{results['steps']} steps, validation loss {results['best_validation_loss']:.3f}")
    print(f"adapter: {OUTPUT}/checkpoints/best_model")


if __name__ == "__main__":  # preparation starts worker processes, which import this file
    main()
