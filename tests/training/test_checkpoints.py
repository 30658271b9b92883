"""Checkpoints by their numbers, and journals that end with one."""

from __future__ import annotations

from shirg.files import append_line, read_lines
from shirg.training import checkpoints


def test_latest_is_by_number_and_complete(tmp_path, caplog):
    files = (*checkpoints.ADAPTER_FILES, checkpoints.OPTIMIZER_FILE, checkpoints.STATE_FILE)
    for name in ("checkpoint-9", "checkpoint-100", "checkpoint-200", "checkpoint-x", "best_model"):
        (tmp_path / name).mkdir()
        for file in files[: 2 if name == "checkpoint-200" else None]:
            (tmp_path / name / file).touch()
    assert checkpoints.find_latest(tmp_path).name == "checkpoint-100"
    assert "checkpoint-200 is incomplete" in caplog.text
    checkpoints.rotate(tmp_path, None)
    checkpoints.rotate(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best_model", "checkpoint-200", "checkpoint-x"]
    assert checkpoints.find_latest(tmp_path / "nowhere") is None


def test_journal_survives_a_torn_line_and_rewinds(tmp_path):
    journal = tmp_path / "a.jsonl"
    for step in (1, 2, 3):
        append_line(journal, {"step": step})
    with open(journal, "a") as handle:
        handle.write('{"step": 4, "lo')
    assert [entry["step"] for entry in read_lines(journal)] == [1, 2, 3]
    checkpoints.rewind(journal, 2)
    append_line(journal, {"step": 3, "again": True})
    assert read_lines(journal) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]
