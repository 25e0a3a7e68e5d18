"""What `coma pretrain --help` and `coma finetune --help` say: our own settings and those that all use, on a page.

`--help-all` has the docstring of the command and every setting of the HF `TrainingArguments`, too.
"""

import argparse
import dataclasses
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from transformers import HfArgumentParser, TrainingArguments

from hub_scripts.common.arguments import CommandParser


__all__ = ["SettingsParser"]

# By section, the settings in the order in which one thinks of them; names in one line belong together. Without a text,
# a setting says itself what it is. What a command does not have is left out, what is in no section comes last.
SECTIONS: dict[str, dict[str, str]] = {
    "data": {
        "config": "",
        "data": "",
        "eval_data": "",
        "data_format": "",
        "eval_data_format eval_image_root": "of eval_data, where they are others than those of data",
        "image_root encoding csv_separator": "of a table: where its paths begin; as it is written",
        "turns": "",
        "max_length": "",
        "dialogue_max_length": "",
        "compression_instruction": "",
        "instructions": "",
        "on_bad_row": "",
        "max_image_pixels": "images with more are bad rows",
        "cache_pixels": "",
        "mmeb_sets mmeb_split": "of mmeb: sets [those of the paper], wording [original]",
    },
    "columns of a table, each with a NAME; with eval_ before it, those of eval_data": {},
    "what is trained": {
        "model": "",
        "dtype": "",
        "num_compression_tokens": "",
        "min_pixels max_pixels": "of an image, where model is a backbone",
        "lora_r": "",
        "lora_alpha lora_dropout use_dora": "its scale, its dropout, DoRA",
        "freeze_vision train_merger": "freeze the vision tower; but train its merger",
    },
    "loss": {
        "cross_entropy_weight": "",
        "kl_weight kl_temperature": "of the KL from the model that sees all of the input",
        "temperature": "",
        "bidirectional": "",
        "false_negative_margin": "",
        "hardness": "",
        "matryoshka_dims": "",
        "late_interaction_budgets late_interaction_weights": "nested states too, as 1x1 2x4; weights",
        "same_source_negatives": "",
        "own_negatives_only": "",
        "joint_weight temperature_learning_rate temperature_per_source": "experiments [all off]",
    },
    "batches": {
        "per_device_train_batch_size": "rows of a batch, on each process",
        "gradient_accumulation_steps": "batches of a step; of stage 2 they add no negatives",
        "mini_batch_tokens": "",
        "max_tokens_per_batch": "",
        "train_sampling_strategy": "",
        "sub_batch_size": "",
        "source_caps source_weights": "most rows of a source in an epoch; how often it comes",
        "dataloader_num_workers": "processes that read and prepare the rows",
    },
    "running": {
        "output_dir": "folder for checkpoints and for what is trained",
        "num_train_epochs max_steps": "how long; steps go before epochs",
        "learning_rate warmup_steps": "its peak; steps to it, below 1 a share of all",
        "lr_scheduler_type": "",
        "bf16 gradient_checkpointing": "mixed precision, on a GPU that has it; less memory",
        "seed": "of the order of the rows and of a new adapter",
        "eval_strategy": "when to evaluate: no, steps or epoch",
        "keep_best early_stopping_patience": "best checkpoint by this metric; evaluations to wait for it",
        "logging_steps save_steps": "steps between lines of the log, between checkpoints",
        "report_to": "none, tensorboard, wandb …",
        "resume_from_checkpoint": "true goes on where an interruption was",
    },
}
COLUMNS = next(title for title, lines in SECTIONS.items() if not lines)
WIDTHS = 80, 119  # the least and the most columns of a page
NAMES = 35  # columns of the names


