"""A line for each log, in the place of transformers' dicts; what is logged elsewhere is as it was."""

import pytest
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from trainers.log_lines import LogLines, ProgressBars, short_metrics


@pytest.fixture
def trained(make_coma, compression_rows, compression_trainer, capsys):
    """`trained(**settings)`: a trainer after its training, and the lines that it has written."""

    def make(**settings):
        rows = compression_rows(6)
        trainer = compression_trainer(make_coma(), rows, eval_dataset=rows, **settings)
        capsys.readouterr()
        trainer.train()
        return trainer, capsys.readouterr().out.splitlines()

    return make


def test_a_line_for_each_log(trained):
    trainer, lines = trained(max_steps=3, eval_strategy="steps", eval_steps=3)
    lines = [line for line in lines if not line.startswith("warning")]
    assert [line.split("  ")[0] for line in lines] == ["step 1/3", "step 2/3", "step 3/3", "eval 3/3", "done 3/3"]
    first, history = lines[0], trainer.state.log_history
    assert f"epoch {history[0]['epoch']:.2f}  loss {history[0]['loss']:.3f}  lr " in first
    assert "  accuracy " in first and " tokens/s" in first and " images/s" in first and first.endswith(" left")
    assert f"loss {history[3]['eval_loss']:.3f}  with other tokens " in lines[3]
    assert "left" not in lines[2] and lines[4].endswith(" s")
    # What is kept has the names and values that it had.
    assert {"loss", "grad_norm", "learning_rate", "tokens_per_second", "epoch", "step"} <= history[0].keys()
    assert "{" not in "".join(lines)


@pytest.mark.parametrize(
    ("disable_tqdm", "is_terminal", "bars"), [(True, True, 0), (False, True, 1), (False, False, 0)]
)
def test_bars_are_drawn_on_a_terminal_unless_they_are_switched_off(
    trained, monkeypatch, disable_tqdm, is_terminal, bars
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    trainer, lines = trained(max_steps=1, disable_tqdm=disable_tqdm)
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert kinds.count(LogLines) == 1 and kinds.count(ProgressBars) == bars
    assert PrinterCallback not in kinds and ProgressCallback not in kinds
    assert lines[0].startswith("step 1/1  epoch ")


def test_what_is_not_a_printer_of_transformers_stays(make_coma, compression_rows, compression_trainer):
    class Own(ProgressCallback):
        """Somebody's own bars."""

    class Other(TrainerCallback):
        """And something else."""

    trainer = compression_trainer(make_coma(), compression_rows(2), callbacks=[Own(), Other()])
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert Own in kinds and Other in kinds and LogLines in kinds


def test_other_processes_write_nothing(trained, capsys):
    trainer, _ = trained(max_steps=1)
    lines = LogLines()
    trainer.state.is_world_process_zero = False
    lines.on_log(trainer.args, trainer.state, trainer.control, {"loss": 1.0})
    assert capsys.readouterr().out == ""
    trainer.state.is_world_process_zero = True
    lines.on_log(trainer.args, trainer.state, trainer.control, {"loss": 1.0})
    assert "loss 1.000" in capsys.readouterr().out


def test_short_forms():
    logs = {"temperature": 0.05, "in_batch_accuracy": 0.5, "loss": 12.345, "learning_rate": 1e-4, "mine": 3}
    logs |= {"masked_false_negatives": 0.0, "pairs_per_second": 1234.5, "num_documents": 8.0, "step": 3}
    expected = ["loss 12.35", "lr 1.00e-04", "accuracy 0.500", "temp 0.050", "mine 3", "1,234 pairs/s"]
    assert short_metrics(logs) == expected
    evaluated = {"eval_loss": 0.0, "eval_p@1": 0.000627, "eval_runtime": 2.0, "eval_masked_false_negatives": 0.2}
    assert short_metrics(evaluated) == ["loss 0.000", "masked 0.200", "p@1 0.00063"]
    assert short_metrics({"eval_shop_loss": 1.0, "eval_shop_runtime": 2.0}) == ["shop_loss 1.000"]


def test_a_name_is_no_command_to_the_terminal(trained, capsys):
    trainer, _ = trained(max_steps=1)
    LogLines().on_log(trainer.args, trainer.state, trainer.control, {"loss": 1.0, "temperature/\x1b[2J\u202e": 0.1})
    written = capsys.readouterr().out
    assert "\x1b" not in written and "\u202e" not in written and "temperature/\\x1b[2J\\u202e 0.100" in written
