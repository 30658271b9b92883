"""`shirg describe`: names, numbers on the screen and in the file, mistakes in one line."""

from __future__ import annotations

import dataclasses
import json

import pytest

from shirg import cli
from shirg.cli import describe
from shirg.errors import UserError
from tests.tiny import tiny_config, tiny_tokenizer


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["describe", *map(str, arguments)])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


@pytest.fixture
def folder(tmp_path):
    """A checkpoint folder with its config.json and nothing else."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(tiny_config("dream", mm_patch_merge_type="spatial_unpad").raw))
    return path


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["llada-8b", "dream-7b", "nano", "folder"])
def test_fits_the_terminal_and_cuts_no_number(name, columns, folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = run(capsys, folder if name == "folder" else name)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= columns
    assert "\u2026" not in out
    for path in ("lowres", "hd", "shirg-512", "shirg-768", "shirg-1024", "highres", "multiview-768"):
        assert sum(line.startswith(f"{path} ") for line in out.splitlines()) >= 2


def test_training_memory_on_the_screen_and_in_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys, "llada-8b", "--train", "--token-budgets", 768, "--json", tmp_path / "found.json")
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    rows = json.loads((tmp_path / "found.json").read_text())["training_memory"]
    assert [(row["ratio"], row["batch_size"]) for row in rows] == [
        (ratio, batch) for ratio in (768, "pooled") for batch in (1, 4, 8)
    ]
    assert rows[1]["plain"]["total"] < 40e9 < rows[2]["plain"]["total"]  # what is promised holds with a batch of 4
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "shirg-768 4 16.9 16.0 0.227 0.323 33.3 18.8" in lines


def test_a_narrow_terminal_cuts_no_number(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = run(capsys, "llada-8b", "--answer-tokens", 2048, "--steps", 1024)
    assert "\u2026" not in out


def test_the_promised_numbers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    _, out, _ = run(capsys, "llada-8b")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "LoRA, rank 16 215 K 215,040 860 KB 0.0025% of all" in lines
    assert "hd 5 x 27x27 14x14 + 28x(28+1) 1,008 1,072 562" in lines
    assert "shirg-768 23.7% (22.3%) 21.5% (20.2%) 66.6% (64.8%)" in lines
    assert "30% less for the visual tokens than hd: met at K = 512, not met at K = 768, 1024" in lines
    assert "30% less for the visual tokens than highres: met at K = 512, 768, 1024" in lines
    assert "64 prompt tokens (an assumption: --prompt-tokens)" in " ".join(lines)
    assert "The cache takes 512 KiB per token of the prefix." in " ".join(lines)


def test_flags_reach_the_numbers_and_the_file_has_them(folder, tmp_path, capsys):
    flags = (
        "--image-size",
        "640x480",
        "--prompt-tokens",
        10,
        "--answer-tokens",
        16,
        "--steps",
        8,
        "--dtype",
        "float32",
    )
    target = tmp_path / "deep" / "costs.json"
    run(capsys, folder, *flags, "--token-budgets", 100, "--json", target)
    found = json.loads(target.read_text())
    assert found["model"] == str(folder) and found["published"] is False
    assert found["scenario"] == {
        "image_size": [640, 480],
        "prompt_tokens": 10,
        "answer_tokens": 16,
        "steps": 8,
        "dtype": "float32",
    }
    rows = {row["path"]: row for row in found["paths"]}
    assert rows["hd"]["tokens"] == 834 and rows["shirg-100"]["prefix_tokens"] == 111
    assert rows["hd"]["kv_bytes"] == 844 * 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes
    assert found["weight_bytes"]["total"] == 4 * found["parameters"]["total"]


def test_of_a_hub_id_only_the_config_is_fetched(folder, capsys, monkeypatch):
    asked = []

    def fetch(*arguments, **keywords):
        asked.append((*arguments, keywords))
        return str(folder / "config.json")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    code, out, _ = run(capsys, "owner/name")
    assert code == 0 and asked == [("owner/name", "config.json", {"revision": None})]
    assert out.startswith("owner/name: ")
    run(capsys, "owner/name", "--revision", "v1")
    assert asked[1:] == [("owner/name", "config.json", {"revision": "v1"})]


def test_ids_that_the_config_does_not_name_are_the_tokenizers(folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "eos_token_id": None, "pad_token_id": None}))
    with pytest.raises(UserError, match="eos_token_id=151643 is outside the vocabulary"):
        describe.load_config(str(folder))
    tiny_tokenizer("dream").save_pretrained(folder)
    assert describe.load_config(str(folder)).eos_token_id == 257


def test_a_hub_that_does_not_answer_is_one_line(capsys, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    code, _, err = run(capsys, "owner/name")
    assert code == 2 and err.count("\n") == 1
    assert "could not be downloaded (ConnectionError: no network)" in err and "llada-8b" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["llada8b"], "did you mean llada-8b?"),
        (["lavida"], 'or a hub id such as "owner/name"; did you mean llada-8b?'),
        (["phi"], "; built-in shapes: llada-8b, dream-7b"),
        (["./nowhere"], "no such folder"),
        (["llada-8b", "--revision", "v1"], "--revision: got v1, but llada-8b is a built-in shape"),
        (["nano", "--revision", "v1"], "'nano' is not a hub id"),
        (["."], "contains no config.json"),
        (["nano", "--image-size", "1000"], "must be width x height, such as 1000x1000"),
        (["nano", "--image-size", "0x10"], "--image-size: got '0x10'"),
        (
            ["nano", "--token-budgets", "3000"],
            "--token-budgets: got 3000, must be at most 2304, the grid at 672 pixels",
        ),
        (
            ["nano", "--image-resolution", "100"],
            "--image-resolution: got 100, must be a multiple of 14 from 14 to 1,792",
        ),
        (["nano", "--token-budgets", "512", "512"], "names one twice"),
        (["nano", "--steps", "64"], "steps: got 64 for 32 answer tokens"),
        (["nano", "--dtype", "int4"], "bfloat16"),
        ([], "MODEL"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_help_explains_every_flag(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run(capsys, "--help")
    text = " ".join(out.replace("\u2502", " ").split())
    assert code == 0 and max(map(len, out.splitlines())) <= 120
    for field in dataclasses.fields(describe.Flags):
        assert field.name.replace("_", "-") in text or field.name == "model"
    for word in ("llada-8b", "dream-7b", "nano", "Only config.json is read", "An assumption"):
        assert word in text


@pytest.mark.parametrize(
    ("count", "parameters", "size"),
    [(0, "0", "0 B"), (999, "999", "999 B"), (4096, "4.10 K", "4.10 KB"), (16_869_674_048, "16.9 B", "16.9 GB")],
)
def test_counts_in_words(count, parameters, size):
    assert describe.scaled(count) == parameters
    assert describe.size(count) == size


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0, "MB", "-"),
        (1, "GFLOP", "<0.001"),
        (4.2e7, "GFLOP", "0.042"),
        (1.2e13, "TFLOP", "12.0"),
        (5.87e14, "TFLOP", "587"),
    ],
)
def test_quantities_have_three_figures(value, unit, shown):
    assert describe.quantity(value, unit) == shown


def test_the_resolution_of_a_run_can_be_described(tmp_path, capsys):
    """What refuses a budget says what helps, and that does."""
    code, _, err = run(capsys, "nano", "--token-budgets", 3000)
    assert code == 2 and "a larger --image-resolution has more" in err
    target = tmp_path / "found.json"
    code, _, _ = run(capsys, "nano", "--token-budgets", 3000, "--image-resolution", 896, "--train", "--json", target)
    tokens = {row["path"]: row["tokens"] for row in json.loads(target.read_text())["paths"]}
    assert code == 0 and (tokens["highres"], tokens["shirg-3000"]) == (4096, 3001)