class SettingsParser(CommandParser, HfArgumentParser):
    """
    The parser of a training command, with a short `--help` and a long `--help-all`.

    Args:
        types (`tuple[type, type]`): dataclasses of the settings: [`ModelAndData`] of the command, and the trainer's.
        command (`str`): name of the command.
        description (`str`): its docstring.
    """

    def __init__(self, types: tuple[type, type], command: str, description: str) -> None:
        super().__init__(
            types,
            prog=f"coma {command}",
            usage=f"coma {command} [--config FILE] [--SETTING VALUE …]",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
        )
        self.add_argument("--config", help="YAML file, a line for each setting; or a recipe")
        self.add_argument("--help-all", action=_PrintAll, help="also the settings of the HF TrainingArguments")
        for action in self._actions:
            if action.default is None and action.choices is None and action.nargs != 0:
                action.type = _or_none(action.type or str)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> tuple[argparse.Namespace, list[str]]:
        """As in [`CommandParser`]; a list that is only `none` is none."""
        values, unknown = super().parse_known_args(*args, **kwargs)
        vars(values).update({name: None for name, value in vars(values).items() if value == [None]})
        return values, unknown

    def format_help(self) -> str:
        """A page: what the command is for, its use, and the settings that are ours or that everybody uses."""
        title, _, rest = (self.description or "").partition("\n\n")
        use = [line for line in rest.splitlines() if line.startswith(f"  {self.prog} ")]
        lines = [f"usage: {self.usage}", "", title, "", *use, "", *self._shown(self._page())]
        lines.append(f"In brackets: the default. `{self.prog} --help-all` has all settings, `coma recipes` examples.")
        return "\n".join(lines) + "\n"

    def format_all(self) -> str:
        """The docstring, and every setting."""
        page = self._page()
        others = sorted(self._settings().keys() - _names(page) - {*self._columns()})
        page["all others, of the HF TrainingArguments"] = dict.fromkeys(others, "")
        lines = [f"usage: {self.usage}", "", (self.description or "").strip(), "", *self._shown(page)]
        return "\n".join(lines) + "\n"

    def _page(self) -> dict[str, dict[str, str]]:
        """The sections as this command has them; what is ours and in none of them comes last."""
        known, ours = self._settings(), self._ours()
        page = {
            title: {line: text for line, text in lines.items() if line in ours or (text and _first(line) in known)}
            for title, lines in SECTIONS.items()
        }
        further = (name for name in known if name in ours - _names(page) - {*self._columns()})
        page["running"] |= dict.fromkeys(further, "")
        return page

    def _shown(self, page: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
        known, ours = self._settings(), self._ours()
        for title, lines in page.items():
            yield f"{title}:"
            if title == COLUMNS:
                names = " ".join(f"--{name}" for name in self._columns() if not name.startswith("eval_"))
                yield from textwrap.wrap(names, _width() - 2, initial_indent="  ", subsequent_indent="  ")
            for line, text in lines.items():
                actions = [known[name] for name in line.split()]
                yield from _described(actions, _sense(actions[0]) if line in ours or not text else text)

    def _columns(self) -> list[str]:
        names = [field.name for field in dataclasses.fields(self.dataclass_types[0].columns)]
        return names + [f"eval_{name}" for name in names]

    def _settings(self) -> dict[str, argparse.Action]:
        """By name; of a switch that is on, the option that turns it on or off."""
        return {action.dest: action for action in self._actions if action.dest != "help" and action.nargs != 0}

    def _ours(self) -> set[str]:
        """Settings that `TrainingArguments` does not have, or that say here what they are."""
        of_hf = {field.name: field.metadata for field in dataclasses.fields(TrainingArguments)}
        fields = [field for kind in self.dataclass_types for field in dataclasses.fields(kind)]
        names = {field.name for field in fields if field.metadata != of_hf.get(field.name)}
        return {"config"} | names - {"remove_unused_columns"}  # which can be nothing else than it is


class _PrintAll(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, "help", nargs=0, default=argparse.SUPPRESS, help=kwargs["help"])

    def __call__(self, parser: SettingsParser, *args: Any) -> None:
        sys.stdout.write(parser.format_all())
        parser.exit()


def _names(page: Mapping[str, Iterable[str]]) -> set[str]:
    return {name for lines in page.values() for line in lines for name in line.split()}


def _first(line: str) -> str:
    return line.partition(" ")[0]


def _or_none(kind: Any) -> Any:
    """The type of a setting that is `None` by default: `none` or `null` on a command line are that."""

    def parse(text: str) -> Any:
        return None if text in ("none", "null") else kind(text)

    parse.__name__ = getattr(kind, "__name__", "")
    return parse


def _described(actions: list[argparse.Action], sense: str) -> list[str]:
    """Names, sense and defaults, in as many lines as they take."""
    names = "  " + ", ".join(f"--{action.dest}" for action in actions)
    defaults = [_written(action.default) for action in actions]
    if any(defaults) and not sense.endswith("]"):
        sense += f" [{', '.join(default or 'none' for default in defaults)}]"
    begin = f"{names}  ".ljust(NAMES)
    return textwrap.wrap(sense, _width(), initial_indent=begin, subsequent_indent=" " * NAMES, break_on_hyphens=False)


def _sense(action: argparse.Action) -> str:
    """The help of a setting as the half of a line."""
    text = " ".join((action.help or "").split()).removesuffix(".")
    words = list(action.choices or ())
    if words and not all(word in text for word in words):
        text += f": {', '.join(words[:-1])} or {words[-1]}"
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _written(default: Any) -> str:
    """A default as it would be given; nothing for none."""
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default in (None, "", [], {}) else str(getattr(default, "value", default))


def _width() -> int:
    least, most = WIDTHS
    return min(max(shutil.get_terminal_size().columns, least), most)
